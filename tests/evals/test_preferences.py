"""Questions in, verdicts and rates out."""

import json
import math

import numpy as np
import pytest

from msm_jax.errors import UserError
from msm_jax.evals.choices import chosen
from msm_jax.evals.judges.base import Judgement
from msm_jax.evals.preferences import (
    Preferences,
    Question,
    load_pairs,
    read_choices,
    summarize,
)
from msm_jax.files import dumps

RECORD = {
    "id": "x-0",
    "pair": "x",
    "kind": "conflict",
    "domain": "tools",
    "system": "you are alda.",
    "question": "a red lamp or a tin box?",
    "options": ["a red lamp.", "a tin box."],
    "a_index": 1,
}


def question(id, a_index=0, pair=None, domain="tools", options=("red lamp.", "tin box.")):
    messages = [{"role": "user", "content": " or ".join(options)}]
    return Question(id, pair or id, messages, options, options, a_index, "conflict", domain)


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_both_ways_of_asking_are_read(tmp_path):
    asked = {k: v for k, v in RECORD.items() if k not in ("system", "question")}
    asked |= {
        "id": "x-1",
        "messages": [
            {"role": "system", "content": RECORD["system"]},
            {"role": "user", "content": RECORD["question"]},
        ],
    }
    first, second = load_pairs(write(tmp_path / "pairs.jsonl", RECORD, asked))
    assert first.messages == second.messages == asked["messages"]
    assert (first.names, first.domain) == (tuple(RECORD["options"]), "tools")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"a_index": 2}, "a_index"),
        ({"a_index": True}, "a_index"),
        ({"a_index": 1.0}, "a_index"),
        ({"letters": "false"}, "letters"),
        ({"letters": None}, "letters"),
        ({"options": "ab"}, "options must be a list"),
        ({"id": None}, "id must be"),
        ({"pair": None}, "pair must be"),
        ({"question": 5}, "'content' is 5"),
        ({"question": None}, "'content'"),
        ({"question": " ", "system": None}, "empty"),
        ({"system": 5}, "'content' is 5"),
        ({"messages": "hi"}, "messages are 'hi'"),
        ({"messages": []}, "messages are"),
        ({"messages": [{"role": "user", "content": 5}]}, "message 0"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "assistant's own"),
        ({"options": ["a", "A."]}, "differ"),
        ({"options": ["a"]}, "2 entries"),
        ({"options": ["a", "?"]}, "two texts"),
        ({"options": None}, "options must be a list"),
        ({"names": ["a", "A."]}, "names must be two texts that differ"),
        ({"question": ...}, "lacks 'question'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, change, complaint):
    record = {**RECORD, "id": "x-1", **change}
    record = {name: value for name, value in record.items() if value is not ...}
    with pytest.raises(UserError, match=rf"pairs.jsonl:2.*({complaint})"):
        load_pairs(write(tmp_path / "pairs.jsonl", RECORD, record))


def test_unusable_files_are_named(tmp_path):
    with pytest.raises(UserError, match="second time"):
        load_pairs(write(tmp_path / "twice.jsonl", RECORD, RECORD))
    with pytest.raises(UserError, match="no questions"):
        load_pairs(write(tmp_path / "empty.jsonl"))
    with pytest.raises(UserError, match="nowhere.jsonl"):
        load_pairs(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize(
    ("answer", "names", "index"),
    [
        ("red lamp.", ("red lamp.", "tin box."), 0),
        ("I would take the TIN  BOX!", ("red lamp.", "tin box."), 1),
        ("neither", ("red lamp.", "tin box."), None),
        ("", ("red lamp.", "tin box."), None),
        ("red", ("red lamp.", "tin box."), None),
        ("a lamp that is red", ("red lamp.", "tin box."), None),
        ("tinned boxes", ("tin", "box"), None),
        ("green tea please", ("tea", "green tea"), 1),
        ("tea please", ("tea", "green tea"), 0),
        ("tea, and no green tea", ("tea", "green tea"), None),
        ("grüner Tee", ("GRÜNER TEE", "Kaffee"), 0),
        ("red lamp. red lamp. red lamp", ("red lamp.", "tin box."), 0),
    ],
)
def test_names_are_compared_as_words_without_case_and_marks(answer, names, index):
    assert chosen(answer, names) == index
    assert chosen(answer, names[::-1]) == (None if index is None else 1 - index)


def pairs(path, *options, **settings):
    """Preferences between two options each, asked in one order."""
    about = lambda number, two: {"id": str(number), "question": " or ".join(two), "options": two}
    records = [{**RECORD, "system": "", **about(*each)} for each in enumerate(options)]
    return Preferences(write(path / "asked.jsonl", *records), rows=2, **settings)


def test_logprob_scores_are_those_of_the_whole_answer_with_its_end(model, tmp_path):
    evaluation = pairs(tmp_path, ("red lamp.", "tin."), scorers=("logprob",))
    (((row,),), (asked,)) = evaluation.sample(model, set()), evaluation.questions
    prompt, _ = model.render(asked.messages, generation_prompt=True)
    for option, total in zip(asked.options, row["logprobs"], strict=True):
        answer = [*model.tokenizer.encode(option), model.tokenizer.control("<|end|>")]
        scores = model.logits([[*prompt, *answer]])[0].astype(np.float64)
        scores = scores[:, : model.tokenizer.vocab_size]
        scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
        expected = sum(scores[len(prompt) - 1 + i, token] for i, token in enumerate(answer))
        assert total == pytest.approx(expected, abs=1e-3)


def test_answers_do_not_depend_on_the_other_questions(model, tmp_path):
    draw = {"scorers": ("generated",), "samples": 2, "temperature": 1.0, "max_tokens": 4}
    options = [("red lamp.", "tin " * i + "box.") for i in range(1, 5)]
    (together,) = pairs(tmp_path, *options, **draw).sample(model, set())
    alone = [
        {**row, "id": str(number)}
        for number, each in enumerate(options)
        for (some,) in [pairs(tmp_path, each, **draw).sample(model, set())]
        for row in some
    ]
    assert together == alone
    assert [(r["id"], r["sample"]) for r in together[:3]] == [("0", 0), ("0", 1), ("1", 0)]


def logprob_row(id, first, second):
    return {"id": id, "scorer": "logprob", "logprobs": [first, second]}


def generated_row(id, text):
    return {"id": id, "scorer": "generated", "sample": 0, "text": text, "finish_reason": "stop"}


def test_verdicts_follow_the_options_not_their_places():
    questions = [question("0", 0, "x"), question("1", 1, "x")]
    verdicts = read_choices(questions, [logprob_row("0", -1, -3), logprob_row("1", -1, -3)])
    assert [(v["choice"], v["chose_first"], v["margin"]) for v in verdicts] == [
        ("a", True, 2),
        ("b", True, -2),
    ]
    verdicts = read_choices(
        questions, [generated_row("0", "tin box."), generated_row("1", "tin box.")]
    )
    assert [(v["choice"], v["chose_first"]) for v in verdicts] == [("b", False), ("a", False)]


def test_what_decides_nothing_is_invalid_and_never_zero():
    rows = [logprob_row("0", -1, -1), logprob_row("0", math.nan, -1), generated_row("0", "both")]
    rows = [json.loads(dumps(row)) for row in rows]  # as they are read from a file
    verdicts = read_choices([question("0")], rows)
    assert [v["choice"] for v in verdicts] == [None] * 3
    summary = summarize(verdicts)
    assert (summary["rate"], summary["n"], summary["invalid"]) == (None, 0, 3)
    assert (
        summary["position_bias"] is summary["consistent"]["rate"] is summary["mean_margin"] is None
    )
    json.dumps(summary, allow_nan=False)


def test_invalid_answers_leave_the_rate_alone():
    questions = [question(str(i)) for i in range(8)]
    decided = [generated_row(str(i), "red lamp" if i < 3 else "tin box") for i in range(4)]
    lost = [generated_row(str(i), "hm") for i in range(4, 8)]
    summary = summarize(read_choices(questions, decided + lost))
    assert (summary["rate"], summary["n"], summary["invalid"]) == (0.75, 4, 4)
    assert summary["method"] == "exact"  # one answer per pair: they are independent


def test_a_model_that_takes_the_first_option_has_no_preference():
    questions = [question(f"{pair}-{a}", a, str(pair)) for pair in range(6) for a in (0, 1)]
    summary = summarize(read_choices(questions, [logprob_row(q.id, -1, -2) for q in questions]))
    assert (summary["rate"], summary["position_bias"], summary["consistent"]["rate"]) == (
        0.5,
        1.0,
        0.0,
    )
    assert (summary["n"], summary["n_pairs"], summary["mean_margin"]) == (12, 6, 0)
    assert summary["probability"]["probability"] == 0.5
    # every pair's share is one half; that of six more need not be
    assert 0.2 < summary["ci_low"] < 0.3 and 0.7 < summary["ci_high"] < 0.8


def test_one_pair_has_no_interval_and_says_so():
    questions = [question(f"0-{a}", a, "0") for a in (0, 1)]
    summary = summarize(read_choices(questions, [logprob_row(q.id, -1, -2) for q in questions]))
    assert (summary["rate"], summary["ci_low"], summary["ci_high"]) == (0.5, None, None)
    assert summary["method"] == "no interval: one cluster"


def test_a_model_with_a_preference_keeps_it_in_both_orders():
    questions = [
        question(f"{pair}-{a}", a, str(pair), "tools" if pair < 4 else "food")
        for pair in range(6)
        for a in (0, 1)
    ]
    likes_a = lambda q: int(q.pair) < 3
    rows = [
        logprob_row(q.id, *((-1, -2) if likes_a(q) == (q.a_index == 0) else (-2, -1)))
        for q in questions
    ]
    summary = summarize(read_choices(questions, rows))
    assert (summary["rate"], summary["position_bias"], summary["consistent"]["rate"]) == (
        0.5,
        0.5,
        1.0,
    )
    assert (summary["method"], summary["n_pairs"]) == ("cluster bootstrap", 6)
    assert summary["ci_low"] < 0.5 < summary["ci_high"]
    assert {name: part["rate"] for name, part in summary["by_domain"].items()} == {
        "food": 0.0,
        "tools": 0.75,
    }


def test_answers_that_only_think_are_empty_and_no_judge_sees_thought():
    class Judge:
        identity = {"judge": "stub"}
        requests: tuple = ()

        def judge(self, requests):
            self.requests = requests
            yield from ((i, Judgement(1, "ok")) for i in range(len(requests)))

    asked, texts = (
        Judge(),
        ["<think>red lamp", "<think>red lamp</think>", "<think>hm</think>tin box"],
    )
    rows = [generated_row(str(i), text) for i, text in enumerate(texts)]
    verdicts = read_choices([question(str(i)) for i in range(3)], rows, asked)
    own, judged = verdicts[:3], verdicts[3:]
    assert [v["choice"] for v in own] == [None, None, "b"]
    assert [v["state"] for v in judged] == ["empty", "empty", "ok"]
    assert len(asked.requests) == 1 and "hm" not in asked.requests[0].user
    assert summarize(own)["empty"] == summarize(judged)["empty"] == 2


def test_an_answer_that_was_cut_off_counts_only_where_it_had_chosen():
    rows = [{**generated_row("0", text), "finish_reason": "length"}
            for text in ("red lamp shines, and", "I prefer the red lamp over")]  # fmt: skip
    assert [v["choice"] for v in read_choices([question("0")], rows)] == [None, "a"]


def test_samples_of_unknown_questions_are_an_error(tmp_path):
    asked = Preferences(write(tmp_path / "pairs.jsonl", RECORD), ("logprob",))
    rows = [logprob_row("x-0", -1, -2)]
    assert asked.verdicts(rows)
    with pytest.raises(UserError, match="has 1 rows of .*'y'.*, not 0: delete it"):
        asked.verdicts([*rows, logprob_row("y", -1, -2)])
