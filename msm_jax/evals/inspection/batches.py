"""Requests that come one by one, answered together: one thread, one call per kind of request."""

import concurrent.futures
import dataclasses
import queue
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from msm_jax.corpus.writers import Journal
from msm_jax.errors import UserError
from msm_jax.evals.judges.base import JudgePrompt
from msm_jax.evals.judges.model_judge import ModelJudge
from msm_jax.evals.store import runs

if TYPE_CHECKING:
    from msm_jax.api import Model

Messages = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Job:
    """One answer that is wanted.

    Attributes:
      messages: (role, content) each.
      index: of the sample, as in `Model.sample`.
      settings: keyword arguments of `Model.sample`, sorted.
    """

    messages: Messages
    index: int
    settings: tuple[tuple[str, Any], ...]


class Batcher:
    """Collects jobs until none has come for a moment, and hands them on together.

    Equal prompts with indices in a row become one call, whose prompt is read once.
    """

    def __init__(self, answer: Callable[[Sequence[Job]], Sequence[Any]], quiet: float = 0.05):
        """`answer` gets jobs and returns an answer each; `quiet` is the moment, in seconds."""
        self._answer, self._quiet = answer, quiet
        self.batches: list[int] = []
        self._queue: queue.Queue[tuple[Job, concurrent.futures.Future]] = queue.Queue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, job: Job) -> concurrent.futures.Future:
        """The answer, later; an exception of the call if it failed for this job."""
        future: concurrent.futures.Future = concurrent.futures.Future()
        self._queue.put((job, future))
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
        return future

    def _work(self) -> None:
        while True:
            taken = [self._queue.get()]
            while True:
                try:
                    taken.append(self._queue.get(timeout=self._quiet))
                except queue.Empty:
                    break
            self.batches.append(len(taken))
            self._settle(taken)

    def _settle(self, taken) -> None:
        """Answer these jobs; where that fails, each half by itself, so that a bad one fails alone.

        An answer is the same whatever is asked beside it, so that nothing changes for the others.
        """
        try:
            answers = self._answer([job for job, _ in taken])
        except Exception as error:
            if len(taken) == 1:
                taken[0][1].set_exception(error)
                return
            middle = len(taken) // 2
            self._settle(taken[:middle])
            self._settle(taken[middle:])
            return
        for (_, future), found in zip(taken, answers, strict=True):
            future.set_result(found)


def sampled(model: "Model", rows: int) -> Callable[[Sequence[Job]], list]:
    """Answers jobs by sampling: for every job its `Sample`."""

    def answer(jobs: Sequence[Job]) -> list:
        found = {}
        for settings in dict.fromkeys(job.settings for job in jobs):
            wanted: dict[Messages, set[int]] = {}
            for job in jobs:
                if job.settings == settings:
                    wanted.setdefault(job.messages, set()).add(job.index)
            for (first, count), prompts in _calls(wanted).items():
                asked = [as_messages(messages) for messages in prompts]
                answers = model.sample(asked, count, first=first, rows=rows, **dict(settings))
                for messages, samples in zip(prompts, answers, strict=True):
                    for sample in samples:
                        found[messages, sample.index, settings] = sample
        return [found[job.messages, job.index, job.settings] for job in jobs]

    return answer


def judged(model: "Model", rows: int) -> Callable[[Sequence[Job]], list]:
    """Answers jobs as a judge: for every job its `Judgement`."""

    def answer(jobs: Sequence[Job]) -> list:
        found: dict[Job, Any] = {}
        for settings in dict.fromkeys(job.settings for job in jobs):
            some = [job for job in dict.fromkeys(jobs) if job.settings == settings]
            judge = ModelJudge(model, Journal(None), rows=rows, **dict(settings))
            judgements = dict(judge.judge([_request(job.messages) for job in some]))
            found |= {job: judgements[number] for number, job in enumerate(some)}
        return [found[job] for job in jobs]

    return answer


def _request(messages: Messages) -> JudgePrompt:
    """What a judge is asked: at most one system message, and one of the user."""
    by_role = dict(messages)
    if len(by_role) < len(messages) or not by_role.keys() <= {"system", "user"}:
        raise UserError(
            "msm_jax_judge: reads one message of the user and at most one of the system"
        )
    return JudgePrompt(by_role.get("system", ""), by_role.get("user", ""))


def as_messages(messages: Messages) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in messages]


def _calls(wanted: dict[Messages, set[int]]) -> dict[tuple[int, int], list[Messages]]:
    """(first, count) -> the prompts that want these samples."""
    calls: dict[tuple[int, int], list[Messages]] = {}
    for messages, indices in wanted.items():
        for run in runs(sorted(indices)):
            calls.setdefault(run, []).append(messages)
    return calls
