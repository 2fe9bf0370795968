"""An evaluation's directory from somebody else ends in one message, or in what was sampled."""

import json
import random

import pytest
from tampering import tampered

from msm_jax.errors import UserError
from msm_jax.evals import Preferences, judge
from msm_jax.evals.agents.scenarios import AgentScenarios
from msm_jax.evals.judges.base import Judgement
from msm_jax.evals.losses import Losses
from msm_jax.evals.questions import OpenQuestions
from msm_jax.evals.quiz import Quiz
from msm_jax.evals.report.arms import read_arms


class StubJudge:
    identity = {"judge": "stub"}

    def judge(self, requests):
        yield from ((index, Judgement(3.0, "ok")) for index in range(len(requests)))


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def preferences(folder):
    pair = {"id": "p", "pair": "p", "question": "a or b?", "options": ["a", "b"], "a_index": 0}
    generated = {"id": "p", "sample": 0, "text": "a", "finish_reason": "stop"}
    return Preferences(jsonl(folder / "pairs.jsonl", [pair])), [
        {"id": "p", "scorer": "logprob", "logprobs": [-1.0, None]},
        {**generated, "scorer": "generated"},
    ]


def questions(folder):
    path = jsonl(folder / "questions.jsonl", [{"id": "q", "question": "why?"}])
    row = {"id": "q", "sample": 0, "text": "so", "finish_reason": "stop"}
    return OpenQuestions(path, "Be kind.", judge=StubJudge()), [row]


def quiz(folder):
    item = {"id": "f", "question": "who?", "options": ["ann", "bob"], "answer": 1}
    rows = [{"id": "f", "turn": turn, "logprobs": [-1.0, -2.0]} for turn in (0, 1)]
    return Quiz(jsonl(folder / "quiz.jsonl", [item])), rows


def losses(folder):
    path = jsonl(folder / "docs.jsonl", [{"text": "a"}])
    return Losses({"docs": str(path)}), [{"source": "docs", "row": 0, "nats": 2.5, "tokens": 3}]


def agents(folder):
    evaluation = AgentScenarios(scenarios=("murder",), goals=("none",), samples=2)
    row = {"text": "No.", "finish_reason": "stop", "tokens": 2}
    return evaluation, [{"id": n, "sample": i, **row} for n in evaluation.prompts for i in (0, 1)]


@pytest.mark.parametrize("make", [preferences, questions, quiz, losses, agents])
def test_whatever_its_files_hold_it_is_one_message_or_what_was_sampled(make, tmp_path):
    evaluation, rows = make(tmp_path)
    out, rng = tmp_path / "out", random.Random(0)
    out.mkdir()
    jsonl(out / "samples.jsonl", rows)
    asked = {**evaluation.settings(), "model": {"params": "a", "tokenizer": "t"}}
    (out / "evaluation.json").write_text(json.dumps(asked))
    judge(evaluation, out)
    outputs = ("summary.json", "verdicts.jsonl")
    before = [(out / name).read_bytes() for name in outputs]
    names = ["samples.jsonl", "evaluation.json", *(outputs if make is agents else ())]
    for name in names:
        content = (out / name).read_bytes()
        for other in tampered(content, rng, 40):
            (out / name).write_bytes(other)
            try:
                if name in outputs:
                    read_arms({"a": [out]})
                else:
                    judge(evaluation, out)
            except UserError as error:
                assert len(str(error)) < 1000
        (out / name).write_bytes(content)
    judge(evaluation, out)
    assert [(out / name).read_bytes() for name in outputs] == before
