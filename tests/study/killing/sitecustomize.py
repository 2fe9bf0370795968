"""Python loads this in every process of a Slurm test: it ends something at a random moment.

$KILLS is a directory with files NUMBER-WHAT-OPERATIONS. Who comes to so many operations, of a
worker with files of the study, or of the submitting command with sbatch, removes the first file
that is meant for it, and ends WHAT. So each kill happens once, and nothing waits for a time.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys

KILLS, WORKDIR = os.environ.get("KILLS", ""), os.environ.get("KILLS_WORKDIR", "")
EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}
WORDS = " ".join(sys.orig_argv)
counted, looking = 0, False


def counts(event: str, arguments: tuple) -> bool:
    """Whether an operation is one of those that are counted in this process."""
    if "--executor=slurm" in WORDS:
        return event == "subprocess.Popen" and "sbatch" in str(arguments[1])
    return event in EVENTS and str(arguments[0]).startswith(FILES)


FILES = tuple(f"{WORKDIR}/{name}/" for name in ("stages", "evals"))


def next_kill() -> str:
    """The first kill that is left, if it is due here; it is then nobody else's."""
    for file in sorted(pathlib.Path(KILLS).iterdir())[:1]:
        _, what, operations = file.name.split("-")
        if (what == "submitter") == ("--executor=slurm" in WORDS) and counted >= int(operations):
            with contextlib.suppress(FileNotFoundError):
                file.unlink()
                return what
    return ""


def end(what: str) -> None:
    """End a process, a job, or Slurm's part of this machine."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if what in ("submitter", "worker"):
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "preempted":
        subprocess.run(["scancel", "--signal=TERM", job])
    elif what == "runner":
        os.kill(os.getppid(), signal.SIGKILL)
    elif what == "job":
        subprocess.run(["scancel", job])
    elif what == "slurmd":
        os.kill(slurmd(), signal.SIGKILL)
    elif what == "node":  # all that runs there, the guards of its jobs first
        os.kill(slurmd(), signal.SIGKILL)
        mine = f"SLURM_JOB_ID={job}".encode()
        stepds = [p for p in processes("cmdline", b"slurmstepd: [") if ours(p)]
        for pid in [*stepds, *(p for p in processes("environ", mine) if ours(p))]:
            if pid != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def slurmd() -> int:
    return int(pathlib.Path(os.environ["SLURM_CONF"]).with_name("slurmd.pid").read_text())


def processes(file: str, text: bytes) -> list[int]:
    """Processes that have this text in a file of /proc."""
    found = []
    for path in pathlib.Path("/proc").glob(f"[0-9]*/{file}"):
        with contextlib.suppress(OSError):
            found += [int(path.parent.name)] if text in path.read_bytes() else []
    return found


def ours(pid: int) -> bool:
    """Whether a process belongs to the Slurm of this test."""
    with contextlib.suppress(OSError):
        return (
            os.environ["SLURM_CONF"].encode() in pathlib.Path(f"/proc/{pid}/environ").read_bytes()
        )
    return False


def hook(event: str, arguments: tuple) -> None:
    global counted, looking
    if looking or not counts(event, arguments):
        return
    counted += 1
    looking = True
    if what := next_kill():
        end(what)
    looking = False


if KILLS and ("--executor=slurm" in WORDS or "--multiprocessing-fork" in WORDS):
    sys.addaudithook(hook)
