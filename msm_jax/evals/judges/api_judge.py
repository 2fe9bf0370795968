"""A judge behind an API: many requests at a time, each paid for once.

It asks as the writers of a corpus do (`corpus.writers`): what is said there of pace, troubles and
keys holds here.
"""

import concurrent.futures
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence

from msm_jax.corpus.writers.anthropic_api import AnthropicWriter
from msm_jax.corpus.writers.openai_api import OpenAIWriter
from msm_jax.corpus.writers.request import Failure, Reply
from msm_jax.corpus.writers.request import Request as ToWrite
from msm_jax.corpus.writers.transport import Pace
from msm_jax.evals.judges.base import Judgement, Request, read_reply
from msm_jax.evals.judges.cache import Cache

ANTHROPIC_MODEL = "claude-sonnet-4-6"  # the paper's judge (MSM, appendix D.3)
# A request that is refused as such costs one verdict, be it the first or the last.
PACE = Pace(16, timeout=120.0, attempts=8, longest_wait=600.0, seconds=600.0, bad_requests=0)


class ApiJudge:
    """Asks a model behind an API.

    A reply without an answer, or cut off, is asked for again, `asks` times in all; then it is
    "unparsed". A refusal stands. What could not be reached is an "error", is not cached, and is
    tried again by the next run. Neither is ever a no.
    """

    def __init__(
        self,
        backend: AnthropicWriter | OpenAIWriter,
        cache: Cache,
        max_tokens: int = 1024,
        asks: int = 3,
    ):
        self.identity = {"judge": backend.where, "max_tokens": max_tokens, "asks": asks}
        self._backend, self._cache = backend, cache
        self._max_tokens, self._asks = max_tokens, asks

    def judge(self, requests: Sequence[Request]) -> Iterator[tuple[int, Judgement]]:
        """See `Judge`. A UserError of one request ends the run; the others' replies are kept."""
        open_now = list(range(len(requests)))
        for attempt in range(self._asks):
            alike: dict[str, list[int]] = {}
            for index in open_now:
                key = requests[index].key(self.identity, attempt)
                alike.setdefault(key, []).append(index)
            open_now = []
            asked = {key: requests[indices[0]] for key, indices in alike.items()}
            for key, outcome in self._outcomes(asked, attempt):
                for index in alike[key]:
                    judgement = _judgement(requests[index], outcome)
                    if judgement.state == "unparsed" and attempt + 1 < self._asks:
                        open_now.append(index)
                    else:
                        yield index, judgement

    def _outcomes(
        self, asked: Mapping[str, Request], attempt: int
    ) -> Iterator[tuple[str, Reply | Failure]]:
        """Key and outcome of each; the backend sees only what the cache lacks."""
        missing = {}
        for key, request in asked.items():
            known = self._cache.get(key)
            if known is None:
                missing[key] = ToWrite(
                    "judge", request.system, request.user, {}, None, self._max_tokens, attempt
                )
            else:
                yield key, Reply(known["text"], known["finish"], model=known["model"])
        if not missing:
            return
        # A thread keeps every reply at once: whatever happens to whoever reads from here, what was
        # under way, and so paid for, is kept.
        arrived: queue.Queue[tuple[str, Reply | Failure] | None] = queue.Queue()
        stop = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            fetched = pool.submit(self._fetch, missing, arrived, stop)
            try:
                while (outcome := arrived.get()) is not None:
                    yield outcome
            finally:
                stop.set()
            fetched.result()

    def _fetch(
        self, missing: Mapping[str, ToWrite], arrived: queue.Queue, stop: threading.Event
    ) -> None:
        keys = list(missing)
        replies = self._backend.replies(list(missing.values()), lambda: not stop.is_set())
        try:
            for number, outcome in replies:
                if isinstance(outcome, Reply):
                    kept = {"text": outcome.text, "finish": outcome.stop, "model": outcome.model}
                    self._cache.put(keys[number], kept)
                arrived.put((keys[number], outcome))
        finally:
            arrived.put(None)


def _judgement(request: Request, outcome: Reply | Failure) -> Judgement:
    if isinstance(outcome, Failure):
        return Judgement(None, "error", f"{outcome.name}: {outcome.message}")
    return read_reply(outcome.text, outcome.stop, request)
