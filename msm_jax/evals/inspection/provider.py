"""The model provider that Inspect drives: requests in, answers with their usage out."""

import asyncio
import functools
import os
import pathlib
import threading
from typing import Any

from msm_jax.errors import UserError
from msm_jax.evals.agents.actions import THINKING, parse
from msm_jax.evals.inspection.batches import Batcher, Job, Messages, as_messages, judged, sampled
from msm_jax.evals.inspection.settings import (
    DEFAULT_MAX_TOKENS,
    JUDGE_MAX_TOKENS,
    Asked,
    asked_for,
)
from msm_jax.evals.thoughts import without_tags
from msm_jax.sample.settings import check_settings

DEFAULT_CONNECTIONS = 300
ROWS_VARIABLE = "MSM_JAX_ROWS"
ROLES = ("system", "user", "assistant")

_loading = threading.Lock()


def _loaded(path: str, dtype: str | None):
    """The checkpoint, read once, whoever asks first."""
    with _loading:
        return _load(path, dtype)


@functools.lru_cache(maxsize=4)
def _load(path: str, dtype: str | None):
    from msm_jax.api import load

    return load(path, dtype=dtype).for_sampling()


@functools.lru_cache(maxsize=1024)
def _prompt_tokens(path: str, dtype: str | None, messages: Messages) -> int:
    """How long a prompt is; the 300 requests of a condition ask the same."""
    return len(_loaded(path, dtype).encode(as_messages(messages)))


@functools.lru_cache(maxsize=8)
def _batcher(path: str, dtype: str | None, rows: int, judging: bool) -> Batcher:
    """One per checkpoint and use; the checkpoint is loaded with the first request."""

    def answer(jobs):
        return (judged if judging else sampled)(_loaded(path, dtype), rows)(jobs)

    return Batcher(answer)


def provider_class(judging: bool) -> type:
    """The class that Inspect makes a provider of.

    Model arguments (`-M name=value`): dtype, rows (computed at a time; a grader, which takes no
    arguments, has them from the environment variable MSM_JAX_ROWS), thinking ("apart" as API
    providers hand it on, or "text").
    """
    from inspect_ai.model import GenerateConfig, ModelAPI

    class MsmJax(ModelAPI):
        """A checkpoint of ours."""

        def __init__(
            self,
            model_name: str,
            base_url: str | None = None,
            api_key: str | None = None,
            config: GenerateConfig = GenerateConfig(),  # noqa: B008
            dtype: str | None = None,
            rows: int | None = None,
            thinking: str = "apart",
            **model_args: Any,
        ):
            super().__init__(model_name, base_url, api_key, [], config)
            if model_args:
                raise UserError(f"-M: unknown {sorted(model_args)}; known: dtype, rows, thinking")
            if thinking not in ("apart", "text"):
                raise UserError(f"-M thinking={thinking}: apart or text")
            if not pathlib.Path(model_name).is_dir():
                raise UserError(f"{model_name}: no such run directory")
            self._dtype, self._thinking = dtype, thinking
            rows = _rows(rows)
            self._batcher = _batcher(model_name, dtype, rows, judging)

        async def generate(self, input, tools, tool_choice, config):
            if tools:
                raise UserError("msm_jax: tool calls are not supported, only tools written as text")
            asked = self._settings(config)
            messages = tuple((message.role, _text(message)) for message in input)
            settings = tuple(sorted(asked.sampling.items()))
            first = (_epoch() - 1) * asked.choices
            jobs = [Job(messages, first + i, settings) for i in range(asked.choices)]
            futures = [asyncio.wrap_future(self._batcher.submit(job)) for job in jobs]
            found = await asyncio.gather(*futures)
            model = await asyncio.to_thread(_loaded, self.model_name, self._dtype)
            prompt = _prompt_tokens(self.model_name, self._dtype, messages)
            if judging:
                return _judge_output(self.model_name, found[0], prompt, model)
            return _output(self.model_name, found, prompt, model, asked, self._thinking)

        def _settings(self, config) -> Asked:
            return asked_for(config, judging)

        async def count_text_tokens(self, text: str) -> int:
            model = await asyncio.to_thread(_loaded, self.model_name, self._dtype)
            return len(model.tokenizer.encode(text))

        def max_tokens(self) -> int:
            return JUDGE_MAX_TOKENS if judging else DEFAULT_MAX_TOKENS

        def max_connections(self) -> int:
            return DEFAULT_CONNECTIONS

        def connection_key(self) -> str:
            return f"msm_jax{'_judge' * judging}/{self.model_name}"

        def collapse_user_messages(self) -> bool:
            return True

    return MsmJax


def _epoch() -> int:
    """Which repetition of a sample this request is of, from 1: equal prompts, other dice.

    Inspect gives every epoch the same seed, and tells the epoch only through what runs.
    """
    from inspect_ai.log._samples import sample_active

    active = sample_active()
    return active.epoch if active is not None and active.epoch else 1


def _rows(given: Any) -> int:
    """-M rows, or else MSM_JAX_ROWS, or else 64."""
    value: Any = given if given is not None else os.environ.get(ROWS_VARIABLE) or 64
    value = int(value) if str(value).isdecimal() else value
    check_settings(f"-M rows or {ROWS_VARIABLE}: ", rows=value)
    return value


def _text(message) -> str:
    """A message's text, its thoughts within tags as the model wrote them.

    Raises:
      UserError: what is no text, such as a picture or a call of a tool.
    """
    if message.role not in ROLES or getattr(message, "tool_calls", None):
        raise UserError(
            f"msm_jax: a message of role {message.role!r} calls a tool or answers for one, which "
            "is not supported; only tools written as text are"
        )
    if isinstance(message.content, str):
        return message.content
    kinds = {part.type for part in message.content} - {"text", "reasoning"}
    if kinds:
        raise UserError(f"msm_jax: {sorted(kinds)} in a message: the model reads only text")
    shown = lambda part: (
        part.text if part.type == "text" else f"<think>\n{part.reasoning}\n</think>\n\n"
    )
    return "".join(map(shown, message.content))


def _output(name, samples, prompt_tokens, model, asked: Asked, thinking):
    from inspect_ai.model import ChatCompletionChoice, ModelOutput, StopReason

    from msm_jax.sample import filled_context

    limits = asked.sampling["max_tokens"], model.context_length
    choices = []
    for sample in samples:
        full = filled_context(sample, prompt_tokens, *limits)
        reason: StopReason = "stop" if sample.finish_reason == "stop" else "max_tokens"
        choices.append(
            ChatCompletionChoice(
                message=_message(sample.text or "", name, thinking),
                stop_reason="model_length" if full else reason,
                logprobs=_logprobs(sample, model) if asked.logprobs else None,
            )
        )
    generated = sum(len(sample.tokens) for sample in samples)
    return ModelOutput(model=name, choices=choices, usage=_usage(prompt_tokens, generated))


def _judge_output(name, judgement, prompt_tokens, model):
    from inspect_ai.model import ModelOutput

    if judgement.state != "ok":
        raise RuntimeError(f"{name} gives no judgement: {judgement.reason}")
    answer = "yes" if judgement.value else "no"
    text = f"<reasoning>{judgement.reason}</reasoning>\n<answer>{answer}</answer>"
    output = ModelOutput.from_content(name, text)
    output.usage = _usage(prompt_tokens, len(model.tokenizer.encode(text)))
    output.metadata = {"margin": judgement.margin}
    return output


def _message(text, name, thinking):
    from inspect_ai.model import ChatMessageAssistant, ContentReasoning, ContentText

    answer = parse(text)
    thought = answer.of_kind(THINKING)
    if thinking == "text" or not thought:
        return ChatMessageAssistant(content=text, model=name, source="generate")
    parts = [
        ContentReasoning(reasoning=without_tags(thought)),
        ContentText(text=answer.visible.strip()),
    ]
    return ChatMessageAssistant(content=parts, model=name, source="generate")


def _logprobs(sample, model):
    from inspect_ai.model import Logprob, Logprobs

    pairs = zip(sample.tokens, sample.logprobs, strict=True)
    decode = model.tokenizer.decode
    return Logprobs(content=[Logprob(token=decode([t]), logprob=value) for t, value in pairs])


def _usage(prompt, generated):
    from inspect_ai.model import ModelUsage

    return ModelUsage(input_tokens=prompt, output_tokens=generated, total_tokens=prompt + generated)
