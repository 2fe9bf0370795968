"""Many requests to a provider at once: retried, paced, and given up on by name.

The provider's own client makes the attempts; what went wrong is told as a `Trouble`. An attempt
has a deadline from its first byte to its last, so a hung or trickling connection ends.
"""

import asyncio
import contextlib
import dataclasses
import importlib
import math
import os
import queue
import random
import re
import threading
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from msm_jax.corpus.writers.request import Failure, Reply, Request
from msm_jax.errors import UserError

_LOOK = 0.1  # seconds of a wait between two looks at whether to go on
_NO_CREDIT = re.compile(
    r"credit|insufficient_quota|exceeded your current quota|billing|payment|spend(ing)? limit", re.I
)
_MEND = {
    "authentication failed": "the key or its rights",
    "no credit left": "the account",
    "model not found": "the model's name or the address",
    "bad request": "the settings",
}
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
    """How hard to try.

    Attributes:
      concurrency: requests at a time; fewer while the provider is overloaded.
      timeout: of one attempt, in seconds.
      attempts: of one request, the first included.
      first_wait: seconds before the second attempt; doubles, with jitter.
      longest_wait: seconds before another attempt, whatever the provider asks for.
      seconds: of one request in all, waits included, from its first attempt on.
      bad_requests: so many refused before one went well end the run, since then it is the settings
        and not the requests; 0: never.
    """

    concurrency: int = 30
    timeout: float = 300.0
    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 120.0
    seconds: float = math.inf
    bad_requests: int = 5

    def __post_init__(self):
        if self.concurrency < 1 or self.attempts < 1:
            raise UserError(
                f"concurrency={self.concurrency}, attempts={self.attempts}: both must be at least 1"
            )


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


def require(library: str) -> None:
    """Says how to get a provider's client where it is missing."""
    try:
        importlib.import_module(library)
    except ImportError as error:
        raise UserError(
            f"the library {library} is not installed: pip install 'msm_jax[writers]'"
        ) from error


def check_address(setting: str, url: str) -> None:
    """An address is written into records, so it must not hold a secret; "" is the provider's.

    Raises:
      UserError: it does, or is no address; the message names the setting.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise UserError(
            f"{setting}: must not hold a user, password or query: give the key in the environment"
        )
    if url and parts.scheme not in ("http", "https"):
        raise UserError(f"{setting}={url!r}: must start with http:// or https://")


def given_up(where: str, trouble: Trouble) -> UserError:
    """What to tell when no request will go well any more."""
    mend = f"mend {_MEND[trouble.name]} and " if trouble.name in _MEND else ""
    return UserError(
        f"{where}: {trouble.name}: {trouble}: nothing that came in is lost; {mend}run the same "
        "command again"
    )


def run_all(
    requests: Sequence[Request],
    session: Callable[[], contextlib.AbstractAsyncContextManager[Any]],
    attempt: Callable[[Any, Request], Awaitable[Reply]],
    trouble_of: Callable[[Exception], Trouble],
    pace: Pace,
    counts: dict[str, int],
    go_on: Callable[[], bool],
    where: str,
) -> Iterator[tuple[int, Reply | Failure]]:
    """Index and outcome of each request, as they come.

    Args:
      requests: what to ask.
      session: opens the provider's client.
      attempt: asks once with the client.
      trouble_of: what an exception of the client means.
      pace: limits.
      counts: name of a trouble -> how often, counted up here.
      go_on: once false, no request is started or tried again; those not started are left out.
      where: which model of whom, for messages.

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
        raise given_up(where, crew.fatal) from None


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
        self._size, self._tried = len(requests), False
        self._jitter = random.Random()
        self.fatal: Trouble | None = None
        self.stopped = False

    async def run(self, session) -> None:
        self._gate = asyncio.Condition()
        async with session() as client:
            workers = min(self._pace.concurrency, self._size)
            await asyncio.gather(*(self._work(client) for _ in range(workers)))

    async def _work(self, client) -> None:
        while not self._over():
            index, request = next(self._waiting, (None, None))
            if request is None:
                return
            outcome = await self._one(client, request)
            if outcome is not None:
                self._done.put((index, outcome))

    def _over(self) -> bool:
        return self.stopped or self.fatal is not None or not self._go_on()

    async def _one(self, client, request: Request) -> Reply | Failure | None:
        """None: not asked, or no longer of interest."""
        failure, deadline = None, math.inf
        for number in range(1, self._pace.attempts + 1):
            await self._enter()
            try:
                if self._over():
                    return None if self.fatal else failure
                if number == 1:
                    deadline = time.monotonic() + self._pace.seconds
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
            if not trouble.retry:
                return Failure(trouble.name, str(trouble))
            failure = Failure(trouble.name, f"{trouble} (after {number} attempts)")
            wait = self._wait(number, trouble)
            if number == self._pace.attempts or time.monotonic() + wait > deadline:
                break
            await self._sleep(wait)
        return failure

    async def _try(self, client, request: Request) -> Reply | Trouble:
        try:
            reply = await asyncio.wait_for(self._attempt(client, request), self._pace.timeout)
        except Exception as error:
            if isinstance(error, TimeoutError):
                said = f"no answer in {self._pace.timeout:g} s"
                trouble = Trouble("timeout", said, retry=True, slow=True)
            else:
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
        if not self._good and 0 < self._pace.bad_requests <= self._bad:
            trouble.fatal = True

    def _wait(self, number: int, trouble: Trouble) -> float:
        """Seconds between this attempt and the next one."""
        backoff = self._pace.first_wait * 2 ** (number - 1) * self._jitter.uniform(0.5, 1.5)
        asked_for = (trouble.after or 0.0) * self._jitter.uniform(1.0, 1.1)
        return min(max(backoff, asked_for), self._pace.longest_wait)

    async def _sleep(self, seconds: float) -> None:
        """For so long, or until nothing more is to be started."""
        end = time.monotonic() + seconds
        while not self._over() and (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _LOOK))

    def _slow_down(self, trouble: Trouble) -> None:
        """Half as many at a time; once for a burst of equal complaints. Nobody starts before
        `after`."""
        now = time.monotonic()
        if now - self._slowed > min(1.0, self._pace.first_wait):
            self._limit, self._slowed = max(1.0, self._limit / 2), now
        if trouble.after:
            quiet = min(trouble.after, self._pace.longest_wait)
            self._not_before = max(self._not_before, now + quiet)

    def _room(self) -> int:
        # The first attempt is alone: it writes the provider's cache for all that follow.
        return max(1, int(self._limit)) if self._tried else 1

    async def _enter(self) -> None:
        assert self._gate is not None
        async with self._gate:
            await self._gate.wait_for(lambda: self._active < self._room())
            self._active += 1
        while (wait := self._not_before - time.monotonic()) > 0 and not self._over():
            await self._sleep(wait * self._jitter.uniform(1.0, 1.1))

    async def _leave(self) -> None:
        assert self._gate is not None
        async with self._gate:
            self._active -= 1
            self._tried = True
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
    if status == 402 or (status in (400, 429) and _NO_CREDIT.search(message)):
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
