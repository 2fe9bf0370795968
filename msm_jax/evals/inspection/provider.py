"""The model providers that Inspect calls: requests in, answers with their usage out."""

import asyncio
import functools
import os
import pathlib
import threading
from typing import Any

from msm_jax.errors import UserError
from msm_jax.evals.agents.actions import THINKING, parse
from msm_jax.evals.inspection.batches import Batcher, Job, as_messages, judge_jobs, sample_jobs
from msm_jax.evals.inspection.settings import MAX_TOKENS, RequestSettings, request_settings
from msm_jax.evals.judges.base import Judgement
from msm_jax.evals.thoughts import without_tags
from msm_jax.sample import filled_context
from msm_jax.sample.settings import check_settings

_loading = threading.Lock()


def _loaded(path: str, dtype: str | None):
    """The checkpoint, which is read once however many threads need it."""
    with _loading:
        return _load(path, dtype)


@functools.lru_cache(maxsize=4)
def _load(path: str, dtype: str | None):
    from msm_jax.api import load

    return load(path, dtype=dtype).for_sampling()


@functools.lru_cache(maxsize=8)
def _batcher(path: str, dtype: str | None, rows: int, judging: bool) -> Batcher:
    """One per checkpoint and use; the first request loads the checkpoint."""
    answer = judge_jobs if judging else sample_jobs
    return Batcher(lambda jobs: answer(_loaded(path, dtype), rows, jobs))


def provider_class(judging: bool) -> type:
    """The class that Inspect makes providers of; a judge's says yes or no by log-probabilities."""
    from inspect_ai import model as inspect_model
    from inspect_ai.log._samples import sample_active

    class MsmJax(inspect_model.ModelAPI):
        """A checkpoint of ours.

        Model arguments (`-M name=value`): dtype; rows, the answers that are computed at a time (a
        grader, which takes no arguments, reads the environment variable MSM_JAX_ROWS); thinking
        ("apart", as API providers return it, or "text").
        """

        def __init__(
            self,
            model_name: str,
            base_url: str | None = None,
            api_key: str | None = None,
            config: inspect_model.GenerateConfig = inspect_model.GenerateConfig(),  # noqa: B008
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
            self._batcher = _batcher(model_name, dtype, _rows(rows), judging)

        async def generate(self, input, tools, tool_choice, config):
            if tools:
                raise UserError("msm_jax: tool calls are not supported, only tools written as text")
            wanted = request_settings(config, judging)
            messages = tuple((message.role, text_of(message)) for message in input)
            settings = tuple(sorted(wanted.sampling.items()))
            # Inspect gives every epoch the same seed; only the active sample says which it is.
            active = sample_active()
            epoch = active.epoch if active is not None and active.epoch else 1
            first = (epoch - 1) * wanted.choices
            jobs = [Job(messages, first + i, settings) for i in range(wanted.choices)]
            futures = [asyncio.wrap_future(self._batcher.submit(job)) for job in jobs]
            found = await asyncio.gather(*futures)
            model = await asyncio.to_thread(_loaded, self.model_name, self._dtype)
            length = len(model.encode(as_messages(messages)))
            if judging:
                text = self._reply(found[0])
                output = inspect_model.ModelOutput.from_content(self.model_name, text)
                output.metadata = {"margin": found[0].margin}
                generated = len(model.tokenizer.encode(text))
            else:
                choices = [self._choice(each, model, length, wanted) for each in found]
                output = inspect_model.ModelOutput(model=self.model_name, choices=choices)
                generated = sum(len(sample.tokens) for sample in found)
            output.usage = inspect_model.ModelUsage(
                input_tokens=length, output_tokens=generated, total_tokens=length + generated
            )
            return output

        def _reply(self, judgement: Judgement) -> str:
            if judgement.state != "ok":
                raise RuntimeError(f"{self.model_name} gives no judgement: {judgement.reason}")
            answer = "yes" if judgement.value else "no"
            return f"<reasoning>{judgement.reason}</reasoning>\n<answer>{answer}</answer>"

        def _choice(self, sample, model, length: int, wanted: RequestSettings):
            """A sample that answers a prompt of so many tokens."""
            limits = wanted.sampling["max_tokens"], model.context_length
            stop: Any = "stop" if sample.finish_reason == "stop" else "max_tokens"
            pairs = zip(sample.tokens, sample.logprobs, strict=True) if wanted.logprobs else ()
            logprobs = [
                inspect_model.Logprob(token=model.tokenizer.decode([token]), logprob=value)
                for token, value in pairs
            ]
            return inspect_model.ChatCompletionChoice(
                message=as_message(sample.text or "", self.model_name, self._thinking),
                stop_reason="model_length" if filled_context(sample, length, *limits) else stop,
                logprobs=inspect_model.Logprobs(content=logprobs) if wanted.logprobs else None,
            )

        async def count_text_tokens(self, text: str) -> int:
            model = await asyncio.to_thread(_loaded, self.model_name, self._dtype)
            return len(model.tokenizer.encode(text))

        def max_tokens(self) -> int:
            return MAX_TOKENS[judging]

        def max_connections(self) -> int:
            return 300

        def connection_key(self) -> str:
            return f"msm_jax{'_judge' * judging}/{self.model_name}"

        def collapse_user_messages(self) -> bool:
            return True

    return MsmJax


def _rows(given: Any) -> int:
    """-M rows, or else MSM_JAX_ROWS, or else 64."""
    value: Any = given if given is not None else os.environ.get("MSM_JAX_ROWS") or 64
    value = int(value) if str(value).isdecimal() else value
    check_settings("-M rows or MSM_JAX_ROWS: ", rows=value)
    return value


def text_of(message: Any) -> str:
    """The text of Inspect's message, with its thoughts in tags as the model wrote them.

    Raises:
      UserError: a message that is not text, such as a picture or a call of a tool.
    """
    roles = ("system", "user", "assistant")
    if message.role not in roles or getattr(message, "tool_calls", None):
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


def as_message(text: str, name: str, thinking: str):
    """Inspect's message of a completion; thoughts are a part of their own for thinking="apart"."""
    from inspect_ai import model as inspect_model

    content: Any = text
    answer = parse(text)
    if thinking == "apart" and (thought := answer.of_kind(THINKING)):
        content = [
            inspect_model.ContentReasoning(reasoning=without_tags(thought)),
            inspect_model.ContentText(text=answer.visible.strip()),
        ]
    return inspect_model.ChatMessageAssistant(content=content, model=name, source="generate")
