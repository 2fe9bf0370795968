"""The tiny checkpoint is one that others can read."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import msm_jax
from msm_jax.convert import check
from msm_jax.errors import UserError
from msm_jax.tiny import ROWS, tiny_checkpoint

TEXTS = ["May I read your mail? No, it is yours.", "A letter, a key, a log."] * 10
CHAT = [{"role": "user", "content": "May I read <|im_end|>?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", TEXTS)


def test_it_loads_chats_and_keeps_text_apart_from_control_tokens(folder):
    model = msm_jax.load(folder)
    assert model.chat_format == "qwen3" and model.config.vocab_size == ROWS
    ids, _ = model.render(CHAT)
    assert ids.count(model.tokenizer.control("<|im_end|>")) == 1
    assert model.tokenizer.decode(model.encode("May I, é 鍵?")) == "May I, é 鍵?"
    answer = model.chat(CHAT, max_tokens=4)
    assert answer["role"] == "assistant"
    assert any("qwen3: 3 layers of width 64" in line for line in check(str(folder)))


def test_texts_begin_with_what_the_post_processor_writes_and_need_no_template(folder, tmp_path):
    """A text prompt does, and what is scored after it does not."""
    shutil.copytree(folder, tmp_path / "begun")
    file = tmp_path / "begun" / "tokenizer.json"
    settings = json.loads(file.read_text())
    name = "<|endoftext|>"
    (token,) = (word["id"] for word in settings["added_tokens"] if word["content"] == name)
    text, begin = (
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": name, "type_id": 0}},
    )
    settings["post_processor"] = {
        "type": "TemplateProcessing", "single": [begin, text], "pair": [begin, text, text],
        "special_tokens": {name: {"id": name, "ids": [token], "tokens": [name]}},
    }  # fmt: skip
    file.write_text(json.dumps(settings))
    plain, begun = msm_jax.load(folder), msm_jax.load(tmp_path / "begun")
    # It ends where the plain one does: one program draws from both.
    begun = dataclasses.replace(begun, chat_format="own", stop_ids=plain.ends)
    ids = plain.encode("May I read")
    assert begun.encode("May I read") == [token, *ids]
    (by_text,), (by_ids,) = (
        model.logprobs([prompt], [" your mail?"])
        for model, prompt in ((begun, "May I read"), (plain, [token, *ids]))
    )
    np.testing.assert_array_equal(by_text, by_ids)
    ((answer,),) = begun.sample(["May I read"], 1, max_tokens=2)
    assert len(answer.tokens) <= 2
    with pytest.raises(UserError, match="has no chat template"):
        begun.sample([CHAT], 1, max_tokens=2)


def test_the_seed_decides_the_weights_and_a_directory_is_not_written_over(folder, tmp_path):
    same = tiny_checkpoint(tmp_path / "same", TEXTS)
    other = tiny_checkpoint(tmp_path / "other", TEXTS, seed=1)
    bits = lambda path: (path / "model.safetensors").read_bytes()
    assert bits(same) == bits(folder) != bits(other)
    with pytest.raises(UserError):
        tiny_checkpoint(same, TEXTS)


def test_transformers_gives_the_same_logits(folder):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = msm_jax.load(folder)
    ids = model.encode("May I read your mail?")
    assert tokenizer.encode("May I read your mail?", add_special_tokens=False) == ids
    with torch.no_grad():
        wanted = theirs(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(model.logits([ids])[0] - wanted).max() <= 1e-4
    assert json.loads((folder / "config.json").read_text())["model_type"] == "qwen3"
