"""Chat models behind an API: one reply to one conversation, by their own client libraries.

Keys come from the environment and go nowhere else: they are cut out of every message that leaves
this file.
"""

import dataclasses
import os
from typing import Any, Protocol

from msm_jax.errors import UserError
from msm_jax.evals.judges.retry import CallFailed, retry_after

ANTHROPIC_MODEL = "claude-sonnet-4-6"  # the paper's judge (MSM, appendix D.3)


@dataclasses.dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
      text: of the answer.
      finish: "stop", "length" or "refusal".
      model: which model says that it answered.
    """

    text: str
    finish: str
    model: str


# What the libraries raise on a reply with status 200 that is not what they expect.
_MANGLED = (ValueError, TypeError, AttributeError)


class ChatClient(Protocol):
    """One way to reach a model; `where` says which, for messages and records."""

    where: str

    def reply(self, system: str, user: str, max_tokens: int) -> Reply:
        """Raises CallFailed."""


def _key(name: str, needed: bool) -> str:
    key = os.environ.get(name, "")
    if not key and needed:
        raise UserError(f"the judge needs a key: set the environment variable {name}")
    return key


def _failed(error: Exception, key: str) -> CallFailed:
    """An exception of a client library as ours, without the key."""
    status = getattr(error, "status_code", None)
    response = getattr(error, "response", None)
    headers = getattr(response, "headers", None) or {}
    text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    if key:
        text = text.replace(key, "[key]")
    known = status if isinstance(status, int) else None
    return CallFailed(text, known, retry_after(headers.get("retry-after")))


class Anthropic:
    """The Messages API; the key is ANTHROPIC_API_KEY."""

    def __init__(self, model: str, url: str | None = None, timeout: float = 120.0):
        try:
            import anthropic
        except ImportError as error:
            raise UserError("judge=anthropic needs its client: pip install anthropic") from error
        self._key = _key("ANTHROPIC_API_KEY", needed=True)
        self._errors = (anthropic.APIError, *_MANGLED)
        self._client = anthropic.Anthropic(
            api_key=self._key, base_url=url, timeout=timeout, max_retries=0
        )
        self._model, self.where = model, f"anthropic {model}"

    def reply(self, system: str, user: str, max_tokens: int) -> Reply:
        try:
            found = self._client.messages.create(
                model=self._model,
                max_tokens=max_tokens,
                system=system,
                messages=[{"role": "user", "content": user}],
            )
        except self._errors as error:
            raise _failed(error, self._key) from None
        text = "".join(part.text for part in found.content if part.type == "text")
        finish = {"max_tokens": "length", "refusal": "refusal"}.get(found.stop_reason or "", "stop")
        return Reply(text, finish, found.model)


class OpenAICompatible:
    """Chat Completions at any address; the key is OPENAI_API_KEY, or none for a local server."""

    def __init__(self, model: str, url: str | None = None, timeout: float = 120.0):
        try:
            import openai
        except ImportError as error:
            raise UserError("judge=openai needs its client: pip install openai") from error
        self._key = _key("OPENAI_API_KEY", needed=url is None)
        self._errors = (openai.APIError, *_MANGLED)
        self._client = openai.OpenAI(
            api_key=self._key or "none", base_url=url, timeout=timeout, max_retries=0
        )
        self._model, self.where = model, f"openai {model} at {url or 'api.openai.com'}"

    def reply(self, system: str, user: str, max_tokens: int) -> Reply:
        messages: Any = [
            {"role": "system", "content": system},
            {"role": "user", "content": user},
        ]
        try:
            found = self._client.chat.completions.create(
                model=self._model, max_tokens=max_tokens, messages=messages
            )
        except self._errors as error:
            raise _failed(error, self._key) from None
        if not found.choices:
            return Reply("", "stop", found.model)
        choice = found.choices[0]
        refused = bool(getattr(choice.message, "refusal", None))
        finish = {"length": "length", "content_filter": "refusal"}.get(choice.finish_reason, "stop")
        return Reply(choice.message.content or "", "refusal" if refused else finish, found.model)
