"""Submits the nodes of a study that are missing to Slurm, each as a job that waits for its inputs.

A job has the study's directory and its node in its name, so that Slurm's queue says which nodes are
on their way: submitting again submits only the others. A job that ends with exit code 75, because
it was asked to stop and has saved, puts itself into the queue again.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

from msm_jax.command import EXIT_PREEMPTED
from msm_jax.errors import UserError
from msm_jax.files import sha256_text
from msm_jax.links import below
from msm_jax.study import devices, files, jobs
from msm_jax.study.claims import Claims
from msm_jax.study.evaluations import missing_key
from msm_jax.study.graph import Study

_OURS = ("array", "dependency", "error", "job-name", "kill-on-invalid-dep", "output", "requeue")
_SAVING = "TERM@120"  # sent so many seconds before the time limit
# Since Slurm 22.05 srun does not take it from sbatch.
_SETUP = '[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"'


def submit(
    study: Study,
    workdir: pathlib.Path,
    words: Sequence[str],
    options: Sequence[str],
    cpu_options: Sequence[str],
) -> list[str]:
    """Submit all that is missing and not in the queue, and a last job for the report.

    Args:
      words: of this command, of which those of the jobs are made.
      options: "name=value" of sbatch, for nodes that need an accelerator.
      cpu_options: the same for the others; none: `options`.

    Returns:
      A line for each job and for each node that waits for something else.

    Raises:
      UserError: submitit or Slurm are not there, or refuse.
    """
    with_accelerator = _options("--slurm", options)
    without = _options("--slurm_cpu", cpu_options) if cpu_options else with_accelerator
    workdir.mkdir(parents=True, exist_ok=True)
    with Claims(workdir) as claims, claims.hold("slurm"):
        submit_one = _submitter(workdir)
        name = lambda each: f"msm-{sha256_text(str(workdir.resolve()))[:8]}-{each}"
        queued, lines = _queue(), list[str]()
        there, waits = {}, set()  # id of a node -> its job; nodes that cannot be done yet
        for node in study.nodes.values():
            if files.read_mark(workdir, node) is not None:
                continue
            reason = missing_key(node.config) if node.kind == "judge" else ""
            if reason or waits.intersection(node.inputs.values()):
                waits.add(node.id)
                lines.append(f"{node.title}: waits: {reason or 'what it is made from waits'}")
                continue
            state = _state(queued.get(name(node.id), ("", "")))
            if name(node.id) not in queued:
                needed = [there[each] for each in node.inputs.values() if each in there]
                chosen = with_accelerator if devices.needs_accelerator(node) else without
                own = jobs.command(words, node, sys.executable)
                queued[name(node.id)] = submit_one(own, name(node.id), needed, chosen), ""
                state = "submitted"
            there[node.id] = queued[name(node.id)][0]
            lines.append(f"job {there[node.id]}: {node.title} ({node.id}): {state}")
        if name(jobs.REPORT) in queued:  # it may wait for fewer jobs
            last, _ = queued[name(jobs.REPORT)]
            subprocess.run(["scancel", "--state=PENDING", last], check=False)
        own = jobs.command(words, None, sys.executable)
        last = submit_one(own, name(jobs.REPORT), list(there.values()), without)
    return [*lines, f"job {last}: results and report: submitted"]


def run_job(command: list[str]) -> None:
    """What a job does: run a command, and wait in the queue again if it was preempted."""
    code = subprocess.run(command).returncode
    if code == EXIT_PREEMPTED:
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)
    sys.exit(code if code >= 0 else 128 - code)


def _options(flag: str, given: Sequence[str]) -> dict[str, str]:
    """Options of sbatch by name.

    Raises:
      UserError: one that is no option, or ours to set; no time limit.
    """
    found = {}
    for word in given:
        name, equals, value = word.strip().lstrip("-").partition("=")
        if not equals or not value:
            raise UserError(f"{flag}: {word!r} is not NAME=VALUE, an option of sbatch")
        if name in _OURS:
            raise UserError(f"{flag}: the study sets {name} itself: leave it out")
        found[name] = value
    if "time" not in found:
        raise UserError(f"{flag}: give a time limit of a job, such as {flag}=time=24:00:00")
    return found


def _submitter(workdir: pathlib.Path):
    """A function that submits one command and returns the id of its job."""
    try:
        import submitit
    except ImportError as error:
        raise UserError("--executor=slurm needs submitit: pip install 'msm_jax[slurm]'") from error
    if not (shutil.which("sbatch") and shutil.which("srun")):
        raise UserError("--executor=slurm: there is no sbatch here: use a machine of the cluster")
    # submitit writes pickles, which a job loads. Nobody else can write into a new directory.
    logs = below(workdir, "slurm")
    logs.mkdir(exist_ok=True)
    executor = submitit.SlurmExecutor(folder=tempfile.mkdtemp(dir=logs))

    def submit_one(
        command: list[str], name: str, needed: Sequence[str], options: Mapping[str, str]
    ) -> str:
        more = {"signal": _SAVING, **options, "requeue": True, "kill-on-invalid-dep": "yes"}
        if needed:
            more["dependency"] = ":".join(["afterok", *needed])
        executor.update_parameters(job_name=name, setup=[_SETUP], additional_parameters=more)
        try:
            return executor.submit(run_job, command).job_id
        except (RuntimeError, subprocess.CalledProcessError) as error:
            raise UserError(f"--executor=slurm: sbatch refuses: {error}") from error

    return submit_one


def _queue() -> dict[str, tuple[str, str]]:
    """The user's jobs that have not ended: name -> id, and why it waits (%r of squeue)."""
    command = ["squeue", "--me", "--noheader", "--states=PENDING,RUNNING,SUSPENDED"]
    done = subprocess.run([*command, "--format=%i|%r|%j"], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"--executor=slurm: squeue failed: {done.stderr.strip()}")
    found = [line.split("|", 2) for line in done.stdout.splitlines()]
    return {name: (job, reason) for job, reason, name in found}


def _state(queued: tuple[str, str]) -> str:
    """What to tell about a job in the queue: held ones never start by themselves."""
    job, reason = queued
    if "held" not in reason.lower():  # such as JobHeldUser, launch failed requeued held
        return "in the queue"
    return f"in the queue, held by Slurm ({reason}): start it with: scontrol release {job}"
