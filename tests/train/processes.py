"""Runs commands in forks of a server that has imported what they need."""

import atexit
import contextlib
import gc
import json
import multiprocessing
import os
import pathlib
import runpy
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
import types
import weakref
from multiprocessing import connection

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = """
import json
from ml_collections import ConfigDict

def get_config():
    config = ConfigDict(json.loads({json!r}))
    for group, name in (("model", "lora_targets"), ("samples", "prompts")):
        config[group][name] = tuple(config[group][name])
    config.keep_steps = tuple(config.keep_steps)
    return config.lock()
"""
# JAX's devices are not touched before the fork, so every child may choose its own number of them.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["msm_jax.train.loop", "msm_jax.train.aot", "orbax.checkpoint.v1", "msm_jax.api",
     "msm_jax.evals", "tensorboard.summary.writer.event_file_writer"]
)  # fmt: skip


def write_config(config, folder) -> pathlib.Path:
    path = pathlib.Path(folder) / "stage.py"
    path.write_text(CONFIG.format(json=config.to_json()))
    return path


class Command:
    """`python -m MODULE ARGUMENT...`, started; its face is that of subprocess.Popen."""

    def __init__(self, module: str, *arguments: str, cwd=ROOT, **environment: str):
        os.environ.setdefault("PYTHONPATH", str(ROOT))  # for the server, when it starts
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, True)
        self._outputs = [pathlib.Path(folder, name) for name in ("out", "err")]
        for path in self._outputs:
            path.touch()
        names = [str(path) for path in self._outputs]
        given = (module, arguments, str(cwd), {**os.environ, **environment}, names)
        self._process = SERVER.Process(target=_run, args=given)
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def finish(self, seconds: float = 600.0) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)"""
        self._process.join(seconds)
        out, err = (path.read_text() for path in self._outputs)
        assert self._process.exitcode is not None, err
        return self._process.exitcode, out, err


def _run(module: str, arguments: list[str], cwd: str, environment: dict, outputs: list[str]):
    _collect_garbage_rarely()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path.insert(0, cwd)
    for number, name in enumerate(outputs, start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), number)
    _let_each_process_keep_its_programs()
    sys.argv, code = [module, *arguments], 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _collect_garbage_rarely() -> None:
    """Which spares a process that traces a model a fifth of its time."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _let_each_process_keep_its_programs() -> None:
    """In JAX's compilation cache, which of several processes only the first one writes.

    On accelerators all of them run the same programs. On CPUs theirs differ, and each start of the
    others would compile for 12 seconds.
    """
    with contextlib.suppress(ImportError, AttributeError):  # another version of JAX is slower
        from jax._src import compiler, distributed

        write, state = compiler._cache_write, distributed.global_state

        def write_as_first(*given, **named):
            number, state.process_id = state.process_id, 0
            try:
                write(*given, **named)
            finally:
                state.process_id = number

        compiler._cache_write = write_as_first


class _Workers:
    """What `study.runner` needs of multiprocessing's "spawn"; the processes are forks."""

    Pipe = staticmethod(SERVER.Pipe)

    def Process(self, target, args, daemon):
        return SERVER.Process(
            target=_with_environment, args=({**os.environ}, target, args), daemon=daemon
        )


def _with_environment(environment: dict, target, args: tuple) -> None:
    _collect_garbage_rarely()
    os.environ.clear()
    os.environ.update(environment)
    target(*args)


# Stands for the module multiprocessing in `study.runner`.
FORKING = types.SimpleNamespace(connection=connection, get_context=lambda method: _Workers())


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(
    config, workdir, processes: int = 1, devices: int = 1, *flags: str, module="msm_jax.train"
) -> list[Command]:
    """The processes of a run, started; `devices` fake ones each.

    Another module than msm_jax.train is one beside `config`.
    """
    port = free_port()
    given = [f"--config={config}", f"--workdir={workdir}", *flags]
    joined = [f"--coordinator=127.0.0.1:{port}", f"--processes={processes}"]
    xla = f"--xla_force_host_platform_device_count={devices} {os.environ.get('XLA_FLAGS', '')}"
    return [
        Command(
            module,
            *given,
            *([*joined, f"--process={number}"] if processes > 1 else []),
            cwd=pathlib.Path(config).parent,
            XLA_FLAGS=xla,
        )
        for number in range(processes)
    ]


def finish(started: list[Command]) -> list[tuple[int, str]]:
    """(exit code, stderr) of each; none outlives the test."""
    try:
        return [(code, err) for code, _, err in [one.finish() for one in started]]
    finally:
        for process in started:
            process.kill()


def interrupt(started, run, number: signal.Signals, whom, steps: int) -> None:
    """Sends a signal once the run has made so many new steps."""
    before = len(losses(run))
    wait_until(lambda: len(losses(run)) > before + steps, started)
    for process in whom:
        process.send_signal(number)


def wait_until(state, started=()) -> None:
    """Polls for a state while all these processes live."""
    end = time.time() + 600
    while not state():
        assert time.time() < end
        for process in started:
            assert process.poll() is None, process.finish()
        time.sleep(0.02)


def losses(run) -> dict[int, float]:
    path = pathlib.Path(run) / "metrics.jsonl"
    if not path.exists():
        return {}
    found = {}
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # the line that a kill left incomplete
            continue
        if "loss" in row:
            found[row["step"]] = row["loss"]
    return found
