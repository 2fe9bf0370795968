"""Any endpoint that speaks OpenAI's chat completions: OpenAI, vLLM, SGLang, Ollama, llama.cpp."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msm_jax.corpus.writers.anthropic_api import asked
from msm_jax.corpus.writers.request import Failure, Reply, Request, Usage
from msm_jax.corpus.writers.transport import (
    Pace,
    Trouble,
    api_key,
    require,
    run_all,
    status_trouble,
)

KEY = "OPENAI_API_KEY"
# Why a reply ended, in the words of OpenAI and of the servers that speak its language. A reply with
# another reason, or with none, may be part of one (vLLM's "abort", OpenRouter's "error").
_STOPS = {
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence"), "end"),
    **dict.fromkeys(("tool_calls", "function_call"), "end"),
    **dict.fromkeys(("length", "max_tokens", "model_length"), "length"),
    "content_filter": "refusal",
}


class OpenAIWriter:
    """A `Backend`; `where` names it in messages.

    Args:
      model: as the endpoint names it.
      temperature: 1 is the usual default and not sent.
      pace: limits.
      base_url: of the endpoint, "http://localhost:8000/v1" for example; "" is OpenAI's. With it
        the key may be missing.
      structured: have the endpoint keep to the JSON Schema; without it the prompt must do.
    """

    def __init__(
        self, model: str, temperature: float = 1.0, pace: Pace = Pace(),  # noqa: B008 - frozen
        base_url: str = "", structured: bool = True,
    ):  # fmt: skip
        require("openai")
        if not base_url:
            api_key(KEY)
        self.where = f"openai {model} at {base_url or 'api.openai.com'}"
        self.identity: Mapping[str, Any] = {
            "writer": "openai",
            "model": model,
            "temperature": temperature,
            "base_url": base_url,
        }
        self.counts: dict[str, int] = {}
        self.pace, self._base_url, self._structured = pace, base_url, structured

    def replies(
        self, requests: Sequence[Request], go_on: Callable[[], bool]
    ) -> Iterator[tuple[int, Reply | Failure]]:
        return run_all(
            requests, self._session, self._attempt, trouble_of, self.pace, self.counts, go_on,
            self.where,
        )  # fmt: skip

    def params(self, request: Request) -> dict[str, Any]:
        """A request in OpenAI's words."""
        # OpenAI's own models want the newer name, other servers know the older one.
        room = "max_tokens" if self._base_url else "max_completion_tokens"
        params: dict[str, Any] = {
            "model": self.identity["model"],
            "messages": [
                {"role": "system", "content": request.system},
                {"role": "user", "content": asked(request, self._structured)},
            ],
            room: request.max_tokens,
        }
        if self.identity["temperature"] != 1.0:
            params["temperature"] = self.identity["temperature"]
        if request.items and self._structured:
            schema = {"name": "items", "schema": request.items.schema(), "strict": True}
            params["response_format"] = {"type": "json_schema", "json_schema": schema}
        return params

    @contextlib.asynccontextmanager
    async def _session(self):
        import openai

        options = {
            "api_key": os.environ.get(KEY, "").strip() or "none",
            "max_retries": 0,
            "timeout": self.pace.timeout,
        }
        if self._base_url:
            options["base_url"] = self._base_url
        async with openai.AsyncOpenAI(**options) as client:
            yield client

    async def _attempt(self, client: Any, request: Request) -> Reply:
        return _reply_of(await client.chat.completions.create(**self.params(request)))


def _reply_of(completion: Any) -> Reply:
    choices = getattr(completion, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        raise Trouble("broken response", "the reply has no choice", retry=True)
    choice, usage = choices[0], getattr(completion, "usage", None)
    reason, refusal = choice.finish_reason, getattr(choice.message, "refusal", None)
    stop = "refusal" if refusal else _STOPS.get(str(reason).lower())
    if stop is None:
        raise Trouble("broken response", f"the reply ended by {reason!r}", retry=True)
    read = usage.prompt_tokens if usage else 0
    details = getattr(usage, "prompt_tokens_details", None)
    cached = (getattr(details, "cached_tokens", 0) or 0) if details else 0
    return Reply(
        choice.message.content or refusal or "",
        stop,
        Usage(read - cached, usage.completion_tokens if usage else 0, cached),
        str(getattr(completion, "model", None) or ""),
    )


def trouble_of(error: Exception) -> Trouble:
    """What an exception of OpenAI's client means."""
    import openai

    if isinstance(error, Trouble):
        return error
    if isinstance(error, openai.APIStatusError):
        code = f"{error.code}: " if error.code else ""
        return status_trouble(error.status_code, f"{code}{error.message}", error.response.headers)
    if isinstance(error, openai.APITimeoutError):
        return Trouble("timeout", retry=True, slow=True)
    if isinstance(error, openai.APIConnectionError):
        return Trouble("connection lost", str(error.__cause__ or error), retry=True)
    if isinstance(error, openai.OpenAIError | ValueError | TypeError | AttributeError):
        return Trouble("broken response", f"{type(error).__name__}: {error}", retry=True)
    return Trouble("connection lost", f"{type(error).__name__}: {error}", retry=True)
