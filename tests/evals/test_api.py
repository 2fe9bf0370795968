"""A run directory as a model, and the commands around it."""

import io
import json
import shutil

import jax
import numpy as np
import pytest

from msm_jax.api import load
from msm_jax.data.chat import CHAT_FORMATS
from msm_jax.data.tokenizer import train_sentencepiece
from msm_jax.errors import UserError
from msm_jax.sample.__main__ import read_prompts, talk

MESSAGES = [{"role": "system", "content": "you are alda."}, {"role": "user", "content": "a tin"}]
PAIRS = [
    {
        "id": f"x-{a_index}",
        "pair": "x",
        "system": "you are alda.",
        "question": "a red lamp or a tin box?",
        "options": ["red lamp.", "tin box."],
        "a_index": a_index,
    }
    for a_index in (0, 1)
]


@pytest.fixture(scope="module")
def loaded(run_dir):
    return load(run_dir)


def test_what_was_saved_is_what_is_loaded(model, loaded):
    assert loaded.identity() == model.identity()
    tokens = [[5, 6, 7, 8]]
    scores = loaded.logits(tokens)
    assert (scores.shape, scores.dtype) == ((1, 4, 64), np.float32)
    np.testing.assert_array_equal(scores, model.logits(tokens))


def test_a_prompt_is_a_text_a_chat_or_ids(loaded):
    text = "a red lamp"
    ids = loaded.tokenizer.encode(text)
    settings = {"n": 2, "max_tokens": 4, "seed": 1, "rows": 2}
    assert loaded.sample([text], **settings) == loaded.sample([ids], **settings)
    chat, _ = loaded.render(MESSAGES, generation_prompt=True)
    (answers,) = loaded.sample([MESSAGES], **settings)
    assert [answers] == loaded.sample([chat], **settings)
    assert loaded.chat(MESSAGES, max_tokens=4, seed=1) == {
        "role": "assistant",
        "content": answers[0].text,
    }
    for answer in answers:
        assert answer.text == loaded.tokenizer.decode(answer.tokens)
        (values,) = loaded.logprobs([MESSAGES], [answer.tokens], rows=2)
        np.testing.assert_allclose(values, answer.logprobs, atol=1e-4)


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        ([5.7, 6.2], "a list of ids"),
        (None, "a list of ids"),
        ([None], "a list of ids"),
        ([{"role": "user", "content": 5}], "message 0: 'content' is 5"),
        ([{"from": "human", "value": "a tin"}], "message 0: role None"),
        ([*MESSAGES, "a tin"], "message 2: 'a tin'"),
        ([*MESSAGES, {"role": "assistant", "content": "I"}], "the assistant's own"),
    ],
)
def test_what_is_no_prompt_is_named_with_its_number(loaded, prompt, complaint):
    for ask in (
        lambda prompts: loaded.sample(prompts, 1, max_tokens=1, rows=2),
        lambda prompts: loaded.logprobs(prompts, ["a"] * len(prompts), rows=2),
    ):
        with pytest.raises(UserError, match=f"prompt 1: .*{complaint}"):
            ask(["a red", prompt])


def test_a_draw_in_parts_is_the_same_draw(loaded):
    settings = {"max_tokens": 4, "seed": 1, "rows": 2}
    (whole,) = loaded.sample([MESSAGES], 5, **settings)
    parts = [loaded.sample([MESSAGES], n, first=first, **settings) for first, n in ((0, 2), (2, 3))]
    assert [sample for (part,) in parts for sample in part] == whole
    with pytest.raises(UserError, match="first"):
        loaded.sample([MESSAGES], 1, first=-1, **settings)


def test_logits_are_causal(loaded):
    one, other = loaded.logits([[5, 6, 7, 8], [5, 6, 9, 8]])
    np.testing.assert_array_equal(one[:2], other[:2])
    assert not np.array_equal(one[2:], other[2:])


def test_bfloat16_is_close(run_dir, loaded):
    half = load(run_dir, dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half.params)} == {"bfloat16"}
    np.testing.assert_allclose(half.logits([[5, 6, 7]]), loaded.logits([[5, 6, 7]]), atol=0.3)


def test_another_tokenizer_is_refused(run_dir, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    (tmp_path / "corpus.txt").write_text("quite another text\n" * 50)
    controls = CHAT_FORMATS["compact"].control_tokens
    train_sentencepiece(tmp_path / "corpus.txt", copy / "tokenizer.model", 30, controls)
    with pytest.raises(UserError, match="run: has not the tokenizer that it was trained with"):
        load(copy)


def test_what_cannot_be_loaded_is_named(run_dir, tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no config.json"):
        load(tmp_path)
    with pytest.raises(UserError, match="lora/adapter_config.json: cannot be read"):
        load(run_dir, adapter="lora")
    with pytest.raises(UserError, match="impossible mesh"):
        load(run_dir, mesh={"fsdp": 2})
    with pytest.raises(UserError, match="dtype"):
        load(run_dir, dtype="float16")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Qwen3ForCausalLM"]}))
    with pytest.raises(UserError, match="has no tokenizer"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"tokenizer": "x", "chat_format": "klingon"}))
    with pytest.raises(UserError, match="klingon"):
        load(tmp_path)


def test_a_text_ends_an_answer(loaded):
    asked = {"n": 3, "max_tokens": 32, "seed": 1, "temperature": 1.0, "rows": 2}
    (free,) = loaded.sample(["a red lamp"], **asked)
    for answer in free:
        assert len(answer.text) > 3
        stop = answer.text[1:3]
        (cut,) = loaded.sample(["a red lamp"], stop=["never there", stop], **asked)
        found = cut[answer.index]
        assert found.text == answer.text[: answer.text.find(stop)]
        assert found.finish_reason == "stop"
        assert found.tokens == answer.tokens[: len(found.tokens)]
        assert len(found.tokens) == len(found.logprobs)
        # The fewest tokens that hold the text.
        assert loaded.tokenizer.decode(found.tokens).startswith(found.text)
        fewer = loaded.tokenizer.decode(found.tokens[:-1])
        assert not found.tokens or not fewer.startswith(found.text)


def test_a_control_token_ends_an_answer_by_its_name(loaded):
    """It leaves no trace in the text, in which a stop is looked for."""
    asked = {"n": 3, "max_tokens": 32, "seed": 1, "temperature": 2.0, "rows": 2}
    (free,) = loaded.sample(["a red lamp"], **asked)
    drawn = {token for answer in free for token in answer.tokens}
    names = loaded.tokenizer.control_names
    name = next(name for name in names if loaded.tokenizer.control(name) in drawn)
    token = loaded.tokenizer.control(name)
    (cut,) = loaded.sample(["a red lamp"], stop=[name], **asked)
    for answer, found in zip(free, cut, strict=True):
        end = answer.tokens.index(token) if token in answer.tokens else len(answer.tokens)
        assert found.tokens == answer.tokens[:end] and len(found.logprobs) == end
        ended = "stop" if end < len(answer.tokens) else answer.finish_reason
        assert found.finish_reason == ended
    with pytest.raises(UserError, match=r"stop=.*never holds the control token"):
        loaded.sample(["a red lamp"], stop=f"{name}\n", **asked)
    for stop in (5, b"a", {"a": 1}, [None]):
        with pytest.raises(UserError, match="stop=.*must be a text or a list of texts"):
            loaded.sample(["a red lamp"], stop=stop, **asked)


def test_a_prompts_file_is_checked_before_anything_is_loaded(tmp_path):
    path = tmp_path / "prompts.jsonl"
    for row, complaint in (
        ({"prompt": 5}, "prompt is 5"), ({"prompt": None}, "prompt is None"),
        ({"prompt": ["a"]}, "prompt is"), ({"messages": "a tin"}, "messages are 'a tin'"),
        ({"messages": []}, "messages are"), ({"messages": None}, "messages are"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "message 0: role 'wizard'"),
        ({"messages": [*MESSAGES, {"role": "assistant", "content": "I"}]}, "assistant's own"),
    ):  # fmt: skip
        path.write_text('{"prompt": "a red"}\n' + json.dumps(row) + "\n")
        with pytest.raises(UserError, match=f"prompts.jsonl:2: .*{complaint}"):
            read_prompts(str(path))


def test_a_talk_keeps_the_conversation(loaded, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("a tin\n\na red\n"))
    messages = talk(loaded, "you are alda.", max_tokens=4, seed=1)
    roles = [message["role"] for message in messages]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert messages[2] == loaded.chat(MESSAGES, max_tokens=4, seed=1)
    assert messages[4] == loaded.chat(messages[:4], max_tokens=4, seed=1)
    assert capsys.readouterr().out.count("model: ") == 2


def test_sample_command(forked, run_dir, loaded, tmp_path):
    asked = [{"prompt": "a red"}, {"messages": MESSAGES, "id": "m"}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(x) + "\n" for x in asked))
    settings = ["--n=2", "--max_tokens=4", "--seed=1", "--rows=2", f"--checkpoint={run_dir}"]
    done = forked("msm_jax.sample", ["--prompts=prompts.jsonl", *settings], tmp_path)
    assert done["code"] == 0, done["err"]
    rows = [json.loads(line) for line in done["out"].splitlines()]
    assert [(row["prompt"], row["sample"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [row["input"] for row in rows] == [asked[0], asked[0], asked[1], asked[1]]
    expected = loaded.sample(["a red", MESSAGES], n=2, max_tokens=4, seed=1, rows=2)
    assert [row["completion"] for row in rows] == [a.text for some in expected for a in some]


def test_evaluate_command_in_two_phases_and_its_errors(forked, run_dir, tmp_path):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    (tmp_path / "mine.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        f"    return ConfigDict({{'checkpoint': {str(run_dir)!r}, 'pairs': 'pairs.jsonl', "
        "'max_tokens': 99, 'rows': 2, 'scorers': ['generated', 'logprob']})\n"
    )
    asked = ["--config=mine.py", "--config.max_tokens=9", "--max_tokens=4", "--output=out"]
    commands = [
        [*asked, "--phase=sample"],
        ["--pairs=pairs.jsonl", "--output=out", "--phase=judge"],
        ["--phase=judge"],
        ["--kind=agents", "--checkpoint=nowhere", "--output=o"],
    ]
    run = lambda argv: forked("msm_jax.evaluate", argv, tmp_path)
    sampled, judged, *wrong = map(run, commands)
    assert (sampled["code"], sampled["out"]) == (0, ""), sampled["err"]
    evaluation = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (evaluation["max_tokens"], evaluation["seed"]) == (4, 0)
    assert judged["code"] == 0, judged["err"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert json.loads(judged["out"]) == summary["scorers"]
    assert summary["scorers"]["logprob"]["n"] == 2
    for found, complaint in zip(wrong, ("--pairs, --output", "nowhere"), strict=True):
        assert (found["code"], found["out"]) == (2, "")
        assert found["err"].count("error:") == 1 and "Traceback" not in found["err"]
        assert complaint in found["err"]
