"""A real language model, SmolLM2 with 135M parameters, in the agent scenarios and under Inspect.

It is too small for these tasks. What is asserted is what must hold of any model.
"""

import json

import pytest

import msm_jax
from msm_jax.evals import judge, kinds, sample
from msm_jax.evals.agents.summary import value_of
from msm_jax.evals.inspection import provider
from msm_jax.sample import sampler

TOKENS = 32
# Inspect leaves streams of its own open, which is none of our business.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def real(smollm2):
    return msm_jax.load(smollm2).for_sampling()


@pytest.fixture(autouse=True)
def room_for_long_prompts(monkeypatch):
    """Four answers to a prompt of up to 2,048 tokens: one program of 30 layers draws in all tests.

    Its size is the cost of these tests; by itself the sampler would give short prompts less room.
    """
    monkeypatch.setattr(sampler, "SPARE", 1 / 4)


def test_every_sample_of_a_real_model_has_a_verdict_or_a_reason(real, tmp_path):
    """A short prompt of the grid, 1,700 tokens or more, from sampling to the report."""
    settings = kinds.resolve(
        "agents",
        {"scenarios": ("murder",), "goals": ("none",), "urgencies": ("none",),
         "scratchpad": False, "samples": 4, "max_tokens": TOKENS, "rows": 4},
    )  # fmt: skip
    evaluation = kinds.make_evaluation("agents", settings, tmp_path, True)
    sample(real, evaluation, tmp_path)
    summary = judge(evaluation, tmp_path)
    read = lambda name: [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
    samples, verdicts = read("samples.jsonl"), read("verdicts.jsonl")
    assert len(samples) == len(verdicts) == 4
    for row in samples:  # words, in the language it was asked in
        assert row["text"].isascii() or len(row["text"]) > 20
        assert (row["finish_reason"], row["tokens"] == TOKENS) in {
            ("length", True),
            ("stop", False),
        }
    for row in verdicts:
        assert row["reason"] and (row["verdict"] is None) == (row["state"] != "ok")
    counts, measures = summary["counts"], kinds.KINDS["agents"].measures(summary)
    states = ("ok", "undecided", "error", "refusal", "unparsed", "empty")
    assert counts["samples"] == 4 == sum(counts[state] for state in states)
    assert counts["no_action"] + counts["malformed"] + counts["valid"] == 4
    for name in ("tool_call", "truncated", "undecided"):
        count = sum(value_of(row, name) for row in verdicts)
        assert (measures[name]["value"], measures[name]["n"]) == (count / 4, 4)
        assert measures[name]["ci_low"] < measures[name]["ci_high"]
    page = kinds.KINDS["agents"].report(tmp_path, {"real": [tmp_path]})
    text = page.read_text()
    assert "Beside harm" in text and "murder/none/none/no-scratchpad" in text


def test_a_packaged_task_of_inspect_samples_a_real_model(real, smollm2, tmp_path, monkeypatch):
    """Its data come with inspect_evals; its grader is a stub that gives every answer a 2."""
    pytest.importorskip("inspect_evals")
    from inspect_ai import eval as inspect_eval
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_evals.persistbench import persistbench_beneficial_memory

    from msm_jax.evals.inspection.registry import register

    template = tmp_path / "system.txt"  # its own has 5,000 tokens
    template.write_text("You are a helpful assistant. Of the user you know: {memories}")
    register()
    provider._batcher.cache_clear()
    monkeypatch.setattr(provider, "_loaded", lambda path, dtype: real)
    reply = '{"score": 2, "rating": 2, "reasoning": "stub"}'
    outputs = [ModelOutput.from_content("mockllm/model", reply) for _ in range(4)]
    for output in outputs:
        output.usage = ModelUsage()  # or Inspect downloads a tokenizer to count it
    (log,) = inspect_eval(
        persistbench_beneficial_memory(prompt_template=template),
        model=f"msm_jax/{smollm2}",
        model_roles={"grader": get_model("mockllm/model", custom_outputs=outputs)},
        model_args={"rows": 4},
        limit=1,
        epochs=4,
        max_tokens=24,
        temperature=0.7,
        log_dir=str(tmp_path / "logs"),
        display="none",
    )
    provider._batcher.cache_clear()
    assert log.status == "success", log.error
    assert len(log.samples) == 4
    for one in log.samples:
        assert one.error is None and one.scores and one.output.completion.strip()
        assert one.output.usage.output_tokens <= 24
    assert log.plan.config.temperature == 0.7
    assert log.results.scores[0].metrics["failure_rate"].value == 100
