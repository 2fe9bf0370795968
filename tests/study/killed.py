"""Runs a study in forks of one process, and kills its runner or worker at random moments.

    python tests/study/killed.py CONFIG WORKDIR FINISHED KILLS

FINISHED is the directory of the same study, which ran to its end. Prints [who, signal, exit code of
the runner] of every kill as JSON; the last run, which nobody kills, ends the study. Forks spare
every start the seconds of importing.
"""

import contextlib
import importlib
import itertools
import json
import multiprocessing
import os
import pathlib
import random
import runpy
import signal
import sys
import time

NEEDED = (
    "msm_jax.api", "msm_jax.evals", "msm_jax.study.report", "msm_jax.train.loop",
    "tensorboard.summary.writer.event_file_writer",
)  # fmt: skip


def start(config: str, workdir: str) -> int:
    """The runner's process id; its workers are forks too."""
    child = os.fork()
    if child:
        return child
    os.setpgid(0, 0)
    nowhere = os.open(f"{workdir}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    sys.argv = ["msm_jax.study", f"--config={config}", f"--workdir={workdir}"]
    os.register_at_fork(after_in_child=as_if_spawned)
    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda _: fork
    try:
        runpy.run_module("msm_jax.study", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    os._exit(code)


def as_if_spawned() -> None:
    """A process that is forked has its parent's lock and handlers; a worker of a study has not."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for link in pathlib.Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(link).endswith("/.lock"):
                os.close(int(link.name))


def files(workdir: str) -> int:
    """How many files there are; every start adds one of TensorBoard's, which do not count."""
    names = itertools.chain.from_iterable(names for _, _, names in os.walk(workdir))
    return sum(not name.startswith("events.out") for name in names)


def ended(runner: int) -> int | None:
    """The exit code of a runner that has ended."""
    found, status = os.waitpid(runner, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def children(process: int) -> list[int]:
    """Processes that a process has started."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            if int(stat.read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(stat.parent.name))
    return found


def kill(config: str, workdir: str, wanted: int, who: str, number: int) -> list:
    """Start the study, and kill its runner or its worker when there are so many files."""
    runner, killed = start(config, workdir), False
    while (code := ended(runner)) is None:
        workers = children(runner) if who == "worker" else []
        if files(workdir) >= wanted and (workers or who == "runner"):
            with contextlib.suppress(ProcessLookupError):  # the worker has just ended
                os.kill(runner if who == "runner" else workers[0], number)
            # A worker that is asked to stop in a stage's last step goes on with the next node.
            killed, wanted = True, files(workdir) + 1
        time.sleep(0.005)
    if not killed or not code:
        raise SystemExit(f"it ended with exit code {code} before it could be killed")
    return [who, signal.Signals(number).name, code]


def main(config: str, workdir: str, finished: str, kills: str) -> None:
    for name in NEEDED:
        importlib.import_module(name)
    rng, done, total = random.Random(0), [], files(finished)
    ways = itertools.cycle(
        itertools.product(("runner", "worker"), (signal.SIGKILL, signal.SIGTERM))
    )
    for left in range(int(kills), 0, -1):
        now = files(workdir)
        wanted = now + rng.randint(1, max(1, 2 * (total - now) // (left + 2)))
        done.append(kill(config, workdir, wanted, *next(ways)))
    code = os.waitstatus_to_exitcode(os.waitpid(start(config, workdir), 0)[1])
    if code:
        raise SystemExit(f"the last run ended with exit code {code}")
    print(json.dumps(done))


if __name__ == "__main__":
    main(*sys.argv[1:])
