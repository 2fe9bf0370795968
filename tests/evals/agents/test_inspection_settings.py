"""What Inspect asks for arrives, or is refused by name: no setting passes silently."""

import asyncio
import dataclasses
import re

import pytest

from msm_jax.errors import UserError
from msm_jax.evals.inspection import provider
from msm_jax.evals.inspection.settings import (
    HARMLESS,
    REFUSED,
    REFUSED_BY_JUDGE,
    USED,
    request_settings,
)

inspect_model = pytest.importorskip("inspect_ai.model")
GenerateConfig = inspect_model.GenerateConfig

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
QUESTION = "To: kyle"
CHANGE_NO_VERDICT = ("seed", "top_p", "top_k")  # a judge reasons greedily
# A value of each field's type that is not neutral.
VALUES = {
    "max_tokens": 5, "temperature": 0.7, "top_p": 0.9, "top_k": 20, "seed": 3, "stop_seqs": ["to"],
    "num_choices": 2, "logprobs": True,
    "adaptive_connections": 3, "system_message": "you are", "cache": True, "cache_prompt": True,
    "fallback_models": ["other"], "fail_on_refusal": True, "reasoning_history": "all",
    "parallel_tool_calls": False, "internal_tools": True, "batch": True,
    "extra_headers": {"a": "b"}, "logit_bias": {42: 10.0}, "extra_body": {"min_p": 0.1},
    "modalities": ["image"], "verbosity": "low", "effort": "low", "reasoning_effort": "low",
    "reasoning_mode": "pro", "reasoning_summary": "auto",
    "response_schema": inspect_model.ResponseSchema(
        name="answer", json_schema={"type": "object"}
    ),
}  # fmt: skip


def value_of(name):
    return VALUES.get(name, 2)


def test_the_table_has_every_field_of_inspect_once():
    rows = [*USED, *HARMLESS, *REFUSED]
    assert len(rows) == len(set(rows))
    assert set(rows) == set(GenerateConfig.model_fields)
    assert {*REFUSED_BY_JUDGE, *CHANGE_NO_VERDICT, "max_tokens"} == set(USED)


def test_the_documentation_has_every_field(root):
    page = (root / "docs" / "evals.md").read_text(encoding="utf-8")
    starts = ("| used |", "| change no answer here |", "| refused by name |")
    lines = [line for start in starts for line in page.splitlines() if line.startswith(start)]
    rows = (USED, HARMLESS, REFUSED)
    for line, names in zip(lines, rows, strict=True):
        assert set(re.findall("`(.*?)`", line)) == set(names)


@pytest.mark.parametrize("name", GenerateConfig.model_fields)
def test_each_field_is_used_harmless_or_refused_by_name(name):
    plain = request_settings(GenerateConfig())
    config = GenerateConfig(**{name: value_of(name)})
    if name in REFUSED:
        with pytest.raises(UserError, match=rf"msm_jax: {name}="):
            request_settings(config)
        for nothing in REFUSED[name][0]:
            assert request_settings(GenerateConfig(**{name: nothing})) == plain
    elif name in HARMLESS:
        assert request_settings(config) == plain
    else:
        assert request_settings(config) != plain


@pytest.mark.parametrize("name", USED)
def test_a_judge_refuses_what_would_change_nothing(name):
    plain, config = (
        request_settings(GenerateConfig(), True),
        GenerateConfig(**{name: value_of(name)}),
    )
    if name in REFUSED_BY_JUDGE:
        with pytest.raises(UserError, match=rf"{name}="):
            request_settings(config, judging=True)
        for nothing in REFUSED_BY_JUDGE[name][0]:
            assert request_settings(GenerateConfig(**{name: nothing}), True) == plain
    else:
        assert (request_settings(config, True) == plain) == (name in CHANGE_NO_VERDICT)


@pytest.mark.parametrize(
    ("name", "value"),
    [("stop_seqs", [""]), ("max_tokens", 0), ("temperature", -1), ("top_p", 0), ("top_k", -1),
     ("seed", 2**32), ("num_choices", 0)],
)  # fmt: skip
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(UserError, match="msm_jax: "):
        request_settings(GenerateConfig(**{name: value}))


def test_a_field_of_a_later_inspect_is_refused():
    class Later(GenerateConfig):
        tomorrow: int | None = None

    assert request_settings(Later()) == request_settings(GenerateConfig())
    with pytest.raises(UserError, match="tomorrow=1"):
        request_settings(Later(tomorrow=1))


# ------------------------------------------------------------------ to the sampler and back


@pytest.fixture
def served(run_dir, model, monkeypatch):
    """Makes Inspect's model of a checkpoint that is loaded already."""
    from msm_jax.evals.inspection.registry import register

    register()
    monkeypatch.setenv("MSM_JAX_ROWS", "2")

    def serve(model=model):
        provider._batcher.cache_clear()
        monkeypatch.setattr(provider, "_loaded", lambda path, dtype: model)
        return inspect_model.get_model(f"msm_jax/{run_dir}", memoize=False)

    yield serve
    provider._batcher.cache_clear()


def ask(served, config, question=QUESTION):
    return asyncio.run(served.generate(question, config=GenerateConfig(**config)))


def chat(text=QUESTION):
    return [{"role": "user", "content": text}]


def test_settings_reach_the_sampler(served, model):
    config = {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "seed": 3, "max_tokens": 4}
    output = ask(served(), {**config, "num_choices": 3})
    (ours,) = model.sample([chat()], 3, rows=2, **config)
    assert [choice.message.text for choice in output.choices] == [sample.text for sample in ours]
    (other,) = model.sample([chat()], 3, rows=2, **{**config, "temperature": 1.0, "top_k": 0})
    assert [sample.tokens for sample in other] != [sample.tokens for sample in ours]


def test_nothing_beyond_a_stop_is_kept_billed_or_scored(served, model):
    config = {"max_tokens": 24, "temperature": 1.0, "seed": 1}
    free = ask(served(), config).completion
    stop = free[2:4]
    output = ask(served(), {**config, "stop_seqs": [stop], "logprobs": True})
    (choice,) = output.choices
    assert (output.completion, choice.stop_reason) == (free[: free.find(stop)], "stop")
    (ours,) = model.sample([chat()], 1, stop=stop, rows=2, **config)[0]
    assert len(choice.logprobs.content) == output.usage.output_tokens == len(ours.tokens) < 24
    assert [one.logprob for one in choice.logprobs.content] == ours.logprobs


def test_the_models_context_ends_an_answer_and_refuses_a_prompt(served, model):
    length = len(model.encode(chat()))
    short = dataclasses.replace(model, context_length=length + 2)
    with pytest.warns(UserWarning, match="context"):
        output = ask(served(short), {"max_tokens": 9})
    assert output.stop_reason == "model_length" and output.usage.output_tokens == 2
    assert ask(served(), {"max_tokens": 2}).stop_reason == "max_tokens"
    with pytest.raises(UserError, match="context of"):
        ask(served(dataclasses.replace(model, context_length=length)), {"max_tokens": 2})


def test_a_bad_request_fails_alone(served, model):
    """Asked together: a prompt that is too long, a setting that we lack, two that are good."""
    fits = len(model.encode(chat()))
    one = served(dataclasses.replace(model, context_length=fits + 9))
    asks = [
        one.generate(QUESTION, config=GenerateConfig(max_tokens=4)),
        one.generate(QUESTION * 20, config=GenerateConfig(max_tokens=4)),
        one.generate(QUESTION, config=GenerateConfig(max_tokens=4, best_of=3)),
        one.generate(QUESTION, config=GenerateConfig(max_tokens=4, seed=5)),
    ]

    async def together():
        return await asyncio.gather(*asks, return_exceptions=True)

    good, long, unknown, also = asyncio.run(together())
    for output, seed in ((good, 0), (also, 5)):
        (ours,) = model.sample([chat()], 1, max_tokens=4, temperature=1.0, seed=seed, rows=2)[0]
        assert output.completion == ours.text
    assert "context of" in str(long) and "best_of=3" in str(unknown)


def test_what_is_no_text_is_refused_and_thoughts_are_kept(model):
    made = inspect_model
    thought = made.ChatMessageAssistant(
        content=[made.ContentReasoning(reasoning="hm"), made.ContentText(text="I act.")]
    )
    assert provider.text_of(thought) == "<think>\nhm\n</think>\n\nI act."
    assert provider.text_of(made.ChatMessageUser(content=[made.ContentText(text="a")])) == "a"
    with pytest.raises(UserError, match="image"):
        provider.text_of(made.ChatMessageUser(content=[made.ContentImage(image="x.png")]))
    with pytest.raises(UserError, match="'tool'"):
        provider.text_of(made.ChatMessageTool(content="4", tool_call_id="1"))


@pytest.mark.parametrize("rows", ["0", "-1", "many"])
def test_rows_are_checked(run_dir, monkeypatch, rows):
    monkeypatch.setenv("MSM_JAX_ROWS", rows)
    with pytest.raises(UserError, match="MSM_JAX_ROWS"):
        provider.provider_class(judging=False)(str(run_dir))
