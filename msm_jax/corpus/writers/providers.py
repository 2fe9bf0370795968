"""The two protocols of models behind an API: Anthropic's messages and OpenAI's chat completions."""

from collections.abc import Mapping
from typing import Any

from msm_jax.corpus.writers.api_errors import ApiError, without_keys
from msm_jax.corpus.writers.client import ApiClient
from msm_jax.corpus.writers.request import Reply, Request, Usage, token_count
from msm_jax.limits import REPLY_CHARACTERS


class AnthropicClient(ApiClient):
    """Anthropic's messages. The system prompt (the spec) is marked for the prompt cache."""

    library, key_name = "anthropic", "ANTHROPIC_API_KEY"
    asynchronous, method = "AsyncAnthropic", "messages.create"
    _STOPS = {
        **dict.fromkeys(("end_turn", "stop_sequence", "tool_use"), "end"),
        **dict.fromkeys(("max_tokens", "pause_turn", "model_context_window_exceeded"), "length"),
        "refusal": "refusal",
    }

    def params(self, request: Request) -> dict[str, Any]:
        cached = {"cache_control": {"type": "ephemeral"}}
        params: dict[str, Any] = {
            **self.settings,
            "max_tokens": request.max_tokens,
            "system": [{"type": "text", "text": request.system, **cached}],
            "messages": [{"role": "user", "content": prompt_of(request, self.structured)}],
        }
        if request.items and self.structured:
            schema = {"type": "json_schema", "schema": request.items.schema()}
            params["output_config"] = {"format": schema}
        return params

    def reply_of(self, message: Any, request: Request) -> Reply:
        usage, blocks = getattr(message, "usage", None), getattr(message, "content", None)
        reason = getattr(message, "stop_reason", None)
        if usage is None or not isinstance(blocks, list) or not reason:
            raise ApiError("broken response", "the reply is not a complete message", retry=True)
        text = _usable("".join(block.text for block in blocks if block.type == "text"))
        cached = ("cache_read_input_tokens", "cache_creation_input_tokens")
        tokens = [getattr(usage, name, None) for name in ("input_tokens", "output_tokens")]
        tokens += [getattr(usage, name, None) or 0 for name in cached]
        used = Usage.reported(request, text, *tokens)
        return Reply(text, _stop_of(self._STOPS, reason), used, _model_of(message))


class OpenAIClient(ApiClient):
    """OpenAI's chat completions, and every server that speaks them: vLLM, llama.cpp, Ollama, ...

    A server of the user's, named by `base_url` ("http://localhost:8000/v1"), may need no key.
    """

    library, key_name, key_optional = "openai", "OPENAI_API_KEY", True
    asynchronous, method = "AsyncOpenAI", "chat.completions.create"
    # Why a reply ended, in the words of OpenAI and of servers that speak its protocol. A reply with
    # another reason or none may be incomplete (vLLM's "abort", OpenRouter's "error").
    _STOPS = {
        **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence"), "end"),
        **dict.fromkeys(("tool_calls", "function_call"), "end"),
        **dict.fromkeys(("length", "max_tokens", "model_length"), "length"),
        "content_filter": "refusal",
    }

    def __init__(self, model: str, *settings: Any, **named: Any):
        super().__init__(model, *settings, **named)
        self.where += f" at {self.base_url or 'api.openai.com'}"
        self.identity = {**self.identity, "base_url": self.base_url}

    def params(self, request: Request) -> dict[str, Any]:
        # OpenAI's own models want the newer name, other servers know the older one.
        room = "max_tokens" if self.base_url else "max_completion_tokens"
        params: dict[str, Any] = {
            **self.settings,
            "messages": messages_of(request, self.structured),
            room: request.max_tokens,
        }
        if request.items and self.structured:
            schema = {"name": "items", "schema": request.items.schema(), "strict": True}
            params["response_format"] = {"type": "json_schema", "json_schema": schema}
        return params

    def reply_of(self, message: Any, request: Request) -> Reply:
        choices = getattr(message, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            raise ApiError("broken response", "the reply has no choice", retry=True)
        said, usage = choices[0].message, getattr(message, "usage", None)
        refusal = getattr(said, "refusal", None)
        stop = "refusal" if refusal else _stop_of(self._STOPS, choices[0].finish_reason)
        silent = said.content is None or said.content == ""
        text = _usable((refusal or "") if silent else said.content)
        details = getattr(usage, "prompt_tokens_details", None)
        cached = token_count(getattr(details, "cached_tokens", None) or 0)
        read = token_count(getattr(usage, "prompt_tokens", None))  # those in the cache included
        fresh = None if read is None or cached is None else read - cached
        written = getattr(usage, "completion_tokens", None)
        used = Usage.reported(request, text, fresh, written, cached)
        return Reply(text, stop, used, _model_of(message))


def prompt_of(request: Request, structured: bool) -> str:
    """The prompt, with the structure in words where no schema is sent."""
    if request.items is None or structured:
        return request.prompt
    fields = ", ".join(f'"{name}": "..."' for name in request.items.fields)
    return (
        f'{request.prompt}\n\nReply with one JSON object and nothing else: {{"items": '
        f"[{{{fields}}}, ...]}}"
    )


def messages_of(request: Request, structured: bool) -> list[dict[str, str]]:
    """A request as a conversation."""
    return [
        {"role": "system", "content": request.system},
        {"role": "user", "content": prompt_of(request, structured)},
    ]


def _usable(text: Any) -> str:
    """The text of a reply, with our keys masked.

    Raises:
      ApiError: it is no text, or too long to be kept.
    """
    if not isinstance(text, str):
        said = f"the reply's content is no text but of type {type(text).__name__}"
        raise ApiError("broken response", said, retry=True)
    if len(text) > REPLY_CHARACTERS:
        # Not tried again: the next attempt would be paid for as well.
        raise ApiError("reply too long", f"{len(text):,} characters, more than {REPLY_CHARACTERS}")
    return without_keys(text)


def _model_of(message: Any) -> str:
    return str(getattr(message, "model", None) or "")[:200]


def _stop_of(stops: Mapping[str, str], reason: Any) -> str:
    stop = stops.get(str(reason).lower())
    if stop is None:
        raise ApiError("broken response", f"the reply ended by {reason!r}", retry=True)
    return stop


CLIENTS: dict[str, type[ApiClient]] = {"anthropic": AnthropicClient, "openai": OpenAIClient}
