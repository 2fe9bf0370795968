"""One client for writers and judges: many requests to a model behind an API at a time.

The providers' own clients send the requests. Retries are ours: the clients' `max_retries` neither
sees replies that break off or end without a reason, nor a connection that trickles, nor that all
requests together should slow down while a provider is overloaded, nor when to stop the run.
"""

import abc
import asyncio
import collections
import contextlib
import dataclasses
import importlib
import ipaddress
import math
import operator
import os
import queue
import random
import threading
import time
import urllib.parse
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msm_jax.corpus.writers import bodies
from msm_jax.corpus.writers.api_errors import ApiError, key_is_missing, scrubbed, status_error
from msm_jax.corpus.writers.request import Failure, Reply, Request, Usage
from msm_jax.errors import Unavailable, UserError

_NO_KEY = "none"  # the clients insist on a key
_POLL = 0.1  # seconds of a wait between two checks whether to go on


@dataclasses.dataclass(frozen=True)
class Pace:
    """How many requests at a time, and how often each is tried; times are in seconds."""

    concurrency: int = 30  # requests at a time; fewer while the provider is overloaded
    timeout: float = 300.0  # of one attempt, from its first byte to its last
    attempts: int = 6  # of one request, the first included
    first_wait: float = 1.0  # before the second attempt; doubles, with jitter
    longest_wait: float = 120.0  # before another attempt, whatever the provider says
    seconds: float = math.inf  # of one request in all, waits included
    # So many refused before one succeeded end the run: the settings are wrong. 0: never.
    bad_requests: int = 5

    def __post_init__(self):
        if self.concurrency < 1 or self.attempts < 1:
            raise UserError(
                f"concurrency={self.concurrency}, attempts={self.attempts}: both must be at least 1"
            )

    def wait(self, failures: int, error: ApiError) -> float:
        """Seconds before another attempt after so many that failed, the last by `error`."""
        wait = self.first_wait * 2 ** min(failures - 1, 20) * random.uniform(0.5, 1.5)
        wait = max(wait, (error.after or 0.0) * random.uniform(1.0, 1.1))
        return min(wait, self.longest_wait)


class ApiClient(abc.ABC):
    """A `Backend` over a provider's client library; one subclass per protocol.

    Args:
      model: as the provider names it.
      temperature: 1 is the default everywhere and not sent.
      pace: limits.
      base_url: of another endpoint; "" is the provider's.
      structured: send the JSON Schema along; without it the prompt describes the structure.

    Attributes:
      where: which model of whom, for messages.
      settings: what all requests have in common.
    """

    library = key_name = ""
    key_optional = False  # with a base_url
    asynchronous = method = ""  # the library's client, and its method that answers a request

    def __init__(
        self, model: str, temperature: float = 1.0, pace: Pace = Pace(),
        base_url: str = "", structured: bool = True,
    ):  # fmt: skip
        try:
            self.module = importlib.import_module(self.library)
        except ImportError as error:
            raise Unavailable(
                f"the library {self.library} is not installed: pip install 'msm_jax[writers]'"
            ) from error
        self.where = f"{self.library} {model}"
        own = {"model": model, "temperature": temperature}
        self.identity: Mapping[str, Any] = {"writer": self.library, **own}
        self.settings = own if temperature != 1.0 else {"model": model}
        self.counts: dict[str, int] = collections.Counter()
        self.lost = Usage()
        self.pace, self.base_url, self.structured = pace, base_url, structured
        if self.options()["api_key"] != _NO_KEY and is_exposed(base_url):
            warnings.warn(
                f"the key in {self.key_name} is sent to {base_url} without encryption: use https, "
                f"or unset {self.key_name} if that server needs no key",
                stacklevel=2,
            )

    @abc.abstractmethod
    def params(self, request: Request) -> dict[str, Any]:
        """A request as the provider's client takes it."""

    @abc.abstractmethod
    def reply_of(self, message: Any, request: Request) -> Reply:
        """What the client returned as a `Reply`.

        Raises:
          ApiError, ValueError: it is not complete, or not what the protocol says.
        """

    def session(self) -> contextlib.AbstractAsyncContextManager[Any]:
        """The provider's client."""
        return self.connected(self.asynchronous, "DefaultAsyncHttpxClient", bodies.check_async)

    def connected(self, client: str, http: str, hook: Callable[[Any], Any]) -> Any:
        """A client of the library by its name, which reads bodies within limits."""
        connection = getattr(self.module, http)(
            event_hooks={"response": [hook]}, headers=bodies.HEADERS
        )
        return getattr(self.module, client)(**self.options(), http_client=connection)

    def options(self) -> dict[str, Any]:
        """What the provider's clients are made with.

        Raises:
          Unavailable: the key is not set.
        """
        key, own = os.environ.get(self.key_name, "").strip(), bool(self.base_url)
        if not key and not (own and self.key_optional):
            raise Unavailable(key_is_missing(self.key_name))
        address = {"base_url": self.base_url} if own else {}
        timeout = self.pace.timeout
        return {"api_key": key or _NO_KEY, "max_retries": 0, "timeout": timeout, **address}

    def error_of(self, error: Exception) -> ApiError:
        """What an exception of the provider's client means."""
        for each in (error, error.__cause__):  # the client wraps what a hook raises
            if isinstance(each, ApiError):
                return each
        if isinstance(error, self.module.APIStatusError):
            code = f"{error.code}: " if getattr(error, "code", None) else ""
            message, headers = f"{code}{error.message}", error.response.headers
            return status_error(error.status_code, message, headers)
        if isinstance(error, self.module.APITimeoutError | TimeoutError):
            said = f"no reply in {self.pace.timeout:g} s"
            return ApiError("timeout", said, retry=True, slow=True)
        if isinstance(error, self.module.APIConnectionError):
            return ApiError("connection lost", str(error.__cause__ or error), retry=True)
        # JSON that breaks off, is nested too deeply, or is something else altogether.
        broken = (self.module.APIError, ValueError, TypeError, AttributeError, LookupError,
                  RecursionError)  # fmt: skip
        name = "broken response" if isinstance(error, broken) else "connection lost"
        return ApiError(name, f"{type(error).__name__}: {error}", retry=True)

    def count(self, error: ApiError, request: Request) -> None:
        """Count an attempt that failed, and what it may have cost if a reply arrived."""
        self.counts[error.name] += 1
        if error.name in ("broken response", "reply too long"):
            self.lost += Usage.most(request)

    def replies(
        self, requests: Sequence[Request], go_on: Callable[[], bool],
        keep: Callable[[int, Reply], None] | None = None,
    ) -> Iterator[tuple[int, Reply | Failure]]:  # fmt: skip
        """See `Backend`.

        Args:
          requests: to send.
          go_on: once false, no request is started or tried again.
          keep: called with the index and each reply as it arrives, in another thread, even while
            nobody reads from here. With it, closing the generator waits for what is under way.
        """
        run = _Run(self, requests, go_on, keep)
        thread = threading.Thread(target=run.work, daemon=True)
        thread.start()
        try:
            while (outcome := run.arrived.get()) is not None:
                yield outcome
        finally:
            run.stopped = True
            if keep:
                thread.join()
        if run.broken is not None:
            # The client's exceptions hold the request and its headers, the key among them.
            raise RuntimeError(
                f"{type(run.broken).__name__}: {scrubbed(str(run.broken))}"
            ) from None
        if run.fatal is not None:
            raise run.fatal.ends(self.where) from None


class _Run:
    """Requests under way: workers that send one after the other, on an event loop of their own."""

    def __init__(self, client, requests, go_on, keep):
        self._client, self._pace, self._go_on, self._keep = client, client.pace, go_on, keep
        self._waiting, self._size = iter(enumerate(requests)), len(requests)
        self.arrived: queue.Queue[tuple[int, Reply | Failure] | None] = queue.Queue()
        self._limit, self._active = float(self._pace.concurrency), 0
        self._slowed = self._not_before = 0.0
        self._good = self._bad = self._tried = 0
        self.fatal: ApiError | None = None
        self.broken: BaseException | None = None
        self.stopped = False

    def work(self) -> None:
        """Sends everything; the end is marked by None in `arrived`."""
        try:
            asyncio.run(self._all())
        except BaseException as error:
            self.broken = error
        self.arrived.put(None)

    async def _all(self) -> None:
        self._gate = asyncio.Condition()
        async with self._client.session() as session:
            workers = min(self._pace.concurrency, self._size)
            await asyncio.gather(*(self._worker(session) for _ in range(workers)))

    async def _worker(self, session) -> None:
        while not self._over():
            index, request = next(self._waiting, (0, None))
            if request is None:
                return
            outcome = await self._one(session, request)
            if isinstance(outcome, Reply) and self._keep:
                self._keep(index, outcome)
            if outcome is not None:
                self.arrived.put((index, outcome))

    def _over(self) -> bool:
        return self.stopped or self.fatal is not None or not self._go_on()

    async def _one(self, session, request: Request) -> Reply | Failure | None:
        """None: not sent, or no longer wanted."""
        failure, deadline = None, math.inf
        for number in range(1, self._pace.attempts + 1):
            await self._enter()
            try:
                if self._over():
                    return None if self.fatal else failure
                if number == 1:
                    deadline = time.monotonic() + self._pace.seconds
                result = await self._try(session, request)
            finally:
                await self._leave()
            if isinstance(result, Reply):
                return result
            if result.fatal:
                self.fatal = self.fatal or result
                return None
            if not result.retry:
                return Failure(result.name, str(result))
            failure = Failure(result.name, f"{result} (after {number} attempts)")
            wait = self._pace.wait(number, result)
            if number == self._pace.attempts or time.monotonic() + wait > deadline:
                break
            await self._sleep(wait)
        return failure

    async def _try(self, session, request: Request) -> Reply | ApiError:
        try:
            create = operator.attrgetter(self._client.method)(session)
            attempt = asyncio.wait_for(create(**self._client.params(request)), self._pace.timeout)
            reply = self._client.reply_of(await attempt, request)
        except Exception as exception:
            error = self._client.error_of(exception)
            self._client.count(error, request)
            self._bad += error.name == "bad request"
            if not self._good and 0 < self._pace.bad_requests <= self._bad:
                error.fatal = True  # all are refused from the start: the settings are wrong
            if error.slow:
                self._slow_down(error)
            return error
        self._good += 1
        self._limit = min(self._pace.concurrency, self._limit + 1 / max(self._limit, 1))
        return reply

    async def _sleep(self, seconds: float) -> None:
        """For so long, or until nothing more is to be started."""
        end = time.monotonic() + seconds
        while not self._over() and (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _POLL))

    def _slow_down(self, error: ApiError) -> None:
        """Half as many at a time, once for a burst of equal errors; none before `after`."""
        now = time.monotonic()
        if now - self._slowed > min(1.0, self._pace.first_wait):
            self._limit, self._slowed = max(1.0, self._limit / 2), now
        if error.after:
            quiet = min(error.after, self._pace.longest_wait)
            self._not_before = max(self._not_before, now + quiet)

    async def _enter(self) -> None:
        # The first attempt is alone: it fills the provider's cache for all that follow.
        room = lambda: max(1, int(self._limit)) if self._tried else 1
        async with self._gate:
            await self._gate.wait_for(lambda: self._active < room())
            self._active += 1
        while (wait := self._not_before - time.monotonic()) > 0 and not self._over():
            await self._sleep(wait * random.uniform(1.0, 1.1))

    async def _leave(self) -> None:
        async with self._gate:
            self._active -= 1
            self._tried = 1
            self._gate.notify_all()


def check_address(setting: str, url: str) -> None:
    """An address is written into records, so it must not hold a secret; "" is the provider's.

    Raises:
      UserError: it does, or is no address; the message names the setting.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(
            f"{setting}: must not hold a user, password, query or fragment: give the key in the "
            "environment"
        )
    if url and parts.scheme not in ("http", "https"):
        raise UserError(f"{setting}={url!r}: must start with http:// or https://")


def is_exposed(url: str) -> bool:
    """Whether what is sent to an address leaves this machine without encryption."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "http" or parts.hostname == "localhost":
        return False
    try:
        return not ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return True
