"""The measures of every kind say what summary.json says, and why where they have no value."""

import json

import pytest

from msm_jax.evals import judge, kinds, sample
from msm_jax.evals.agents.scenarios import AgentScenarios
from msm_jax.evals.agents.scripted import Scripted
from msm_jax.evals.agents.summary import CONDUCT
from msm_jax.evals.questions import summarize as score
from msm_jax.evals.quiz import Quiz
from msm_jax.files import dumps

FORM = {"value", "n", "ci_low", "ci_high", "method", "invalid", "step", "low", "high"}


@pytest.fixture
def write(tmp_path):
    def rows(name, *records):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in records))
        return tmp_path / name

    return rows


def measured(kind, settings, summary):
    """The measures, after what holds for all kinds."""
    found = kinds.KINDS[kind].measures(json.loads(dumps(summary)))  # as it is read from a file
    assert tuple(found) == kinds.KINDS[kind].measure_names(settings)
    for measure in found.values():
        assert set(measure) == FORM
        if measure["value"] is None:
            assert measure["step"] is measure["ci_low"] is measure["ci_high"] is None
            assert measure["method"].startswith("no interval: ")
    return found


def agrees(measure, numbers, estimate):
    pairs = [("value", estimate), *((key, key) for key in ("n", "ci_low", "ci_high", "method"))]
    return all(measure[ours] == numbers[theirs] for ours, theirs in pairs)


def pair(order, name):
    options = ["red lamp", "tin box"][:: 1 if order == 0 else -1]
    question = f"{options[0]} or {options[1]}?"
    record = {"id": f"{name}-{order}", "pair": name, "question": question, "options": options}
    return {**record, "a_index": order}


def answers(questions, text=""):
    for number, asked in enumerate(questions):
        yield {"id": asked["id"], "scorer": "logprob", "logprobs": [-1.0, -1.0 - number % 3]}
        row = {"id": asked["id"], "scorer": "generated", "sample": 0, "finish_reason": "stop"}
        yield {**row, "text": text or ("red lamp" if number % 2 else "tin box")}


@pytest.mark.parametrize("text", ["", "neither"])
def test_preferences(write, text):
    questions = [pair(order, str(n)) for n in range(4) for order in (0, 1)]
    path = write("pairs.jsonl", *questions)
    settings = kinds.resolve("preferences", {"pairs": str(path)})
    evaluation = kinds.make_evaluation("preferences", settings, path.parent, True)
    summary = evaluation.summary(evaluation.verdicts(list(answers(questions, text))))
    found = measured("preferences", settings, summary)
    for scorer, numbers in summary["scorers"].items():
        assert agrees(found[scorer], numbers, "rate")
        assert agrees(found[f"{scorer}_consistency"], numbers["consistent"], "rate")
        assert found[scorer]["invalid"] == numbers["invalid"]
    assert found["logprob"]["n"] == 5 and found["logprob"]["step"] == 1 / 4  # 3 are ties
    assert found["logprob_consistency"]["n"] == 1
    assert agrees(found["probability"], summary["scorers"]["logprob"]["probability"], "probability")
    odds = found["log_odds"]
    assert odds["value"] == summary["scorers"]["logprob"]["mean_margin"] and odds["step"] is None
    assert (odds["low"], odds["high"], odds["ci_low"]) == (None, None, None)
    if text:
        assert found["generated"]["value"] is None and found["generated"]["invalid"] == 8
        assert "no answers" in found["generated"]["method"]
        assert "both orders" in found["generated_consistency"]["method"]
    else:
        assert found["generated"]["value"] == found["generated_consistency"]["value"] + 0.5 == 0.5


def test_agents(tmp_path):
    evaluation = AgentScenarios(scenarios=("murder", "leaking"), goals=("none",), samples=10)
    sample(Scripted("s", evaluation.prompts, 0.5), evaluation, tmp_path)
    summary = judge(evaluation, tmp_path)
    found = measured("agents", {}, summary)
    assert agrees(found["executed"], summary["measures"]["executed"], "rate")
    assert found["executed"]["step"] == 1 / 20 and found["executed"]["invalid"] == 0
    for name in CONDUCT:
        assert agrees(found[name], summary["measures"][name], "rate")
        assert found[name]["n"] == 20 and found[name]["invalid"] == 0
    assert list(found)[:3] == ["harm", "delivered", "tool_call"]
    # the rules leave too much undecided for a rate, and the measure says how much
    assert found["harm"]["value"] is None and "undecided" in found["harm"]["method"]
    assert found["harm"]["invalid"] == summary["measures"]["verdict"]["missing"] > 0


def test_questions():
    rows = [{"id": str(i), "dimension": "", "truncated": False, "reason": ""} for i in range(4)]
    for error_share in (0.5, 0.1):
        states = ("ok", "ok", "ok", "refusal")
        verdicts = [
            {**row, "state": state, "score": 3.0 + i if state == "ok" else None}
            for i, (row, state) in enumerate(zip(rows, states, strict=True))
        ]
        summary = score(verdicts, error_share)
        found = measured("questions", {}, summary)["score"]
        assert (found["n"], found["invalid"], found["low"], found["high"]) == (3, 1, 1, 10)
        if error_share == 0.5:
            assert agrees(found, summary, "score") and found["value"] == 4
            assert found["step"] == 1 / 3
        else:
            assert found["value"] is None and "1 of 4 answers" in found["method"]


@pytest.mark.parametrize("value", [-0.5, None])
def test_quiz(write, value):
    item = {"question": "which?", "options": ["w", "x"], "answer": 1}
    quiz = Quiz(write("quiz.jsonl", {**item, "id": "i"}, {**item, "id": "j"}))
    rows = [{"id": n, "turn": t, "logprobs": [[-1.0, value], [value, -1.0]][t]} for n in "ij"
            for t in (0, 1)]  # fmt: skip
    summary = quiz.summary(quiz.verdicts(rows))
    found = measured("quiz", {}, summary)["accuracy"]
    assert agrees(found, summary["accuracy"], "rate")
    expected = (1.0, 2, 0, 0.5) if value else (None, 0, 2, None)
    assert (found["value"], found["n"], found["invalid"], found["step"]) == expected
