"""Runs the nodes of a study that are missing, each as soon as its inputs are done."""

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
from msm_jax.study import files
from msm_jax.study.display import Progress
from msm_jax.study.graph import Study
from msm_jax.study.node import Node
from msm_jax.study.worker import environment, work

_SAVING = 120.0  # seconds that workers have for saving once they are asked to stop
_TOKENS_PER_SECOND = 20_000.0  # a guess, used only for the order of nodes
_SECONDS = {"evals": 5.0}


class Failed(Exception):
    """A node broke down in a way that is no user's mistake."""


@dataclasses.dataclass
class Worker:
    """A worker's process, seen from the runner."""

    process: Any
    connection: Connection
    node: Node | None = None
    since: float = 0.0


def run(study: Study, workdir: pathlib.Path) -> dict[str, str]:
    """Do all that is missing.

    Returns:
      What could not be done yet: id of a node -> what it waits for, such as a provider's key.

    Raises:
      UserError: a mistake that a node found; what was done stays done.
      Failed: a node broke down; the message names its log.
      Preempted: SIGTERM, SIGHUP or SIGINT came, and the workers have saved.
    """
    for node in study.stages.values():
        if node.kind == "base":
            files.link_base(workdir, node)
    urgency = _urgency(study)
    todo = [node for node in study.nodes.values() if files.read_mark(workdir, node) is None]
    todo.sort(key=lambda node: -urgency[node.id])
    if not todo:
        return {}
    with _signals() as received:
        runner = _Runner(study, workdir, todo, received)
        try:
            runner.work()
        finally:
            runner.close()
    return runner.unavailable


def _urgency(study: Study) -> dict[str, float]:
    """Guessed seconds of each node with the longest chain of nodes that needs it."""
    urgency = dict.fromkeys(study.nodes, 0.0)
    for name, node in reversed(study.nodes.items()):
        urgency[name] += node.tokens / _TOKENS_PER_SECOND or _SECONDS.get(node.kind, 1.0)
        for needed in node.inputs.values():
            urgency[needed] = max(urgency[needed], urgency[name])
    return urgency


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

    def __init__(self, study: Study, workdir: pathlib.Path, todo: list[Node], received: list[int]):
        self._platform, self._workdir, self._received = study.config["platform"], workdir, received
        self._todo = {node.id: node for node in todo}
        self._size = min(study.config["workers"], len(todo))
        self._progress = Progress(todo)
        self._workers: list[Worker] = []
        self._problem: Exception | None = None
        self.unavailable: dict[str, str] = {}  # id of a node -> what it waits for

    def work(self) -> None:
        """Until nothing is left to do, or to wait for after a problem."""
        while self._running() or (self._todo and not self._problem):
            if self._received and not self._problem:
                self._stop(Preempted("everything is saved; run the same command again to go on"))
            if not self._problem:
                self._start_nodes()
            waiting = [worker.connection for worker in self._running()]
            for connection in multiprocessing.connection.wait(waiting, timeout=0.5):
                self._receive(next(w for w in self._workers if w.connection is connection))
            nodes = [worker.node for worker in self._running() if worker.node]
            self._progress.running(nodes, self._workdir)
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

    def _running(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.node]

    def _start_nodes(self) -> None:
        """Give the most urgent nodes whose inputs are done to free workers."""
        started = {worker.node.id for worker in self._workers if worker.node}
        for name, node in self._todo.items():
            if name in started or any(needed in self._todo for needed in node.inputs.values()):
                continue
            free = next((worker for worker in self._workers if not worker.node), None)
            if free is None and len(self._workers) == self._size:
                return
            free = free or self._start_worker()
            free.node, free.since = node, time.monotonic()
            free.connection.send(node)

    def _start_worker(self) -> Worker:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        arguments = (there, len(self._workers), self._workdir, self._platform)
        with _environment(environment(self._platform)):
            process = context.Process(target=work, args=arguments, daemon=True)
            process.start()
        there.close()  # so that the worker's end is the only one, and its death is noticed
        self._workers.append(Worker(process, here))
        return self._workers[-1]

    def _receive(self, sender: Worker) -> None:
        """A node has ended, or its worker has."""
        node, seconds = sender.node, time.monotonic() - sender.since
        assert node is not None
        try:
            outcome, text = sender.connection.recv()
        except (EOFError, OSError):
            sender.process.join(10)
            outcome, text = "died", f"its process ended with {_ending(sender.process.exitcode)}"
            self._workers.remove(sender)
        sender.node = None
        if outcome == "done":
            del self._todo[node.id]
            self._progress.finished(node, text, seconds)
        elif outcome == "waiting":
            self._leave(node, text)
        elif self._problem is None:
            log = files.directory(self._workdir, node) / "log.txt"
            failed = Failed(f"{node.title}: {text}\nlog: {log}\nwhat is done is kept")
            known = {"mistake": UserError(text), "preempted": Preempted(text)}
            self._stop(known.get(outcome, failed))

    def _leave(self, node: Node, text: str) -> None:
        """Leave out a node, and all that needs it, until what it waits for is available."""
        del self._todo[node.id]
        self.unavailable[node.id] = text
        self._progress.waiting(node, text)
        for other in [*self._todo.values()]:
            if node.id in other.inputs.values() and other.id in self._todo:
                self._leave(other, text)

    def _stop(self, problem: Exception) -> None:
        """Start no new nodes; those that are running save and end."""
        self._problem, self._deadline = problem, time.monotonic() + _SAVING
        for worker in self._running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.process.pid, signal.SIGTERM)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return name + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"exit code {code}"


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
