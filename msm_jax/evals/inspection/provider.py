"""The model provider that Inspect drives: requests in, answers with their usage out."""

import asyncio
import functools
import inspect as signatures
import os
import pathlib
import threading
from typing import Any

from msm_jax.errors import UserError
from msm_jax.evals.agents.actions import THINKING, parse
from msm_jax.evals.inspection.batches import Batcher, Job, Messages, as_messages, judged, sampled

DEFAULT_MAX_TOKENS, DEFAULT_CONNECTIONS = 4096, 300
JUDGE_MAX_TOKENS = 512
ROWS_VARIABLE = "MSM_JAX_ROWS"
# Settings of Inspect that a sampler may have under another name; what it lacks is an error.
_PASSED_ON = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k"}
_REFUSED = ("frequency_penalty", "presence_penalty", "logit_bias", "top_logprobs", "best_of")


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
            rows = int(rows or os.environ.get(ROWS_VARIABLE) or 64)
            self._batcher = _batcher(model_name, dtype, rows, judging)

        async def generate(self, input, tools, tool_choice, config):
            if tools:
                raise UserError("msm_jax: tool calls are not supported, only tools written as text")
            messages = tuple((message.role, message.text) for message in input)
            choices = 1 if judging else config.num_choices or 1
            settings = tuple(sorted(self._settings(config).items()))
            first = (_epoch() - 1) * choices
            jobs = [Job(messages, first + i, settings) for i in range(choices)]
            futures = [asyncio.wrap_future(self._batcher.submit(job)) for job in jobs]
            found = await asyncio.gather(*futures)
            model = await asyncio.to_thread(_loaded, self.model_name, self._dtype)
            prompt = _prompt_tokens(self.model_name, self._dtype, messages)
            if judging:
                return _judge_output(self.model_name, found[0], prompt, model)
            return _output(self.model_name, found, prompt, model, config, self._thinking)

        def _settings(self, config) -> dict[str, Any]:
            from msm_jax.api import Model

            known = signatures.signature(Model.sample).parameters
            settings: dict[str, Any] = {
                "max_tokens": config.max_tokens or self.max_tokens(),
                "temperature": 1.0,
                "seed": config.seed or 0,
            }
            for theirs, ours in _PASSED_ON.items():
                value = getattr(config, theirs, None)
                if value is not None and ours not in known:
                    raise UserError(f"msm_jax: {theirs}={value} is not supported by the sampler")
                if value is not None:
                    settings[ours] = value
            refused = [name for name in _REFUSED if getattr(config, name, None)]
            if refused:
                raise UserError(f"msm_jax: {refused[0]} is not supported by the sampler")
            return settings

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


def _output(name, samples, prompt_tokens, model, config, thinking):
    from inspect_ai.model import ChatCompletionChoice, ModelOutput

    choices = []
    for sample in samples:
        text, reason = sample.text or "", "stop" if sample.finish_reason == "stop" else "max_tokens"
        stops = [text.find(stop) for stop in config.stop_seqs or () if stop in text]
        if stops:
            text, reason = text[: min(stops)], "stop"
        choices.append(
            ChatCompletionChoice(
                message=_message(text, name, thinking),
                stop_reason=reason,
                logprobs=_logprobs(sample, model) if config.logprobs else None,
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
    plain = thought.strip().removeprefix("<think>").removesuffix("</think>").strip()
    parts = [ContentReasoning(reasoning=plain), ContentText(text=answer.visible.strip())]
    return ChatMessageAssistant(content=parts, model=name, source="generate")


def _logprobs(sample, model):
    from inspect_ai.model import Logprob, Logprobs

    pairs = zip(sample.tokens, sample.logprobs, strict=True)
    decode = model.tokenizer.decode
    return Logprobs(content=[Logprob(token=decode([t]), logprob=value) for t, value in pairs])


def _usage(prompt, generated):
    from inspect_ai.model import ModelUsage

    return ModelUsage(input_tokens=prompt, output_tokens=generated, total_tokens=prompt + generated)
