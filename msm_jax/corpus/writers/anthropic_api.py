"""Claude through Anthropic's own client: one request at a time, or many in a batch."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msm_jax.corpus.writers.request import Failure, Reply, Request, Usage
from msm_jax.corpus.writers.transport import (
    Pace,
    Trouble,
    api_key,
    require,
    run_all,
    status_trouble,
)

KEY = "ANTHROPIC_API_KEY"
_STOPS = {
    **dict.fromkeys(("end_turn", "stop_sequence", "tool_use"), "end"),
    "max_tokens": "length",
    "pause_turn": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}


class AnthropicWriter:
    """A `Backend`; `where` names it in messages.

    Args:
      model: as Anthropic names it.
      temperature: 1 is the provider's default and not sent.
      pace: limits.
      base_url: of another endpoint; "" is Anthropic's.
      structured: have the provider keep to the JSON Schema; without it the prompt must do.
    """

    def __init__(
        self, model: str, temperature: float = 1.0, pace: Pace = Pace(),  # noqa: B008 - frozen
        base_url: str = "", structured: bool = True,
    ):  # fmt: skip
        require("anthropic")
        api_key(KEY)
        self.where = f"anthropic {model}"
        self.identity: Mapping[str, Any] = {
            "writer": "anthropic",
            "model": model,
            "temperature": temperature,
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
        """A request in Anthropic's words. The spec's part is marked for the prompt cache."""
        system = {
            "type": "text",
            "text": request.system,
            "cache_control": {"type": "ephemeral"},
        }
        params: dict[str, Any] = {
            "model": self.identity["model"],
            "max_tokens": request.max_tokens,
            "system": [system],
            "messages": [{"role": "user", "content": asked(request, self._structured)}],
        }
        if self.identity["temperature"] != 1.0:
            params["temperature"] = self.identity["temperature"]
        if request.items and self._structured:
            schema = {"type": "json_schema", "schema": request.items.schema()}
            params["output_config"] = {"format": schema}
        return params

    def client_options(self) -> dict[str, Any]:
        """For either client: the key from the environment, no retries but ours."""
        options = {"api_key": api_key(KEY), "max_retries": 0, "timeout": self.pace.timeout}
        return options | ({"base_url": self._base_url} if self._base_url else {})

    @contextlib.asynccontextmanager
    async def _session(self):
        import anthropic

        async with anthropic.AsyncAnthropic(**self.client_options()) as client:
            yield client

    async def _attempt(self, client: Any, request: Request) -> Reply:
        message = await client.messages.create(**self.params(request))
        return reply_of(message)


def asked(request: Request, structured: bool) -> str:
    """The prompt, with the structure in words where no schema is sent."""
    if request.items is None or structured:
        return request.prompt
    fields = ", ".join(f'"{name}": "..."' for name in request.items.fields)
    return (
        f'{request.prompt}\n\nReply with one JSON object and nothing else: {{"items": '
        f"[{{{fields}}}, ...]}}"
    )


def reply_of(message: Any) -> Reply:
    """A reply of the provider as ours.

    Raises:
      Trouble: it is not a whole message.
    """
    usage, blocks = getattr(message, "usage", None), getattr(message, "content", None)
    if usage is None or not isinstance(blocks, list) or not getattr(message, "stop_reason", None):
        raise Trouble("broken response", "the reply is not a whole message", retry=True)
    text = "".join(block.text for block in blocks if block.type == "text")
    paid = Usage(
        input_tokens=usage.input_tokens or 0,
        output_tokens=usage.output_tokens or 0,
        cache_read_tokens=getattr(usage, "cache_read_input_tokens", 0) or 0,
        cache_write_tokens=getattr(usage, "cache_creation_input_tokens", 0) or 0,
    )
    model = str(getattr(message, "model", None) or "")
    stop = _STOPS.get(str(message.stop_reason))
    if stop is None:
        raise Trouble("broken response", f"the reply ended by {message.stop_reason!r}", retry=True)
    return Reply(text, stop, paid, model)


def trouble_of(error: Exception) -> Trouble:
    """What an exception of Anthropic's client means."""
    import anthropic

    if isinstance(error, Trouble):
        return error
    if isinstance(error, anthropic.APIStatusError):
        return status_trouble(error.status_code, error.message, error.response.headers)
    if isinstance(error, anthropic.APITimeoutError):
        return Trouble("timeout", retry=True, slow=True)
    if isinstance(error, anthropic.APIConnectionError):
        return Trouble("connection lost", str(error.__cause__ or error), retry=True)
    if isinstance(error, anthropic.APIError | ValueError | TypeError | AttributeError):
        # JSON that ends in the middle, or is something else altogether.
        return Trouble("broken response", f"{type(error).__name__}: {error}", retry=True)
    return Trouble("connection lost", f"{type(error).__name__}: {error}", retry=True)
