"""A judge behind an API: many requests at a time, each paid for once."""

import concurrent.futures
import contextlib
import threading
from collections.abc import Iterator, Sequence

from msm_jax.evals.judges.base import Judgement, Request, parse_answer
from msm_jax.evals.judges.cache import Cache
from msm_jax.evals.judges.clients import ChatClient
from msm_jax.evals.judges.retry import Gate, GaveUp, Patience, call_patiently


class ApiJudge:
    """Asks a `ChatClient`.

    A reply without an answer is asked for again, `asks` times in all; then it is "unparsed". A
    refusal stands. What could not be reached is an "error", is not cached, and is tried again by
    the next run. Neither is ever a no.
    """

    def __init__(
        self,
        client: ChatClient,
        cache: Cache,
        concurrency: int = 16,
        max_tokens: int = 1024,
        asks: int = 3,
        patience: Patience = Patience(),  # noqa: B008
    ):
        self.identity = {"judge": client.where, "max_tokens": max_tokens, "asks": asks}
        self.gate = Gate(concurrency)
        self._client, self._cache, self._patience = client, cache, patience
        self._concurrency, self._max_tokens, self._asks = concurrency, max_tokens, asks

    def judge(self, requests: Sequence[Request]) -> Iterator[tuple[int, Judgement]]:
        """See `Judge`. A UserError of one request ends the run; the others' replies are kept."""
        stop = threading.Event()
        self.gate.close(False)
        with concurrent.futures.ThreadPoolExecutor(self._concurrency) as pool:
            futures = {
                pool.submit(self._one, request, stop): index
                for index, request in enumerate(requests)
            }
            try:
                for future in concurrent.futures.as_completed(futures):
                    yield futures[future], future.result()
            finally:
                stop.set()
                self.gate.close()
                for future in futures:
                    future.cancel()

    def _one(self, request: Request, stop: threading.Event) -> Judgement:
        reply: dict = {"text": "", "finish": "stop"}
        for attempt in range(self._asks):
            if stop.is_set():
                return Judgement(None, "error", "stopped")
            try:
                reply = self._reply(request, attempt, stop)
            except GaveUp as error:
                return Judgement(None, "error", str(error))
            if reply["finish"] == "refusal":
                return Judgement(None, "refusal", reply["text"])
            value = parse_answer(reply["text"], request)
            if value is not None:
                return Judgement(value, "ok", reply["text"])
        cut = "cut off: " if reply["finish"] == "length" else ""
        return Judgement(None, "unparsed", cut + reply["text"])

    def _reply(self, request: Request, attempt: int, stop: threading.Event) -> dict:
        key = request.key(self.identity, attempt)
        known = self._cache.get(key)
        if known is not None:
            return known
        call = lambda: self._client.reply(request.system, request.user, self._max_tokens)
        sleep = lambda seconds: _wait(stop, seconds)
        found = call_patiently(call, self._client.where, self.gate, self._patience, sleep)
        reply = {"text": found.text, "finish": found.finish, "model": found.model}
        self._cache.put(key, reply)
        return reply


def _wait(stop: threading.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        if stop.wait(seconds):
            raise GaveUp("stopped")
