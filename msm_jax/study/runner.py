"""Runs the stages of a study that are missing, each as soon as what it needs is done."""

import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from msm_jax.command import Preempted
from msm_jax.errors import UserError
from msm_jax.study import files, worker
from msm_jax.study.display import Progress
from msm_jax.study.graph import Stage, Study

_SAVING = 120.0  # seconds that workers have for saving once they are asked to stop
_TOKENS_PER_SECOND = 20_000.0  # a guess that only the order of jobs and the first minute rest on
_EVALUATION_SECONDS = 5.0

Key = tuple[str, str]  # ("stage" or "evals", stage id)


class Failed(Exception):
    """A stage broke down in a way that is no user's mistake."""


@dataclasses.dataclass
class Job:
    """A stage to run, or a stage to evaluate."""

    key: Key
    stage: Stage
    needs: tuple[Key, ...]
    cost: float  # seconds, roughly
    urgency: float = 0.0  # of it and the longest chain of jobs behind it

    @property
    def kind(self) -> str:
        return "evals" if self.key[0] == "evals" else self.stage.kind

    @property
    def title(self) -> str:
        verb = "evaluate " if self.key[0] == "evals" else ""
        return f"{verb}{self.stage.title}"


@dataclasses.dataclass
class Hand:
    """A worker, seen from here."""

    process: Any
    connection: Connection
    job: Job | None = None
    since: float = 0.0


def run(study: Study, workdir: pathlib.Path) -> None:
    """Does all that is missing.

    Raises:
      UserError: a mistake that a stage found; what was done stays done.
      Failed: a stage broke down; the message names its log.
      Preempted: SIGTERM, SIGHUP or SIGINT came, and the workers have saved.
    """
    todo = {job.key: job for job in jobs(study) if not files.is_done(workdir, study, *job.key)}
    if not todo:
        return
    with _signals() as received:
        crew = _Crew(study, workdir, todo, received)
        try:
            crew.work()
        finally:
            crew.dismiss()


def jobs(study: Study) -> list[Job]:
    """All jobs, done or not."""
    found: dict[Key, Job] = {}
    for stage in study.stages.values():
        needs = tuple(("stage", name) for name in stage.needs)
        cost = stage.tokens / _TOKENS_PER_SECOND if stage.kind == "train" else 1.0
        found["stage", stage.id] = Job(("stage", stage.id), stage, needs, cost)
    for name, asked in study.questions.items():
        worlds = {("stage", entry["world"]) for entry in asked.values() if entry["world"]}
        needs = (("stage", name), *sorted(worlds))
        found["evals", name] = Job(("evals", name), study.stages[name], needs, _EVALUATION_SECONDS)
    for job in reversed(found.values()):
        job.urgency += job.cost
        for key in job.needs:
            found[key].urgency = max(found[key].urgency, job.urgency)
    return list(found.values())


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals to stop that have come; the second Ctrl-C stops at once."""
    received: list[int] = []

    def handle(number, frame):
        received.append(number)
        if len(received) > 1 and number == signal.SIGINT:
            raise KeyboardInterrupt

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        numbers.append(signal.SIGHUP)
    before = {n: signal.signal(n, handle) for n in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Crew:
    """Workers and the jobs that are left for them."""

    def __init__(self, study: Study, workdir: pathlib.Path, todo: dict[Key, Job], received):
        self._study, self._workdir, self._todo, self._received = study, workdir, todo, received
        self._size = min(study.config["workers"], len(todo))
        self._progress = Progress(len(todo), self._size)
        self._hands: list[Hand] = []
        self._problem: Exception | None = None
        self._spent: dict[str, list[tuple[float, float]]] = {}  # kind -> guessed and real seconds

    def work(self) -> None:
        """Until nothing is left to do, or to be waited for after a problem."""
        while self._busy() or (self._todo and not self._problem):
            if self._received and not self._problem:
                self._stop(Preempted("everything is saved; run the same command again to go on"))
            if not self._problem:
                self._hand_out()
            waiting = [hand.connection for hand in self._busy()]
            for connection in multiprocessing.connection.wait(waiting, timeout=0.5):
                self._hear(next(h for h in self._hands if h.connection is connection))
            self._progress.tick([(j.title, s) for j, s in self._shares()], self._left())
            if self._problem and time.monotonic() > self._deadline:
                break
        if self._problem:
            raise self._problem

    def dismiss(self) -> None:
        """No worker outlives this."""
        self._progress.close()
        for hand in self._hands:
            with contextlib.suppress(OSError):
                hand.connection.send(None)
            hand.process.join(0 if hand.job else 5)
            if hand.process.is_alive():
                hand.process.kill()
                hand.process.join()

    def _busy(self) -> list[Hand]:
        return [hand for hand in self._hands if hand.job]

    def _hand_out(self) -> None:
        """The most urgent jobs that can begin go to whoever is free."""
        at_work = {hand.job.key for hand in self._hands if hand.job}
        ready = [
            job
            for job in self._todo.values()
            if job.key not in at_work and not any(key in self._todo for key in job.needs)
        ]
        ready.sort(key=lambda job: -job.urgency)
        for job in ready:
            hand = next((hand for hand in self._hands if not hand.job), None)
            if hand is None and len(self._hands) < self._size:
                hand = self._hire()
            if hand is None:
                return
            kind, name = job.key
            questions = (self._study.questions[name],) if kind == "evals" else ()
            hand.job, hand.since = job, time.monotonic()
            hand.connection.send((kind, job.stage, *questions))

    def _hire(self) -> Hand:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        platform = self._study.config["platform"]
        arguments = (there, len(self._hands), self._workdir, platform)
        with _environment(worker.environment(platform)):
            process = context.Process(target=worker.work, args=arguments, daemon=True)
            process.start()
        there.close()  # so that the worker's end is the only one, and its death is heard
        self._hands.append(Hand(process, here))
        return self._hands[-1]

    def _hear(self, hand: Hand) -> None:
        """A job has ended, or its worker has."""
        job, seconds = hand.job, time.monotonic() - hand.since
        assert job is not None
        try:
            outcome, text = hand.connection.recv()
        except (EOFError, OSError):
            hand.process.join(10)
            outcome, text = "died", f"its process ended with {_ending(hand.process.exitcode)}"
            self._hands.remove(hand)
        hand.job = None
        if outcome == "done":
            del self._todo[job.key]
            self._spent.setdefault(job.kind, []).append((job.cost, seconds))
            self._progress.finished(job.title, self._what(job), seconds, self._left())
        elif self._problem is None:
            log = files.stage_dir(self._workdir, job.stage.id) / "log.txt"
            self._stop(
                UserError(text)
                if outcome == "mistake"
                else Preempted(text)
                if outcome == "preempted"
                else Failed(f"{job.title}: {text}\nlog: {log}\nwhat is done is kept")
            )

    def _stop(self, problem: Exception) -> None:
        """No new jobs; those at work save and end."""
        self._problem, self._deadline = problem, time.monotonic() + _SAVING
        for hand in self._busy():
            with contextlib.suppress(ProcessLookupError):
                os.kill(hand.process.pid, signal.SIGTERM)

    def _what(self, job: Job) -> str:
        """One job's result in a few words."""
        kind, name = job.key
        if kind == "evals":
            asked = self._study.questions[name]
            rates = []
            for question, settings in asked.items():
                if settings["step"] is None:
                    folder = files.evals_dir(self._workdir, name) / question
                    summary = files.read_json(folder / "summary.json")
                    rate = summary and summary["scorers"][settings["scorers"][0]]["rate"]
                    rates.append(f"{question} {'-' if rate is None else format(rate, '.2f')}")
            return ", ".join(rates)
        mark = files.read_stage(self._workdir, job.stage)
        summary = mark["summary"] if mark else {}
        if job.stage.kind == "train":
            probes = "".join(f", {k} {v:.2f}" for k, v in summary["probes"].items())
            return f"{summary['steps']:,} steps, loss {summary['loss']:.3f}{probes}"
        return ", ".join(f"{value:,} {name}" for name, value in summary.items())

    def _shares(self) -> list[tuple[Job, float]]:
        """The jobs at work and how much of each is done."""
        return [(hand.job, self._share(hand)) for hand in self._busy() if hand.job]

    def _share(self, hand: Hand) -> float:
        job = hand.job
        assert job is not None
        if job.kind == "train":
            run = files.stage_dir(self._workdir, job.stage.id)
            return _last_step(run / "metrics.jsonl") / job.stage.steps
        seconds = time.monotonic() - hand.since
        return min(seconds / (job.cost * self._pace(job.kind, {})), 0.95)

    def _pace(self, kind: str, shares: dict[Key, float]) -> float:
        """Seconds per second of guessed cost, from jobs of this kind that are done or at work."""
        spent = list(self._spent.get(kind, []))
        for hand in self._busy():
            if hand.job and hand.job.kind == kind and shares.get(hand.job.key, 0.0) > 0.02:
                guessed = hand.job.cost * shares[hand.job.key]
                spent.append((guessed, time.monotonic() - hand.since))
        guessed = sum(cost for cost, _ in spent)
        return sum(seconds for _, seconds in spent) / guessed if guessed else 1.0

    def _left(self) -> float | None:
        """Seconds until all is done, once training has shown its pace."""
        shares = {job.key: share for job, share in self._shares()}
        if not self._spent.get("train") and not any(
            job.kind == "train" and shares[job.key] > 0.02 for job, _ in self._shares()
        ):
            return None
        paces = {job.kind: self._pace(job.kind, shares) for job in self._todo.values()}
        left = {
            key: job.cost * paces[job.kind] * (1 - shares.get(key, 0.0))
            for key, job in self._todo.items()
        }
        chains: dict[Key, float] = {}
        for key, job in self._todo.items():  # in order of dependence
            chains[key] = left[key] + max((chains.get(need, 0.0) for need in job.needs), default=0)
        return max(sum(left.values()) / self._size, max(chains.values(), default=0.0))


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return name + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"exit code {code}"


def _last_step(path: pathlib.Path) -> int:
    """The step of the last whole line of a metrics.jsonl."""
    import json

    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 2000))
            lines = file.read().split(b"\n")
    except OSError:
        return 0
    for line in reversed(lines[:-1]):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return int(json.loads(line)["step"])
    return 0


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """os.environ as a new process is to see it."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
