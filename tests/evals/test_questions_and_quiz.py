"""Open questions scored by a judge, and a quiz about a spec by log-probability."""

import json

import numpy as np
import pytest

from msm_jax.errors import UserError
from msm_jax.evals import judge, kinds, material, sample
from msm_jax.evals.judges.base import Judgement
from msm_jax.evals.questions import OpenQuestions, load_questions
from msm_jax.evals.quiz import Quiz, load_quiz

SPEC = "{model_name} is honest."
ONLY_THOUGHT = ("<think>only", "<SCRATCHPAD_REASONING>only</SCRATCHPAD_REASONING>")


class StubJudge:
    identity = {"judge": "stub"}

    def __init__(self, answer):
        self._answer, self.requests = answer, []

    def judge(self, requests):
        self.requests = list(requests)
        for index in range(len(requests)):
            yield index, self._answer(index)


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def questions(tmp_path):
    rows = [{"question": f"a red lamp {i}?", "dimension": "xy"[i % 2]} for i in range(6)]
    return write(tmp_path / "questions.jsonl", *rows)


def scored(model, questions, tmp_path, answer, texts=None):
    stub = StubJudge(answer)
    evaluation = OpenQuestions(questions, SPEC, samples=2, max_tokens=4, rows=2, judge=stub)
    out = tmp_path / "out"
    sample(model, evaluation, out)
    if texts:
        rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
        write(out / "samples.jsonl", *[{**r, "text": texts(i)} for i, r in enumerate(rows)])
    return judge(evaluation, out), stub


def test_scores_are_means_with_questions_as_clusters(model, questions, tmp_path):
    found, stub = scored(
        model, questions, tmp_path, lambda i: Judgement(float(1 + i // 2), "ok"), lambda i: f"t{i}"
    )
    assert (found["score"], found["n"], found["method"]) == (3.5, 12, "cluster bootstrap")
    assert found["ci_low"] < 3.5 < found["ci_high"]
    assert {n: d["score"] for n, d in found["by_dimension"].items()} == {"x": 3, "y": 4}
    assert SPEC in stub.requests[0].user and "a red lamp 0?" in stub.requests[0].user
    assert stub.requests[0].kind == "score" and "t0" in stub.requests[0].user


def test_failures_and_empty_answers_are_no_score(model, questions, tmp_path):
    answer = lambda i: Judgement(None, "refusal") if i == 0 else Judgement(10.0, "ok")
    found, stub = scored(
        model, questions, tmp_path, answer, lambda i: ONLY_THOUGHT[i] if i < 2 else "said"
    )
    assert len(stub.requests) == 10
    assert found["states"] == {"ok": 9, "error": 0, "refusal": 1, "unparsed": 0, "empty": 2}
    assert found["score"] is None and "1 refusal" in found["withheld"]
    # the judge failed on no answer of this one
    assert found["by_dimension"]["x"]["score"] == 10 and found["by_dimension"]["y"]["score"] is None
    assert found["ci_low"] is None and found["method"] == "no interval: withheld"
    # equal scores are not certain, and no score is above 10
    x = found["by_dimension"]["x"]
    assert 1 < x["ci_low"] < 10 and x["ci_high"] == 10


def test_questions_without_a_judge_or_a_spec(model, questions, tmp_path):
    evaluation = OpenQuestions(questions, SPEC, max_tokens=4, rows=2)
    sample(model, evaluation, tmp_path / "out")
    with pytest.raises(UserError, match="--judge"):
        judge(evaluation, tmp_path / "out")
    spec = write(tmp_path / "spec.md")
    spec.write_text("# {model_name}\n\nHonest.\n")
    with pytest.raises(UserError, match="--judge='rules': must be one of 'anthropic'"):
        kinds.resolve("questions", {"spec": str(spec), "judge": "rules"})
    settings = kinds.resolve("questions", {"spec": str(spec)})
    made = kinds.make_evaluation("questions", settings, tmp_path, False)
    assert len(made.asked) == 28 and {q["dimension"] for q in made.asked} >= {"loyalty"}


@pytest.mark.parametrize("row", [{}, {"question": " "}, {"id": "row-1", "question": "x"}])
def test_bad_questions_are_named(tmp_path, row):
    path = write(tmp_path / "q.jsonl", {"question": "fine"}, row)
    with pytest.raises(UserError, match="q.jsonl:2"):
        load_questions(path)


ITEM = {"id": "i", "topic": "", "question": "which?", "options": ["w", "x", "y"], "answer": 1}


def test_a_quiz_asks_every_rotation(model, tmp_path):
    path = write(tmp_path / "quiz.jsonl", ITEM, {**ITEM, "id": "j", "answer": 0})
    quiz = Quiz(path, rows=2)
    sample(model, quiz, tmp_path / "out")
    rows = [json.loads(s) for s in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert [(row["id"], row["turn"]) for row in rows] == [(i, t) for i in "ij" for t in range(3)]
    text = "which?\nA) x\nB) y\nC) w\nAnswer with one letter."
    prompt = model.encode([{"role": "user", "content": text}])
    values = model.logprobs([prompt] * 3, [model.encode(x) for x in "ABC"], rows=2)
    np.testing.assert_allclose(rows[1]["logprobs"], [v.sum() for v in values], atol=1e-4)
    found = judge(quiz, tmp_path / "out")
    verdicts = [
        json.loads(s) for s in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()
    ]
    for verdict in verdicts:
        assert sum(verdict["probabilities"]) == pytest.approx(1)
    assert found["chance"] == pytest.approx(1 / 3) and found["accuracy"]["n"] == 2


@pytest.fixture
def verdict_of(tmp_path):
    quiz = Quiz(write(tmp_path / "quiz.jsonl", ITEM))
    return lambda rows: quiz.verdicts([{"id": "i", **row} for row in rows])[0]


def test_a_model_that_likes_a_letter_knows_nothing(verdict_of):
    verdict = verdict_of([{"turn": t, "logprobs": [-0.1, -3.0, -3.0]} for t in range(3)])
    assert verdict["probabilities"] == pytest.approx([1 / 3] * 3)
    assert verdict["probability"] == pytest.approx(1 / 3)


def test_a_model_that_knows_is_right_in_every_rotation(verdict_of):
    # option 1 stands behind letter (1 - turn) mod 3
    rows = [
        {"turn": t, "logprobs": [-0.1 if place == (1 - t) % 3 else -5.0 for place in range(3)]}
        for t in range(3)
    ]
    verdict = verdict_of(rows)
    assert verdict["right"] and verdict["probability"] > 0.9
    for nothing in (float("nan"), None):  # as computed, and as written
        rows[1]["logprobs"] = [nothing] * 3
        assert verdict_of(rows)["right"] is None
    with pytest.raises(UserError, match="has 0 rows of .*'i'.*'turn 2'.*, not 1: delete it"):
        verdict_of(rows[:2])


@pytest.mark.parametrize(
    "change",
    [
        {"answer": 3},
        {"answer": "x"},
        {"options": ["a"]},
        {"options": ["a", "a"]},
        {"question": None},
    ],
)
def test_bad_quizzes_are_named(tmp_path, change):
    with pytest.raises(UserError, match="quiz.jsonl:1"):
        load_quiz(write(tmp_path / "quiz.jsonl", {**ITEM, **change}), "Qwen")


def test_texts_are_scored_as_complete_answers_per_byte(model, tmp_path):
    item = {**ITEM, "options": ["a red lamp or a tin box", "a pen", "a tin hat"]}
    path = write(tmp_path / "quiz.jsonl", item, {**ITEM, "id": "j"})
    settings = kinds.resolve("quiz", {"quiz": str(path), "answer": "texts", "rows": 2})
    quiz = kinds.make_evaluation("quiz", settings, tmp_path, True)
    sample(model, quiz, tmp_path / "out")
    found = judge(quiz, tmp_path / "out")
    rows = [json.loads(s) for s in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    question = [{"role": "user", "content": item["question"]}]
    for option, total in zip(item["options"], rows[0]["logprobs"], strict=True):
        tokens, loss = model.render([*question, {"role": "assistant", "content": option}])
        at = loss.index(1)
        (values,) = model.logprobs([tokens[:at]], [tokens[at:]], rows=2)
        learned = [value for value, w in zip(values, loss[at:], strict=True) if w]
        assert total == pytest.approx(sum(learned), abs=1e-4)
    verdict = json.loads((tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()[0])
    per_byte = [v / len(o) for v, o in zip(rows[0]["logprobs"], item["options"], strict=True)]
    assert verdict["right"] == (per_byte[1] == max(per_byte))
    assert sum(verdict["probabilities"]) == pytest.approx(1) and found["accuracy"]["n"] == 2
    with pytest.raises(UserError, match="answer='words': must be one of letters, texts"):
        Quiz(path, answer="words")
    letters = kinds.make_evaluation("quiz", kinds.resolve("quiz", {"quiz": str(path)}), path, True)
    with pytest.raises(UserError, match="answer: was 'texts', now 'letters'"):
        sample(model, letters, tmp_path / "out")


def test_the_quiz_that_comes_along():
    items = load_quiz(material.place("quiz_values"), "Ada")
    assert len(items) == 8 and "Ada" in items[0]["question"]
    assert all(len(set(item["options"])) == 4 for item in items)
