"""Why an attempt to get a reply failed, by name, and what no message may hold: a key."""

import contextlib
import email.utils
import os
import re
import time
from typing import Any

from msm_jax.errors import UserError

_NO_CREDIT = re.compile(
    r"credit|insufficient_quota|exceeded your current quota|billing|payment|spend(ing)? limit", re.I
)
_FIX = {
    "authentication failed": "the key or its rights",
    "no credit left": "the account",
    "model not found": "the model's name or the address",
    "bad request": "the settings",
    "redirected": "the address",
}
_KEY_LIKE = re.compile(r"\b(?:sk|key|pk|Bearer)[-_ ][\w*.-]{6,}")
_KEY_LENGTH = 16  # a shorter value is a placeholder such as EMPTY, which is a word of its own
KEY_NAMES = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "OPENAI_API_KEY")


class ApiError(Exception):
    """Why an attempt failed, counted by its name."""

    def __init__(
        self,
        name: str,
        message: str = "",
        *,
        retry: bool = False,  # another attempt may succeed
        fatal: bool = False,  # no request will succeed: the key, the credit, the model's name
        slow: bool = False,  # the provider is overloaded: fewer requests should be under way
        after: float | None = None,  # seconds to wait, as the provider says
    ):
        super().__init__(scrubbed(message))
        self.name, self.retry, self.fatal, self.slow, self.after = name, retry, fatal, slow, after

    def ends(self, where: str) -> UserError:
        """The error of the user when no request to `where` will succeed any more."""
        fix = f"fix {_FIX[self.name]} and " if self.name in _FIX else ""
        return UserError(
            f"{where}: {self.name}: {self}: no reply that arrived is lost; {fix}run the same "
            "command again"
        )


def key_is_missing(name: str) -> str:
    """What is wrong if a variable with a key is not set, and what to do."""
    return f"{name} is not set: put the key into the environment (export {name}=...)"


def scrubbed(text: str) -> str:
    """A message without anything that is or looks like a key."""
    return _KEY_LIKE.sub("***", without_keys(text, shortest=4))[:500]


def without_keys(text: str, shortest: int = _KEY_LENGTH) -> str:
    """The text of a reply with our own keys masked: some servers repeat what they were sent."""
    for name in KEY_NAMES:
        if len(value := os.environ.get(name, "").strip()) >= shortest:
            text = text.replace(value, "***")
    return text


def retry_after(headers: Any) -> float | None:
    """Seconds of a Retry-After header, which may also be a date."""
    value: Any = headers.get("retry-after") if headers is not None else None
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(TypeError, ValueError, AttributeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def status_error(status: int, message: str, headers: Any = None) -> ApiError:
    """What an HTTP status means, the same for all providers."""
    after, numbered = retry_after(headers), f"HTTP {status}: {message}"
    if status in (401, 403):
        return ApiError("authentication failed", numbered, fatal=True)
    if status == 402 or (status in (400, 429) and _NO_CREDIT.search(message)):
        return ApiError("no credit left", numbered, fatal=True)
    if status == 404:
        return ApiError("model not found", numbered, fatal=True)
    if status == 429:
        return ApiError("rate limited", message, retry=True, slow=True, after=after)
    if status in (503, 529):
        return ApiError("overloaded", message, retry=True, slow=True, after=after)
    if status in (408, 409) or status >= 500:
        return ApiError("server error", numbered, retry=True, after=after)
    return ApiError("request too large" if status == 413 else "bad request", numbered)
