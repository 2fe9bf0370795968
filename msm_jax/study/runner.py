"""Runs the nodes of a study that are missing, each as soon as its inputs are done.

Several runners can work in one directory, also on several machines: each claims a node before one
of its workers starts it (`claims`), and looks again later at what another one does.
"""

import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import re
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from msm_jax.command import EXIT_PREEMPTED, Preempted
from msm_jax.errors import UserError
from msm_jax.study import devices, files, times
from msm_jax.study.claims import Claims
from msm_jax.study.devices import Place
from msm_jax.study.display import Progress, last_step
from msm_jax.study.evaluations import missing_key
from msm_jax.study.graph import Study
from msm_jax.study.node import Node
from msm_jax.study.worker import work

_SAVING = 120.0  # seconds that workers have for saving once they are asked to stop
_LOOK_AGAIN = 1.0  # seconds until a node that another process does is looked at again
# Guesses, used only for the order of nodes, and only until some of their kind are done.
_TOKENS_PER_SECOND = 20_000.0
_SECONDS = {"evals": 5.0}


class Failed(Exception):
    """A node broke down in a way that is no user's mistake."""


@dataclasses.dataclass
class Worker:
    """A worker's process, seen from the runner."""

    process: Any
    connection: Connection
    place: Place
    node: Node | None = None
    since: float = 0.0


def run(
    study: Study, workdir: pathlib.Path, only: Node | None = None, together: bool = False
) -> dict[str, str]:
    """Do all that is missing, or one node, whose inputs must be there.

    Args:
      together: the same is running on the other hosts of a slice, as one process each.

    Returns:
      What could not be done yet: id of a node -> what it waits for, such as a provider's key.

    Raises:
      UserError: a mistake that a node found, or inputs of `only` are missing; what was done stays.
      Failed: a node broke down; the message names its log.
      Preempted: SIGTERM, SIGHUP or SIGINT came, and the workers have saved.
    """
    for node in study.stages.values():
        if node.kind == "base":
            files.link_base(workdir, node)
    wanted = [only] if only else study.nodes.values()
    todo = [node for node in wanted if files.read_mark(workdir, node) is None]
    if not todo:
        return {}
    if only:
        _check_inputs(study, workdir, only)
    with _signals() as received, Claims(workdir) as claims:
        runner = _Runner(study, workdir, todo, received, claims, together)
        try:
            for node in todo:
                if node.kind == "judge" and (reason := missing_key(node.config)):
                    runner.leave(node, reason)  # without starting a worker for it
            runner.work()
        finally:
            runner.close()
    left = runner.unavailable.items()  # another process may have had what this one lacks
    return {n: text for n, text in left if files.read_mark(workdir, study.nodes[n]) is None}


def _check_inputs(study: Study, workdir: pathlib.Path, node: Node) -> None:
    """UserError where an input of a node is not done."""
    inputs = [study.nodes[name] for name in node.inputs.values()]
    if missing := [each for each in inputs if files.read_mark(workdir, each) is None]:
        names = "".join(f"\n  {each.id}  {each.title}" for each in missing)
        raise UserError(
            f"--only={node.id}: {node.title} is made from what is not done in {workdir}:{names}"
            "\nrun these first"
        )


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


class _Runner:
    """Workers, and the nodes that are left for them, most urgent first."""

    def __init__(
        self,
        study: Study,
        workdir: pathlib.Path,
        todo: list[Node],
        received: list[int],
        claims: Claims,
        together: bool,
    ):
        self._study, self._workdir, self._received = study, workdir, received
        self._todo = {node.id: node for node in todo}
        self._claims, self._together = claims, together
        self._later: dict[str, float] = {}  # id of a node that others do -> when to look again
        platform = study.config["platform"] if any(map(devices.needs_accelerator, todo)) else "cpu"
        self._main = devices.places(platform, study.config["workers"])
        self._helpers = devices.helpers(self._main)
        self._speeds, self._spent = times.Speeds(workdir), times.Spent(workdir, claims)
        self._progress = Progress(todo)
        self._workers: list[Worker] = []
        self._problem: Exception | None = None
        self._oom_kills = _oom_kills()
        self.unavailable: dict[str, str] = {}  # id of a node -> what it waits for
        self._sort()

    def work(self) -> None:
        """Until nothing is left to do, or to wait for after a problem."""
        while self._running() or (self._ready() and not self._problem):
            if self._received and not self._problem:
                self._stop(Preempted("everything is saved; run the same command again to go on"))
            if not self._problem:
                self._start_nodes()
            self._stop_lost()
            waiting = [worker.connection for worker, _ in self._running()]
            for connection in multiprocessing.connection.wait(waiting, timeout=0.5):
                self._receive(next(w for w in self._workers if w.connection is connection))
            self._progress.running([node for _, node in self._running()], self._workdir)
            if self._problem and time.monotonic() > self._deadline:
                break
        if self._problem:
            raise self._problem

    def close(self) -> None:
        """End all workers."""
        self._progress.close()
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.connection.send(None)
            worker.process.join(0 if worker.node else 5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._spent.update()

    def _running(self) -> list[tuple[Worker, Node]]:
        return [(worker, worker.node) for worker in self._workers if worker.node]

    def _ready(self) -> list[Node]:
        """Nodes that wait for no other node and for no worker."""
        started = {node.id for _, node in self._running()}
        waits = lambda node: not self._todo.keys().isdisjoint(node.inputs.values())
        return [n for name, n in self._todo.items() if name not in started and not waits(n)]

    def _places(self, node: Node) -> tuple[Place, ...]:
        """The places that can run a node."""
        helped = self._helpers and not devices.needs_accelerator(node)
        return self._helpers if helped else self._main

    def _sort(self) -> None:
        """The most urgent nodes first: those that the longest chain of others waits for."""
        seconds: dict[str, float] = {}
        for node in reversed(self._study.nodes.values()):
            known = self._speeds.of(self._study, node, self._places(node)[0].text)
            if known is None:
                known = (node.tokens or 0) / _TOKENS_PER_SECOND or _SECONDS.get(node.kind, 1.0)
            seconds[node.id] = seconds.get(node.id, 0.0) + known
            for needed in node.inputs.values():
                seconds[needed] = max(seconds.get(needed, 0.0), seconds[node.id])
        order = sorted(self._todo.values(), key=lambda node: -seconds[node.id])
        self._todo = {node.id: node for node in order}

    def _left(self) -> str:
        """How long the rest takes, once something of its kind was measured."""
        running = {
            node.id: (time.monotonic() - worker.since, last_step(self._workdir, node))
            for worker, node in self._running()
        }
        todo, device = self._todo.values(), lambda node: self._places(node)[0].text
        found = times.estimate(self._study, todo, self._speeds, device, len(self._main), running)
        text = found.text(self._study.config["price_per_hour"]) if todo else ""
        return f"{text} left" if text else ""

    def _start_nodes(self) -> None:
        """Give the most urgent nodes whose inputs are done to free workers."""
        # A worker that has ended between two nodes is no problem: another one takes its place.
        self._workers = [w for w in self._workers if w.node or w.process.is_alive()]
        for node in self._ready():
            mine = {files.claim_name(other) for _, other in self._running()}
            if files.claim_name(node) in mine or time.monotonic() < self._later.get(node.id, 0.0):
                continue
            places = self._places(node)
            there = {w.place: w for w in self._workers if w.place in places}
            free = next((worker for worker in there.values() if not worker.node), None)
            if free is None and len(there) == len(places):
                continue
            free = free or self._start_worker(next(p for p in places if p not in there))
            if not self._claim(node, free):
                continue
            free.node, free.since = node, time.monotonic()
            with contextlib.suppress(BrokenPipeError):  # it has just ended, which is noticed below
                free.connection.send(node)

    def _claim(self, node: Node, worker: Worker) -> bool:
        """Whether a node is this worker's to do: no other process does it, or has done it."""
        name = files.claim_name(node)
        if self._together:
            return True  # one of the workers claims it for all
        if not self._claims.take(name, worker.process.pid):
            if node.id not in self._later:
                self._progress.note(node, f"is being done by {self._claims.holder(name)}")
            self._later[node.id] = time.monotonic() + _LOOK_AGAIN
            return False
        if files.read_mark(self._workdir, node) is None:
            return True
        self._claims.release(name)
        del self._todo[node.id]
        self._progress.finished(node, "done by another process", 0.0)
        return False

    def _stop_lost(self) -> None:
        """End workers whose node another process has taken over, because our claim was dead."""
        for worker, node in self._running():
            if files.claim_name(node) in self._claims.lost:
                worker.process.kill()
                worker.process.join()
                self._workers.remove(worker)

    def _start_worker(self, place: Place) -> Worker:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        with _environment(devices.environment(place)):
            given = (there, place, self._workdir, self._together)
            process = context.Process(target=work, args=given, daemon=True)
            process.start()
        there.close()  # so that the worker's end is the only one, and its death is noticed
        self._workers.append(Worker(process, here, place))
        return self._workers[-1]

    def _receive(self, sender: Worker) -> None:
        """A node has ended, or its worker has."""
        node, seconds = sender.node, time.monotonic() - sender.since
        assert node is not None
        try:
            outcome, text = sender.connection.recv()
        except (EOFError, OSError):
            sender.process.join(10)
            outcome, text = self._death(sender)
            self._workers.remove(sender)
        sender.node = None
        self._claims.release(files.claim_name(node))
        if outcome == "done":
            del self._todo[node.id]
            if mark := files.read_mark(self._workdir, node):
                self._speeds.add(mark)
            self._spent.update()
            self._sort()
            self._progress.finished(node, text, seconds, self._left())
        elif outcome == "waiting":
            self.leave(node, text)
        elif self._problem is None:
            log = files.directory(self._workdir, node) / "log.txt"
            failed = Failed(f"{node.title}: {text}\nlog: {log}\nwhat is done is kept")
            known = {"mistake": UserError(text), "preempted": Preempted(text)}
            self._stop(known.get(outcome, failed))

    def leave(self, node: Node, text: str) -> None:
        """Leave out a node, and all that needs it, until what it waits for is available."""
        del self._todo[node.id]
        self.unavailable[node.id] = text
        self._progress.waiting(node, text)
        for other in [*self._todo.values()]:
            if node.id in other.inputs.values() and other.id in self._todo:
                self.leave(other, text)

    def _death(self, worker: Worker) -> tuple[str, str]:
        """What a process that ended by itself was doing, and why it ended."""
        code, who = worker.process.exitcode, f"its worker (process {worker.process.pid})"
        if code == EXIT_PREEMPTED:
            return "preempted", f"{who} was asked to stop; run the same command again to go on"
        if code is None or code >= 0:
            return "died", f"{who} ended with exit code {code}"
        name = signal.Signals(-code).name
        if name != "SIGKILL":
            return "died", f"{who} was ended by {name}"
        memory = devices.more_memory(worker.place)
        if _oom_kills() > self._oom_kills:
            return "died", f"{who} was killed because the machine ran out of memory: {memory}"
        return "died", f"{who} was killed (SIGKILL); if for lack of memory: {memory}"

    def _stop(self, problem: Exception) -> None:
        """Start no new nodes; those that are running save and end."""
        self._problem, self._deadline = problem, time.monotonic() + _SAVING
        for worker, _ in self._running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.process.pid, signal.SIGTERM)


def _oom_kills() -> int:
    """How many processes the system has killed for lack of memory; 0 where it does not count."""
    with contextlib.suppress(OSError):
        match = re.search(r"^oom_kill (\d+)", pathlib.Path("/proc/vmstat").read_text(), re.M)
        return int(match[1]) if match else 0
    return 0


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Change os.environ for the processes that start meanwhile."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
