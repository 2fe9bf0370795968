"""A Slurm of one machine in a directory, and a study on it during which things are killed.

    python tests/study/slurm_cluster.py CONFIG WORKDIR [KILL ...]

KILL is one of submitter, worker, runner, preempted, job, slurmd, node; without any each comes three
times, in random order. Prints which, and how often the study was submitted.
"""

import contextlib
import getpass
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time

KILLS = ("submitter", "worker", "runner", "preempted", "job", "slurmd", "node")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
ReturnToService=2
SlurmdTimeout=5
KillWait=20
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """munged, slurmctld and one slurmd; they end with the block."""

    def __init__(self, folder: pathlib.Path):
        self._folder, self._processes = folder, dict[str, subprocess.Popen]()  # by program
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o400)
        ports = []
        for _ in range(2):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                ports.append(free.getsockname()[1])
        text = CONF.format(
            host=socket.gethostname().partition(".")[0], user=getpass.getuser(), folder=folder,
            controller=ports[0], daemon=ports[1],
        )  # fmt: skip
        (folder / "slurm.conf").write_text(text)
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self) -> "Cluster":
        at = lambda name: f"{self._folder}/{name}"
        words = [f"--{name}-file={at(name)}" for name in ("key", "pid", "seed")]
        with contextlib.ExitStack() as stack:
            stack.push(self.__exit__)  # also where something does not start
            self._start("munged", "--foreground", "--force", f"--socket={at('munge')}", *words)
            wait_for(lambda: os.path.exists(at("munge")))
            self._start("slurmctld", "-D", "-f", at("slurm.conf"))
            self.start_node()
            wait_for(lambda: self.run("sinfo", "--noheader", "--format=%T") == "idle")
            stack.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self.run("scancel", f"--user={getpass.getuser()}")
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: not self.queue(), 30)
        for process in reversed(self._processes.values()):
            process.terminate()
            process.wait()

    def start_node(self) -> None:
        """Start slurmd, unless it runs."""
        daemon = self._processes.get("slurmd")
        if daemon is None or daemon.poll() is not None:
            self._start("slurmd", "-D", "-f", f"{self._folder}/slurm.conf")

    def run(self, *words: str) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(words, env=self.environment, text=True, capture_output=True)
        return done.stdout.strip()

    def queue(self) -> str:
        """The jobs that have not ended."""
        return self.run("squeue", "--noheader", "--format=%i %j %T %r")

    def release(self) -> None:
        """Release the jobs that Slurm holds because slurmstepd was too slow to answer.

        On a machine with other work; as a user would do.
        """
        for line in self.run("squeue", "--noheader", "--format=%i|%r").splitlines():
            job, reason = line.split("|")
            if reason == "launch failed requeued held":
                self.run("scontrol", "release", job)

    def _start(self, *words: str) -> None:
        with (self._folder / f"{words[0]}.log").open("ab") as log:
            started = subprocess.Popen(words, env=self.environment, stdout=log, stderr=log)
        self._processes[words[0]] = started


def missing() -> str:
    """Why there can be no cluster here; "" if there can."""
    os.environ["PATH"] += ":/usr/sbin:/usr/local/sbin"  # of the daemons
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    return f"there is no {', '.join(absent)}: apt-get install slurm-wlm munge" if absent else ""


def wait_for(condition, seconds: float = 240.0) -> None:
    """Until it is true; TimeoutError after so long."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(condition)
        time.sleep(0.05)


def study(cluster: Cluster, config: str, workdir: pathlib.Path, kills, more=()) -> int:
    """Run a study on a cluster, and submit it again whenever nothing is left in the queue.

    Returns:
      How often it was submitted.
    """
    plan = workdir.with_name(f"{workdir.name}.kills")
    plan.mkdir()
    for number, (what, operations) in enumerate(kills):
        (plan / f"{number:03d}-{what}-{operations}").touch()
    hooks = pathlib.Path(__file__).with_name("killing")
    path = os.pathsep.join(filter(None, [str(hooks), os.environ.get("PYTHONPATH", "")]))
    own = {"KILLS": str(plan), "KILLS_WORKDIR": str(workdir), "PYTHONPATH": path}
    command = [sys.executable, "-m", "msm_jax.study", f"--config={config}", f"--workdir={workdir}"]
    command += ["--executor=slurm", "--slurm=time=1:00:00", *more]
    submitted, until = 0, time.monotonic() + 1800 + 300 * len(kills)
    while (
        (queued := cluster.queue()) or [*plan.iterdir()] or not (workdir / "report.html").exists()
    ):
        cluster.start_node()
        cluster.release()
        if time.monotonic() > until:
            raise TimeoutError(f"in the queue: {queued or 'nothing'}")
        if not queued:
            submitted += 1
            done = subprocess.run(
                command, env={**cluster.environment, **own}, text=True, capture_output=True
            )
            if done.returncode not in (0, -9):
                raise RuntimeError(done.stderr)
            if submitted > 5 * len(kills) + 5:
                raise RuntimeError(f"submitted {submitted} times: {done.stdout}")
        time.sleep(0.2)
    return submitted


def main(config: str, workdir: str, *kills: str) -> None:
    rng = random.Random()
    chosen = [*kills] or rng.sample(KILLS * 3, 3 * len(KILLS))
    plan = [(what, rng.randint(1, 3 if what == "submitter" else 40)) for what in chosen]
    with tempfile.TemporaryDirectory() as folder, Cluster(pathlib.Path(folder)) as cluster:
        print(plan, flush=True)
        count = study(cluster, config, pathlib.Path(workdir), plan)
    print(f"submitted {count} times")


if __name__ == "__main__":
    if reason := missing():
        sys.exit(reason)
    main(*sys.argv[1:])
