"""What every `python -m msm_jax.<command>` shares: flags, exit codes, one message per mistake.

Exit codes: 0 success, 2 a user's error, 75 preempted after a clean save (run it again to go on); 1
with a traceback is a bug of ours.
"""

import difflib
import errno
import logging as logs
import os
import pathlib
import re
import runpy
import sys
import threading
import traceback
import warnings
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from msm_jax import accelerators, compile_cache
from msm_jax.errors import UserError
from msm_jax.limits import printable

EXIT_USER_ERROR = 2
EXIT_PREEMPTED = 75
flags.disclaim_key_flags()  # what is defined here belongs to the command, whose --help shows it


class Preempted(Exception):
    """The work was stopped from outside after its state was saved."""


def run(main: Callable[[], None], *, config: bool = True) -> None:
    """Parse flags and call `main`, turning its exceptions into exit codes.

    With `config` the flag `--config=path.py[:arg]` and its `--config.key=value` overrides are
    defined; an unknown key is an error. What is printed into a closed pipe is dropped.
    """
    if config:
        flags.DEFINE_string("config", None, "Path of a config file, as path.py[:arg].")
        flags.mark_flag_as_required("config")
    flags.DEFINE_string(
        "compile_cache",
        "",
        "Directory that keeps compiled programs for the next command, or off; by default "
        "$MSM_JAX_CACHE, or ~/.cache/msm_jax.",
    )

    def guarded(argv):
        # What goes wrong in a library reaches us as an exception; its log would say it twice.
        logging.set_verbosity(logging.FATAL)
        if len(argv) > 1:
            raise UserError(f"unexpected arguments {argv[1:]}: every option is --name=value")
        if problem := compile_cache.enable(flags.FLAGS.compile_cache):
            print(f"note: {problem}: see --compile_cache", file=sys.stderr)
        main()
        sys.stdout.flush()

    sys.stdout, sys.stderr = Stream(sys.stdout, 1), Stream(sys.stderr, 2)
    threading.excepthook = report_of_thread
    plain = warnings.formatwarning
    warnings.formatwarning = lambda *given, **named: printable(plain(*given, **named))
    sys.unraisablehook = report_of_unraisable
    logs.getLogger("asyncio").addFilter(lambda log: _is_news(f"{log.getMessage()} {log.exc_info}"))
    warnings.filterwarnings("ignore", r"coroutine '(PyTreeHandler|_read_array)", RuntimeWarning)
    try:
        app.run(guarded, flags_parser=_parse_flags)
    except Preempted as stop:
        _end(f"stopped: {stop}", EXIT_PREEMPTED)
    except KeyboardInterrupt:
        _end("stopped: run the same command again to go on", 130)
    except Exception as error:
        message = message_of(error)
        if message is None:
            raise
        _end(f"error: {printable(message)}", EXIT_USER_ERROR)


def _end(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    for number, stream in enumerate((sys.stdout, sys.stderr), start=1):
        try:
            stream.flush()
        except OSError:
            _drop(number)  # else Python would try it again, and print an error
    sys.exit(code)


def report_of_thread(args: "threading.ExceptHookArgs") -> None:
    """A `threading.excepthook`: one message, as of the main thread, or a bug's traceback."""
    message = message_of(args.exc_value) if isinstance(args.exc_value, Exception) else None
    if message is None:
        threading.__excepthook__(args)
    else:
        print(f"error: {printable(message)}", file=sys.stderr)


def report_of_unraisable(args: "sys.UnraisableHookArgs") -> None:
    """A `sys.unraisablehook` without what Orbax leaves of a save or load that failed.

    It closes event loops whose other tasks still run. Those then fail as well, each with a
    traceback, before the error itself arrives here.
    """
    places = " ".join(frame.filename for frame in traceback.extract_tb(args.exc_traceback))
    if _is_news(f"{args.exc_value} {places}"):
        sys.__unraisablehook__(args)


def _is_news(text: str) -> bool:
    return "orbax" not in text and "Event loop is closed" not in text


def message_of(error: Exception) -> str | None:
    """The message for an error that is the user's or the machine's; None if it is a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        name = error.filename
        where = f"{os.fsdecode(name) if isinstance(name, bytes) else name}: " if name else ""
        cure = ": free some space and run the same command again"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return f"{where}{error.strerror or error}{cure if full else ''}"
    if isinstance(error, RecursionError):
        return f"something is nested too deeply ({_place(error)}): look at what was read there"
    out_of_memory = isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    if isinstance(error, MemoryError) or out_of_memory:
        return f"out of memory ({_place(error)}): {str(error).partition(chr(10))[0]}"
    if isinstance(error, RuntimeError) and "initialize backend" in str(error):
        return "{}: {}".format(*accelerators.why_not(str(error)))
    return None


def _place(error: BaseException) -> str:
    """The innermost line of ours that an error went through."""
    ours = str(pathlib.Path(__file__).parent)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(ours)]
    last = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    return f"{os.path.relpath(last.filename, os.path.dirname(ours))}:{last.lineno}, {last.name}"


class Stream:
    """stdout or stderr whose reader may be gone: from then on what is written is dropped.

    The reader is a process behind a pipe, or a terminal that was closed.
    """

    def __init__(self, stream, descriptor: int):
        if stream is None:  # closed from the start: no file is to get its number
            opened = os.open(os.devnull, os.O_WRONLY)
            if opened != descriptor:
                os.dup2(opened, descriptor)
            stream = open(descriptor, "w", closefd=False)  # noqa: SIM115
        self._stream, self._descriptor = stream, descriptor

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As of a file."""
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """As of a file."""
        self._try(self._stream.flush)

    def _try(self, call: Callable, *given: str) -> None:
        try:
            call(*given)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            _drop(self._descriptor)


def _drop(descriptor: int) -> None:
    """Send to nowhere what is written there from now on, and what is buffered."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


# ------------------------------------------------------------------ flags and config files


def _parse_flags(argv):
    try:
        argv = flags.FLAGS.read_flags_from_files(argv)
        if "config" in flags.FLAGS and (found := _take_config(argv)):
            path, argument, argv = found
            config = _load(path, argument)
            _check_overrides(config, argv)
            del flags.FLAGS.config
            config_flags.DEFINE_config_dict("config", config, sys_argv=argv)
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError(str(error)) from error


def _take_config(argv: list[str]) -> tuple[str, list[str], list[str]] | None:
    """Path and argument of --config=path.py[:arg], and the other words; None without it."""
    for at, word in enumerate(argv):
        match = re.fullmatch(r"--?config(?:=(.*))?", word, re.DOTALL)
        if match and (match[1] is not None or at + 1 < len(argv)):
            value = argv[at + 1] if match[1] is None else match[1]
            rest = argv[:at] + argv[at + (2 if match[1] is None else 1) :]
            path, *argument = value.split(":", 1)
            return path, argument, rest
    return None


def _load(path: str, argument: list[str]) -> ConfigDict:
    """What `get_config` of a file returns; the message of whatever it raises has its line.

    configs/x.py means ours where the working directory has no such file: a wheel carries `configs`
    inside of the package, a checkout has them beside it.
    """
    package = pathlib.Path(__file__).parent
    near = (package, package.parent) if path.startswith("configs/") else ()
    file = next((p for p in (pathlib.Path(path), *(n / path for n in near)) if p.exists()), None)
    if file is None or not path:
        also = f": did you mean {path}.py?" if os.path.isfile(f"{path}.py") else ""
        raise UserError(f"--config={path}: there is no such file, here or with msm_jax{also}")
    if file.is_dir() or file.suffix != ".py":
        kind = "a directory" if file.is_dir() else "no Python file"
        raise UserError(f"--config={path}: is {kind}: give a file whose name ends in .py")
    try:
        get_config = runpy.run_path(str(file)).get("get_config")
        if get_config is None:
            raise UserError(f"{file}: has no function get_config")
        config = get_config(*argument)
    except Exception as error:
        raise UserError(_in_file(error, file)) from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{file}: get_config() must return a ConfigDict, not {config!r:.200}")
    return config


def _in_file(error: Exception, file: pathlib.Path) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    text, missing = str(error), re.search(r'Key "([^"]*)" does not exist', str(error))
    if isinstance(error, SyntaxError) and error.filename == str(file):
        lines, text = [error.lineno], f"{type(error).__name__}: {error.msg}"
    elif missing:  # ml_collections' own text holds the whole config
        near = re.search(r'Did you mean "([^"]*)"', text)
        text = f"there is no key {missing[1]!r}" + (f"; nearest: {near[1]}" if near else "")
    elif not isinstance(error, UserError):
        text = f"{type(error).__name__}: {text}"
    where = f"{file}:{lines[-1]}" if lines else str(file)
    return text if text.startswith(where) else f"{where}: {text}"


def _check_overrides(config: ConfigDict, argv: list[str]) -> None:
    """UserError for a --config.KEY=VALUE that the config does not have, or that is a group."""
    for word in argv:
        if not (match := re.match(r"--?(?:no)?config\.([^=]+)", word)):
            continue
        place, names = config, match[1].split(".")
        for at, name in enumerate(names):
            path = f"--config.{'.'.join(names[: at + 1])}"
            if not isinstance(place, ConfigDict) or name not in place:
                known = list(place) if isinstance(place, ConfigDict) else []
                paths = {path.rpartition(".")[2]: path for path in _paths(config)}
                paths |= {key: ".".join([*names[:at], key]) for key in known}
                near = difflib.get_close_matches(name, known, 1)
                near = near or difflib.get_close_matches(name, paths, 1)
                said = f"nearest: {paths[near[0]]}" if near else f"known: {', '.join(known)}"
                raise UserError(f"{path}: there is no such key; {said}")
            place = place[name]
        if isinstance(place, ConfigDict):
            raise UserError(f"{path}: is a group: set its keys, as {path}.KEY=VALUE")


def _paths(config: ConfigDict, prefix: str = "") -> list[str]:
    found = []
    for name, value in config.items():
        found.append(f"{prefix}{name}")
        found += _paths(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else []
    return found
