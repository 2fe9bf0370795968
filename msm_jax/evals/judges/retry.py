"""Calls to a service that may fail: when to try again, when to slow down, when to stop."""

import dataclasses
import email.utils
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from msm_jax.errors import UserError

# Nothing that the same request could mend: wrong key, no money, no right, no such model.
FATAL = {401, 402, 403, 404}
# This request and no other: too long, not understood.
REFUSED = {400, 413, 422}
_MONEY = ("credit", "billing", "quota", "payment", "spend limit")

T = TypeVar("T")


class CallFailed(Exception):
    """A call that failed.

    Attributes:
      status: HTTP status, or None where no answer came (connection, timeout).
      retry_after: what the service asked for, in seconds.
    """

    def __init__(self, message: str, status: int | None, retry_after: float | None = None):
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


class GaveUp(Exception):
    """A call that failed for good; the others go on."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long to try.

    Attributes:
      attempts: of one call, the first included.
      seconds: of one call in all, waiting included.
      first_wait, longest_wait: of the exponential backoff; a service's Retry-After goes first.
    """

    attempts: int = 8
    seconds: float = 600.0
    first_wait: float = 1.0
    longest_wait: float = 60.0


class Gate:
    """At most `limit` calls at a time; fewer after a 429, more again as calls succeed."""

    def __init__(self, limit: int):
        self.limit, self.allowed, self.most = limit, float(limit), 0
        self._busy, self._quiet_until, self._closed = 0, 0.0, False
        self._changed = threading.Condition()

    def close(self, closed: bool = True) -> None:
        """Let nobody in any more (or again); whoever waits gives up."""
        with self._changed:
            self._closed = closed
            self._changed.notify_all()

    def enter(self) -> None:
        """Wait for a place. Raises GaveUp when the gate is closed."""
        with self._changed:
            while not self._closed and self._full():
                wait = self._quiet_until - time.monotonic()
                self._changed.wait(timeout=max(wait, 0.01) if wait > 0 else None)
            if self._closed:
                raise GaveUp("stopped")
            self._busy += 1
            self.most = max(self.most, self._busy)

    def _full(self) -> bool:
        quiet = time.monotonic() < self._quiet_until
        return quiet or self._busy >= max(1, int(self.allowed))

    def leave(self, succeeded: bool) -> None:
        with self._changed:
            self._busy -= 1
            if succeeded:
                self.allowed = min(self.limit, self.allowed + 1 / max(self.allowed, 1))
            self._changed.notify_all()

    def slow_down(self, seconds: float) -> None:
        """After a 429: half as many at a time, and nobody calls for so long."""
        with self._changed:
            self.allowed = max(1.0, self.allowed / 2)
            self._quiet_until = max(self._quiet_until, time.monotonic() + seconds)


def call_patiently(
    call: Callable[[], T],
    where: str,
    gate: Gate,
    patience: Patience,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """The call's result, after as many tries as it takes and patience allows.

    Waits are drawn from 0 to the backoff ("full jitter"), or are the Retry-After plus up to a
    tenth of it.

    Raises:
      UserError: the whole run is in vain (401, 402, 403, 404, no money left).
      GaveUp: this call is: refused by the service, or failed too often.
    """
    deadline = None
    for attempt in range(1, patience.attempts + 1):
        gate.enter()
        # the time of a call begins when it is let in, not when it begins to queue
        deadline = deadline or time.monotonic() + patience.seconds
        succeeded = False
        try:
            result = call()
            succeeded = True
            return result
        except CallFailed as error:
            failure = error
        finally:
            gate.leave(succeeded)
        _stop_if_hopeless(failure, where)
        backoff = min(patience.longest_wait, patience.first_wait * 2 ** (attempt - 1))
        wait = random.uniform(0, backoff)
        if failure.retry_after is not None:
            wait = failure.retry_after * random.uniform(1, 1.1)
        if failure.status == 429:
            gate.slow_down(wait)
        if attempt == patience.attempts or time.monotonic() + wait > deadline:
            raise GaveUp(f"{failure} (after {attempt} attempts)")
        sleep(wait)
    raise AssertionError("unreachable: patience.attempts is at least 1")


def _stop_if_hopeless(failure: CallFailed, where: str) -> None:
    text = str(failure).lower()
    money = failure.status in (400, 429) and any(word in text for word in _MONEY)
    if failure.status in FATAL or money:
        raise UserError(
            f"{where}: {failure}: nothing was lost; mend the key, the model's name or the account, "
            "and run the same command again"
        )
    if failure.status in REFUSED:
        raise GaveUp(str(failure))


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header: a number, or an HTTP date."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
