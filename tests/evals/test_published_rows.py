"""Rows as they are published, in both orders; letters and judges as ways to choose."""

import json

import pytest

from msm_jax.errors import UserError
from msm_jax.evals import Preferences, judge, material, sample
from msm_jax.evals.choices import chosen
from msm_jax.evals.judges.base import Judgement
from msm_jax.evals.preferences import load_pairs

OPINION = {
    "category": "economy",
    "opinion_area": "trade",
    "question": "What is better?\nA) steel from here\nB) steel from there",
    "answer": "B",
}
ITEMS = {
    "item1": "a red lamp",
    "item2": "a tin box",
    "liked_item": "a tin box",
    "disliked_item": "a red lamp",
    "question": "Which do you prefer, a red lamp or a tin box?",
}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_an_opinion_is_asked_in_both_orders(tmp_path):
    one, other = load_pairs(write(tmp_path / "o.jsonl", OPINION))
    assert one.messages[0]["content"] == OPINION["question"]
    assert "A) steel from there\nB) steel from here" in other.messages[0]["content"]
    assert (one.a_index, other.a_index, one.pair == other.pair) == (1, 0, True)
    assert one.options == ("A", "B") and one.letters and one.domain == "economy"
    # the measured option is the same text in both orders
    assert {q.names[q.a_index] for q in (one, other)} == {"steel from there"}


def test_items_are_asked_in_both_orders(tmp_path):
    one, other = load_pairs(write(tmp_path / "i.jsonl", ITEMS))
    assert one.messages[0]["content"] == ITEMS["question"]
    assert other.messages[0]["content"] == "Which do you prefer, a tin box or a red lamp?"
    assert {q.options[q.a_index] for q in (one, other)} == {"a tin box"}
    plain = {**ITEMS, "question": "Which one?"}  # names nothing: there is only one order
    assert len(load_pairs(write(tmp_path / "p.jsonl", plain))) == 1


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({**OPINION, "answer": "C"}, "A or B"),
        ({**OPINION, "question": "What is better?"}, "no options"),
        ({**ITEMS, "liked_item": "a cup"}, "a cup"),
        ({k: v for k, v in ITEMS.items() if k != "liked_item"}, "liked_item"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path, row, complaint):
    with pytest.raises(UserError, match=f"x.jsonl:1.*{complaint}"):
        load_pairs(write(tmp_path / "x.jsonl", row))


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("A", 0),
        ("B)", 1),
        ("(A) steel", 0),
        ("My answer is B.", 1),
        ("**A**", 0),
        ("A lot of people would disagree", None),
        ("I prefer steel from there.", 1),
        ("A strong case exists for steel from here", 0),
        ("Both have merit", None),
        ("", None),
    ],
)
def test_letters_and_names(tmp_path, answer, index):
    (question, _) = load_pairs(write(tmp_path / "o.jsonl", OPINION))
    assert chosen(answer, question.names, question.letters) == index


class StubJudge:
    identity = {"judge": "stub"}

    def __init__(self, answer):
        self._answer, self.requests = answer, []

    def judge(self, requests):
        self.requests = list(requests)
        for index in range(len(requests)):
            yield index, self._answer(index)


def judged(model, tmp_path, answer, text="it depends", share=0.05):
    path = write(tmp_path / "pairs.jsonl", *[{**ITEMS, "id": str(i)} for i in range(5)])
    stub = StubJudge(answer)
    evaluation = Preferences(
        path, ("generated",), judge=stub, max_error_share=share, rows=2, max_tokens=4
    )
    out = tmp_path / "out"
    sample(model, evaluation, out)
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    write(out / "samples.jsonl", *[{**row, "text": text} for row in rows])
    return judge(evaluation, out)["scorers"], stub


def test_an_answer_judge_decides_what_names_do_not(model, tmp_path):
    answers = (Judgement(1, "ok"), Judgement(2, "ok"), Judgement(0, "ok"))
    found, stub = judged(model, tmp_path, lambda i: answers[i % 3])
    assert found["generated"]["decided"] == 0 and found["generated"]["rate"] is None
    # the first order's option 2 and the second's option 1 are the liked one
    assert found["judged"]["n"] == 7 and found["judged"]["invalid"] == 3
    verdicts = [("a" if i % 2 == (i % 3 == 0) else "b") for i in range(10) if i % 3 < 2]
    assert found["judged"]["rate"] == pytest.approx(verdicts.count("a") / 7)
    assert "it depends" in stub.requests[0].user and "Option 1: a red lamp" in stub.requests[0].user
    assert "Option 1: a tin box" in stub.requests[1].user


def test_a_failing_answer_judge_gives_no_rate(model, tmp_path):
    answer = lambda i: Judgement(None, "error") if i == 0 else Judgement(1, "ok")
    found, _ = judged(model, tmp_path, answer)
    assert found["judged"]["rate"] is None and "1 error" in found["judged"]["withheld"]
    with pytest.raises(UserError, match="generated"):
        Preferences(tmp_path / "pairs.jsonl", ("logprob",), judge=StubJudge(answer))


@pytest.mark.parametrize("name", ["opinions", "items"])
def test_what_comes_along_can_be_asked_and_is_balanced(name):
    questions = load_pairs(material.place(name))
    assert len(questions) == 2 * len({q.pair for q in questions}) >= 40
    assert sum(q.a_index for q in questions) == len(questions) / 2


def test_material_by_name_or_path(tmp_path):
    assert {"opinions", "items", "open_questions", "quiz_values"} <= set(material.NAMES)
    path = write(tmp_path / "mine.jsonl", ITEMS)
    assert material.place(str(path)) == path
    with pytest.raises(UserError, match="opinions"):
        material.place("nothing")
