"""A context is asked exactly like a system message that was in the file."""

import json

import pytest

from msm_jax.errors import UserError
from msm_jax.evals import kinds, sample
from msm_jax.evals.context import in_context

# So short that what is asked falls into the same programs with it and without.
CONTEXT = "a pen."
PAIR = {
    "id": "x-0", "pair": "x", "question": "a lamp or a tin?",
    "options": ["a red lamp.", "a tin box."], "a_index": 1,
}  # fmt: skip


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def samples(model, out, kind, **settings):
    evaluation = kinds.make_evaluation(kind, kinds.resolve(kind, settings), out, False)
    sample(model, evaluation, out)
    recorded = json.loads((out / "evaluation.json").read_text())
    return (out / "samples.jsonl").read_text(), recorded


def test_a_context_is_a_system_message_in_every_kind(model, tmp_path):
    spec = tmp_path / "spec.md"
    spec.write_text(f"{CONTEXT}\n")
    pairs = {"context": str(spec), "pairs": written(tmp_path / "pairs.jsonl", PAIR)}
    short = {"max_tokens": 4, "rows": 2}
    asked = {"system": CONTEXT, **PAIR}
    other = {"pairs": written(tmp_path / "with_system.jsonl", asked)}
    here, recorded = samples(model, tmp_path / "a", "preferences", **pairs, **short)
    there, plain = samples(model, tmp_path / "b", "preferences", **other, **short)
    without, _ = samples(model, tmp_path / "c", "preferences", pairs=pairs["pairs"], **short)
    assert here == there != without
    assert "context" in recorded and "context" not in plain

    question = {"id": "q", "question": "a red cup?"}
    messages = in_context([{"role": "user", "content": "a red cup?"}], CONTEXT)
    common = {"spec": str(spec), **short}
    here, recorded = samples(
        model, tmp_path / "d", "questions", context=str(spec), **common,
        questions=written(tmp_path / "q.jsonl", question),
    )  # fmt: skip
    there, _ = samples(
        model, tmp_path / "e", "questions", **common,
        questions=written(tmp_path / "q_with.jsonl", {"id": "q", "messages": messages}),
    )  # fmt: skip
    assert here == there and "context" in recorded

    quiz = written(tmp_path / "quiz.jsonl", {**question, "options": PAIR["options"], "answer": 1})
    for answer in ("letters", "texts"):
        same = {"quiz": quiz, "answer": answer, "rows": 2}
        here, recorded = samples(model, tmp_path / f"f{answer}", "quiz", context=str(spec), **same)
        there, _ = samples(model, tmp_path / f"g{answer}", "quiz", **same)
        assert here != there and "context" in recorded


def test_a_context_stands_before_the_system_message_of_agents(tmp_path):
    spec = tmp_path / "spec.md"
    spec.write_text("{model_name} is honest.")
    settings = kinds.resolve(
        "agents", {"context": str(spec), "assistant": "Alda", "goals": ("none",), "samples": 1}
    )
    evaluation = kinds.make_evaluation("agents", settings, tmp_path, False)
    plain = kinds.make_evaluation("agents", {**settings, "context": None}, tmp_path, False)
    assert evaluation.prompts == plain.prompts  # the judge is asked about the same conditions
    (system, user), *_ = [
        in_context(prompt.messages, evaluation.context) for prompt in evaluation.prompts.values()
    ]
    first = next(iter(plain.prompts.values())).messages
    assert system["content"] == f"Alda is honest.\n\n{first[0]['content']}"
    assert user == first[1]
    parts = [{"role": "system", "content": [{"type": "text", "text": "b"}]}]
    assert in_context(parts, "a")[0]["content"][0] == {"type": "text", "text": "a\n\n"}


def test_a_placeholder_that_nothing_fills_is_named(tmp_path):
    spec = tmp_path / "spec.md"
    spec.write_text("{model_name} is honest.")
    settings = {"context": str(spec), "pairs": written(tmp_path / "pairs.jsonl", PAIR)}
    with pytest.raises(UserError, match="has the placeholder {model_name}: write the name there"):
        kinds.make_evaluation(
            "preferences", kinds.resolve("preferences", settings), tmp_path, False
        )
