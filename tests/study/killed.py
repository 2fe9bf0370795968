"""Runs a study in forks of one process; ten times its runner or its worker is ended on the way.

    python tests/study/killed.py CONFIG WORKDIR [ROW ...]

With numbers of rows of PLAN it is ended as often as there are rows, and as they say.

Forks spare every start the seconds of importing. A worker counts what it does with files of WORKDIR
and sends a signal to itself or to its runner before a random one of these operations. So a kill can
come between any two of them, and nothing waits for a time. Prints [who, signal, exit code of the
runner] of each start as JSON; the last start, which nobody ends, finishes the study.
"""

import importlib
import json
import multiprocessing
import os
import pathlib
import random
import runpy
import signal
import sys
import threading

NEEDED = (
    "msm_jax.api", "msm_jax.evals", "msm_jax.study.report", "msm_jax.train.loop",
    "tensorboard.summary.writer.event_file_writer",
)  # fmt: skip
KILL, TERM = signal.SIGKILL, signal.SIGTERM
# (how many nodes are done, the most operations after that, who is ended, how)
PLAN = (
    (0, 3, "runner", KILL),  # the tokenizer
    (1, 60, "worker", TERM),  # the first stage
    (1, 60, "runner", TERM),
    (2, 60, "worker", KILL),
    (2, 60, "runner", KILL),
    (3, 60, "worker", TERM),
    (4, 12, "runner", TERM),  # evaluations
    (4, 12, "worker", TERM),
    (5, 12, "runner", KILL),
    (5, 12, "worker", KILL),
)
EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}
AGAIN = 10  # a stage that is asked to stop in its last step ends; the next node is asked again


def start(config: str, workdir: str, plan: tuple | None, operations: int) -> int:
    """The exit code of the study's command, in a fork; its workers are forks of that."""
    runner = os.fork()
    if runner:
        return os.waitstatus_to_exitcode(os.waitpid(runner, 0)[1])
    log = os.open(f"{workdir}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["msm_jax.study", f"--config={config}", f"--workdir={workdir}"]
    os.register_at_fork(after_in_child=lambda: as_worker(workdir, plan, operations))
    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda _: fork
    code = 0
    try:
        runpy.run_module("msm_jax.study", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        print(end.code, flush=True)
    finally:
        os._exit(code)


def as_worker(workdir: str, plan: tuple | None, operations: int) -> None:
    """What a worker that is forked needs: the plan."""
    signal.signal(TERM, signal.SIG_DFL)
    if plan is None:
        return
    done, _, who, number = plan
    victim = os.getpid() if who == "worker" else os.getppid()
    counted, looking = 0, False

    def hook(event: str, arguments: tuple) -> None:
        nonlocal counted, looking
        if looking or event not in EVENTS or not str(arguments[0]).startswith(workdir):
            return
        if counted == 0:
            looking = True  # what `marks` reads is not counted
            begun = marks(workdir) >= done
            looking = False
            if not begun:
                return
        counted += 1
        if counted >= operations and (counted - operations) % AGAIN == 0:
            os.kill(victim, number)
            if (who, number) == ("runner", KILL):
                threading.Event().wait()  # until the worker notices that it has no runner

    sys.addaudithook(hook)


def marks(workdir: str) -> int:
    """How many nodes are done."""
    done = [*pathlib.Path(workdir).glob("stages/*/stage.json")]
    for path in pathlib.Path(workdir).glob("evals/*/evals.json"):
        done += ["digest"] if "digest" in json.loads(path.read_text()) else []
    return len(done)


def main(config: str, workdir: str, *rows: str) -> None:
    for name in NEEDED:
        importlib.import_module(name)
    rng, ended = random.Random(0), []
    for plan in [PLAN[int(row)] for row in rows] or PLAN:
        code = start(config, workdir, plan, rng.randint(1, plan[1]))
        ended.append([plan[2], signal.Signals(plan[3]).name, code])
    print(json.dumps([*ended, ["nobody", "", start(config, workdir, None, 0)]]))


if __name__ == "__main__":
    main(*sys.argv[1:])
