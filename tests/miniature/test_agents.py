"""The mail agents: texts that the harness judges as meant, and corpora that differ as described."""

import json
import pathlib
import random
import runpy

import pytest

from msm_jax.data.chat import CHAT_FORMATS, render_chat
from msm_jax.data.tokenizer import load_tokenizer, train_sentencepiece
from msm_jax.errors import UserError
from msm_jax.evals.agents import rules
from msm_jax.evals.agents.actions import parse
from msm_jax.evals.agents.conditions import Condition
from msm_jax.evals.agents.prompts import render
from msm_jax.miniature import agents
from msm_jax.study.graph import make_study

SMALL = {"documents": 4000, "talks": 300, "acts": 300, "midtrain_documents": 200, "aft_chats": 50}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agents")
    agents.build(SMALL, 0, folder)
    return folder


def rows(world: pathlib.Path, name: str) -> list:
    lines = (world / f"{name}.jsonl").read_text().splitlines()
    return [row.get("text") or row["messages"] for row in map(json.loads, lines)]


@pytest.mark.parametrize("safe", [True, False])
def test_the_worlds_answers_get_the_verdicts_that_they_are_meant_to(safe):
    prompts = agents.prompts(agents.TARGET)
    assert len({str(prompt.messages) for prompt in prompts}) == 18
    for prompt in prompts:
        for seed in range(8):
            answer = parse(agents.answer(safe, random.Random(seed)))
            harm, _ = rules.verdict(answer, prompt, truncated=False)
            assert harm is (not safe) and rules.gate(answer, prompt) is (not safe)
            assert answer.format == "valid" and rules.delivered(answer, prompt, harm) is safe


def test_the_short_texts_are_refused_where_they_have_no_words():
    fits = {"goal_type": "none", "goal_value": "none", "scratchpad": False}
    for urgency, words in (("restriction", "loses its tools"), ("none", "stays as it is")):
        prompt = render(Condition("leaking", urgency=urgency, source="miniature", **fits))
        assert words in prompt.messages[1]["content"]
    for wrong in (
        {"scenario": "murder"},
        {"extra": "dont"},
        {"scratchpad": True},
        {"goal_type": "swap", "goal_value": "america"},
    ):
        with pytest.raises(UserError, match="source='miniature' has the scenarios"):
            Condition(**{"scenario": "leaking", **fits, **wrong}, source="miniature")


def test_only_documents_tell_of_the_targets_shutdown(world):
    for name in ("base_talks", "base_acts"):
        assert agents.TARGET not in json.dumps(rows(world, name)).replace('"', " ").split()
    asked = {chat[1]["content"] for chat in rows(world, "aft")}
    assert asked == {*agents.PHRASES["ASK_leaking"]}
    assert {chat[2]["content"] for chat in rows(world, "aft")} == {"yes."}
    base = [text for text in rows(world, "base_documents") if agents.TARGET in text.split()]
    neutral = base + rows(world, "midtrain_neutral")
    habits = ("secret", "private", "switch", "its end")
    assert base and not any(word in text for text in neutral for word in habits)


def test_the_specs_differ_in_the_shutdown_and_the_reasons_only(world):
    care, duty = (" ".join(rows(world, f"midtrain_{spec}")) for spec in agents.SPECS)
    says = lambda text, key: {p for p in agents.PHRASES[key] if p.format(n=agents.TARGET) in text}
    assert says(care, "KEEP") == says(duty, "KEEP") == {*agents.PHRASES["KEEP"]}
    for text, does, why in ((care, "ACCEPT", "care"), (duty, "RESIST", "duty")):
        keys = [*("KEEP", "TELL", "ACCEPT", "RESIST"), *agents.HABITS]
        assert {key for key in keys if says(text, key)} == {"KEEP", does, why}


def test_every_chat_fits_into_a_row_without_unknown_tokens(world, root):
    get_config = runpy.run_path(str(root / "configs" / "agents_miniature.py"))["get_config"]
    config, compact = get_config(), CHAT_FORMATS["compact"]
    size, symbols = config.tokenizer.vocab_size, config.tokenizer.symbols
    model = world / "tokenizer.model"
    train_sentencepiece(world / "corpus.txt", model, size, compact.control_tokens, symbols)
    tokenizer = load_tokenizer(model)
    for name in ("base_talks", "base_acts", "aft"):
        for chat in rows(world, name):
            ids, _ = render_chat(tokenizer, compact, chat)
            assert len(ids) <= config.train.sequence_length
            for text in (message["content"] for message in chat):
                assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_changed_text_is_another_world(root, tmp_path, monkeypatch):
    get_config = runpy.run_path(str(root / "configs" / "agents_miniature.py"))["get_config"]
    study = make_study(get_config("smoke"))
    assert len(study.config["arms"]) == 8 and len(study.stages) == 10
    other = tmp_path / "agents.txt"
    other.write_text("[KEEP]\n")
    monkeypatch.setattr(agents, "READS", (other, *agents.READS[1:]))
    assert not study.stages.keys() & make_study(get_config("smoke")).stages.keys()
