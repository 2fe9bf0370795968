"""What every `python -m msm_jax.<command>` shares: flags, exit codes, one message per mistake.

Exit codes: 0 success, 2 a user's error, 75 preempted after a clean save (run it again to go on).
"""

import contextlib
import errno
import os
import pathlib
import re
import sys
from collections.abc import Callable
from typing import TextIO

from absl import app, flags, logging
from ml_collections import config_flags

from msm_jax.errors import UserError

EXIT_USER_ERROR = 2
EXIT_PREEMPTED = 75


class Preempted(Exception):
    """The work was stopped from outside after its state was saved."""


def run(main: Callable[[], None], *, config: bool = True) -> None:
    """Parse flags and call `main`, turning its exceptions into exit codes.

    With `config` the flag `--config=path.py[:arg]` and its `--config.key=value` overrides are
    defined; an unknown key is an error.
    """
    if config:
        config_flags.DEFINE_config_file("config", None, "Path of a config file, as path.py[:arg].")
        flags.mark_flag_as_required("config")

    def guarded(argv):
        # What goes wrong in a library reaches us as an exception; its log would say it twice.
        logging.set_verbosity(logging.FATAL)
        if len(argv) > 1:
            raise UserError(f"unexpected arguments {argv[1:]}: every option is --name=value")
        main()

    try:
        app.run(guarded, flags_parser=_parse_flags)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or "the file system"
        print(
            f"error: {where}: {error.strerror}: free some space and run the same command again",
            file=sys.stderr,
        )
        sys.exit(EXIT_USER_ERROR)
    except RuntimeError as error:
        if "initialize backend" not in str(error):
            raise
        from msm_jax.doctor import why_not

        print("error: {}: {}".format(*why_not(str(error))), file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except Preempted as stop:
        print(f"stopped: {stop}", file=sys.stderr)
        sys.exit(EXIT_PREEMPTED)
    except KeyboardInterrupt:
        print("stopped: run the same command again to go on", file=sys.stderr)
        sys.exit(130)


def write(stream: TextIO, text: str) -> bool:
    """Prints a text at once; False where nobody reads the stream any more.

    What is written to it from then on goes nowhere: work goes on after `| head` has ended.
    """
    try:
        stream.write(text)
        stream.flush()
        return True
    except (OSError, ValueError):  # a pipe or a terminal that is gone, a closed file
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        return False


def _parse_flags(argv):
    try:
        return flags.FLAGS([_found(word) for word in argv])
    except flags.Error as error:
        raise UserError(str(error)) from error
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"flags: {error}") from error


def _found(word: str) -> str:
    """--config=configs/x.py[:arg] means ours where the working directory has no such file.

    A wheel carries `configs` inside of the package, a checkout has them beside it.
    """
    match = re.fullmatch(r"(--?config=)([^:]+\.py)(:.*)?", word, re.DOTALL)
    if not match or os.path.exists(match[2]):
        return word
    package = pathlib.Path(__file__).parent
    for path in (package / match[2], package.parent / match[2]):
        if match[2].startswith("configs/") and path.exists():
            return f"{match[1]}{path}{match[3] or ''}"
    raise UserError(f"--config={match[2]}: there is no such file, here or with msm_jax")
