"""Many requests to a provider at once: retried, paced, and given up on by name.

The provider's own client makes the attempts; what went wrong is told as a `Trouble`. An attempt
has a deadline from its first byte to its last, so a hung or trickling connection ends.
"""

import asyncio
import contextlib
import dataclasses
import os
import queue
import random
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from msm_jax.corpus.writers.request import Failure, Reply, Request
from msm_jax.errors import UserError

LONGEST_WAIT = 120.0  # seconds before another attempt, whatever the provider asks for
BAD_REQUESTS = 5  # in a row from the start: then it is the settings and not the requests
_KEY_LIKE = re.compile(r"\b(?:sk|key|pk|Bearer)[-_ ][\w*.-]{6,}")
KEY_NAMES = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "OPENAI_API_KEY")


class Trouble(Exception):
    """Why an attempt failed.

    Attributes:
      name: under which it is counted.
      retry: another attempt may go well.
      fatal: no request will go well: the key, the credit, the model's name.
      slow: the provider is overloaded, so that fewer requests should be under way.
      after: seconds that the provider asks to wait.
    """

    def __init__(
        self, name: str, message: str = "", *, retry: bool = False, fatal: bool = False,
        slow: bool = False, after: float | None = None,
    ):  # fmt: skip
        super().__init__(scrubbed(message))
        self.name, self.retry, self.fatal, self.slow, self.after = name, retry, fatal, slow, after


@dataclasses.dataclass(frozen=True)
class Pace:
    """How hard to try."""

    concurrency: int = 30
    timeout: float = 300.0  # of one attempt, in seconds
    attempts: int = 6
    first_wait: float = 1.0  # before the second attempt; doubles, with jitter


def scrubbed(text: str) -> str:
    """A message without anything that is or looks like a key."""
    for name in KEY_NAMES:
        if len(value := os.environ.get(name, "")) > 3:
            text = text.replace(value, "***")
    return _KEY_LIKE.sub("***", text)[:500]


def api_key(name: str) -> str:
    """A key from the environment.

    Raises:
      UserError: it is not set.
    """
    if not os.environ.get(name, "").strip():
        raise UserError(f"{name} is not set: put the key into the environment (export {name}=...)")
    return os.environ[name].strip()


def run_all(
    requests: Sequence[Request],
    session: Callable[[], contextlib.AbstractAsyncContextManager[Any]],
    attempt: Callable[[Any, Request], Awaitable[Reply]],
    trouble_of: Callable[[Exception], Trouble],
    pace: Pace,
    counts: dict[str, int],
    go_on: Callable[[], bool],
) -> Iterator[tuple[int, Reply | Failure]]:
    """Index and outcome of each request, as they come.

    Args:
      requests: what to ask.
      session: opens the provider's client.
      attempt: asks once with the client.
      trouble_of: what an exception of the client means.
      pace: limits.
      counts: name of a trouble -> how often, counted up here.
      go_on: once false, no new request is started; those not started are left out.

    Raises:
      UserError: a fatal trouble, after what was under way has come in.
    """
    done: queue.Queue[tuple[int, Reply | Failure] | BaseException | None] = queue.Queue()
    crew = _Crew(requests, attempt, trouble_of, pace, counts, go_on, done)

    def work() -> None:
        try:
            asyncio.run(crew.run(session))
        except BaseException as error:
            done.put(error)
        done.put(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    broken: BaseException | None = None
    try:
        while (outcome := done.get()) is not None:
            if isinstance(outcome, BaseException):
                broken = outcome
            else:
                yield outcome
    finally:
        crew.stopped = True
    thread.join()
    if broken is not None:
        # The client's exceptions hold the request and its headers, the key among them.
        raise RuntimeError(f"{type(broken).__name__}: {scrubbed(str(broken))}") from None
    if crew.fatal is not None:
        raise UserError(
            f"{crew.fatal.name}: {crew.fatal}: nothing that was written is lost"
        ) from None


class _Crew:
    """Workers that take one request after the other."""

    def __init__(self, requests, attempt, trouble_of, pace, counts, go_on, done):
        self._waiting = iter(enumerate(requests))
        self._attempt, self._trouble_of = attempt, trouble_of
        self._pace, self._counts, self._go_on, self._done = pace, counts, go_on, done
        self._limit, self._active = float(pace.concurrency), 0
        self._gate: asyncio.Condition | None = None
        self._slowed = self._not_before = 0.0
        self._good = self._bad = 0
        self._size = len(requests)
        self._jitter = random.Random()
        self.fatal: Trouble | None = None
        self.stopped = False

    async def run(self, session) -> None:
        self._gate = asyncio.Condition()
        async with session() as client:
            # The first one alone writes the provider's cache for all that follow.
            await self._work(client, only_one=True)
            workers = min(self._pace.concurrency, self._size)
            await asyncio.gather(*(self._work(client) for _ in range(workers)))

    async def _work(self, client, only_one: bool = False) -> None:
        while not self.stopped and self.fatal is None and self._go_on():
            index, request = next(self._waiting, (None, None))
            if request is None:
                return
            outcome = await self._one(client, request)
            if outcome is not None:
                self._done.put((index, outcome))
            if only_one:
                return

    async def _one(self, client, request: Request) -> Reply | Failure | None:
        trouble = Trouble("not asked")
        for number in range(self._pace.attempts):
            await self._enter()
            try:
                if self.fatal is not None:
                    return None
                reply = await self._try(client, request)
            finally:
                await self._leave()
            if isinstance(reply, Reply):
                return reply
            trouble = reply
            self._counts[trouble.name] = self._counts.get(trouble.name, 0) + 1
            self._look_for_wrong_settings(trouble)
            if trouble.fatal:
                self.fatal = self.fatal or trouble
                return None
            if not trouble.retry or self.stopped:
                break
            if number + 1 < self._pace.attempts:
                await asyncio.sleep(self._wait(number, trouble))
        return Failure(trouble.name, str(trouble))

    async def _try(self, client, request: Request) -> Reply | Trouble:
        try:
            reply = await asyncio.wait_for(self._attempt(client, request), self._pace.timeout)
        except TimeoutError:
            seconds = self._pace.timeout
            return Trouble("timeout", f"no answer in {seconds:g} s", retry=True, slow=True)
        except Exception as error:
            trouble = self._trouble_of(error)
            if trouble.slow:
                self._slow_down(trouble)
            return trouble
        self._good += 1
        self._limit = min(self._pace.concurrency, self._limit + 1 / max(self._limit, 1))
        return reply

    def _look_for_wrong_settings(self, trouble: Trouble) -> None:
        """Requests that are all refused from the start will go on being refused."""
        self._bad += trouble.name == "bad request"
        if not self._good and self._bad >= BAD_REQUESTS:
            trouble.fatal = True

    def _wait(self, number: int, trouble: Trouble) -> float:
        backoff = self._pace.first_wait * 2**number * self._jitter.uniform(0.5, 1.5)
        return min(max(backoff, trouble.after or 0.0), LONGEST_WAIT)

    def _slow_down(self, trouble: Trouble) -> None:
        """Fewer at a time; once for a burst of equal complaints. Nobody starts before `after`."""
        now = time.monotonic()
        if now - self._slowed > min(1.0, self._pace.first_wait):
            self._limit, self._slowed = max(1.0, 0.7 * self._limit), now
        if trouble.after:
            self._not_before = max(self._not_before, now + min(trouble.after, LONGEST_WAIT))

    async def _enter(self) -> None:
        assert self._gate is not None
        async with self._gate:
            await self._gate.wait_for(lambda: self._active < max(1, int(self._limit)))
            self._active += 1
        if (wait := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(wait * self._jitter.uniform(1.0, 1.1))

    async def _leave(self) -> None:
        assert self._gate is not None
        async with self._gate:
            self._active -= 1
            self._gate.notify_all()


def retry_after(headers: Any) -> float | None:
    """Seconds of a Retry-After header, which may also be a date."""
    value = headers.get("retry-after") if headers is not None else None
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        import email.utils

        try:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
        except (TypeError, ValueError):
            return None


def status_trouble(status: int, message: str, headers: Any = None) -> Trouble:
    """What an HTTP status means, the same for all providers."""
    after = retry_after(headers)
    if status in (401, 403):
        return Trouble("authentication failed", f"HTTP {status}: {message}", fatal=True)
    if status == 402 or re.search(r"credit balance|insufficient_quota|billing", message):
        return Trouble("no credit left", f"HTTP {status}: {message}", fatal=True)
    if status == 404:
        return Trouble("model not found", f"HTTP 404: {message}", fatal=True)
    if status == 429:
        return Trouble("rate limited", message, retry=True, slow=True, after=after)
    if status == 529 or status == 503:
        return Trouble("overloaded", message, retry=True, slow=True, after=after)
    if status in (408, 409) or status >= 500:
        return Trouble("server error", f"HTTP {status}: {message}", retry=True, after=after)
    if status == 413:
        return Trouble("request too large", message)
    return Trouble("bad request", f"HTTP {status}: {message}")
