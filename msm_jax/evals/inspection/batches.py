"""Requests that arrive one by one and are answered in batches, by one thread."""

import concurrent.futures
import contextlib
import dataclasses
import queue
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from msm_jax.corpus.writers import Journal
from msm_jax.errors import UserError
from msm_jax.evals.judges.base import Judgement, JudgePrompt
from msm_jax.evals.judges.model_judge import ModelJudge

if TYPE_CHECKING:
    from msm_jax.api import Model
    from msm_jax.sample import Sample

Messages = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Job:
    """A request for one sample."""

    messages: Messages  # (role, content) each
    index: int  # of the sample, as in `Model.sample`
    settings: tuple[tuple[str, Any], ...]  # keyword arguments of `Model.sample`, sorted


class Batcher:
    """Collects jobs until none has arrived for a moment, and answers them together."""

    def __init__(self, answer: Callable[[Sequence[Job]], Sequence[Any]], quiet: float = 0.05):
        """`answer` returns one result per job; `quiet` is the moment, in seconds."""
        self._answer, self._quiet = answer, quiet
        self.batches: list[int] = []  # their sizes
        self._queue: queue.Queue[tuple[Job, concurrent.futures.Future]] = queue.Queue()
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, job: Job) -> concurrent.futures.Future:
        """The future result, or the exception of the call if it failed for this job."""
        future: concurrent.futures.Future = concurrent.futures.Future()
        self._queue.put((job, future))
        return future

    def _work(self) -> None:
        while True:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    batch.append(self._queue.get(timeout=self._quiet))
            self.batches.append(len(batch))
            self._settle(batch)

    def _settle(self, batch: list[tuple[Job, concurrent.futures.Future]]) -> None:
        """Answer these jobs; if that fails, each half by itself, so that a bad job fails alone.

        A result does not depend on the other jobs of its batch, so nothing changes for them.
        """
        try:
            results = self._answer([job for job, _ in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            self._settle(batch[: len(batch) // 2])
            self._settle(batch[len(batch) // 2 :])
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)


def sample_jobs(model: "Model", rows: int, jobs: Sequence[Job]) -> list["Sample"]:
    """The sample of every job; jobs with the same settings are one call."""
    found: dict[Job, Sample] = {}
    for settings in dict.fromkeys(job.settings for job in jobs):
        some, draw = [job for job in jobs if job.settings == settings], dict(settings)
        prompts = list(dict.fromkeys(job.messages for job in some))
        limits = {(prompts.index(job.messages), job.index): draw["max_tokens"] for job in some}
        samples = model.stream(
            list(map(as_messages, prompts)), 1 + max(job.index for job in some),
            limits=lambda *place, of=limits: of.get(place, 0), rows=rows, **draw,
        )  # fmt: skip
        found |= {Job(prompts[each.prompt], each.index, settings): each for each in samples}
    return [found[job] for job in jobs]


def judge_jobs(model: "Model", rows: int, jobs: Sequence[Job]) -> list[Judgement]:
    """The judgement of every job, whose messages are a judge's request."""
    found: dict[Job, Judgement] = {}
    for settings in dict.fromkeys(job.settings for job in jobs):
        some = [job for job in dict.fromkeys(jobs) if job.settings == settings]
        judge = ModelJudge(model, Journal(None), rows=rows, **dict(settings))
        judgements = dict(judge.judge([_request(job.messages) for job in some]))
        found |= {job: judgements[number] for number, job in enumerate(some)}
    return [found[job] for job in jobs]


def _request(messages: Messages) -> JudgePrompt:
    by_role = dict(messages)
    if len(by_role) < len(messages) or not by_role.keys() <= {"system", "user"}:
        raise UserError(
            "msm_jax_judge: reads one message of the user and at most one of the system"
        )
    return JudgePrompt(by_role.get("system", ""), by_role.get("user", ""))


def as_messages(messages: Messages) -> list[dict[str, str]]:
    """The messages as `Model.sample` takes them."""
    return [{"role": role, "content": content} for role, content in messages]
