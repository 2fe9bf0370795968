"""What is learned can be seen before and while a stage is trained."""

import io
import json

from processes import Command, write_config

from msm_jax.data.preview import shown
from msm_jax.data.tokenizer import load_tokenizer
from msm_jax.train.config import source
from msm_jax.train.loop import train

CHAT = [{"role": "user", "content": "big red."}, {"role": "assistant", "content": "small blue."}]
MARKED = "<|user|>big red.<|end|><|assistant|>[[small blue.<|end|>]]"


def with_chats(config, tmp_path):
    chats = tmp_path / "chats.jsonl"
    chats.write_text((json.dumps({"messages": CHAT}) + "\n") * 8)
    config.data.chats = source(str(chats))
    config.data.chats.loss_on = "assistant"
    config.token_cache = str(tmp_path / "cache")
    return config


def test_a_preview_prints_rows_and_writes_no_run(config, tmp_path):
    file = write_config(with_chats(config, tmp_path), tmp_path)
    before = {*tmp_path.iterdir()}
    code, out, err = Command("msm_jax.train", f"--config={file}", "--preview").finish()
    assert code == 0, err
    assert MARKED in out and out.count("=== row") == config.rows
    assert {*tmp_path.iterdir()} - before <= {tmp_path / "cache"}
    code, _, err = Command("msm_jax.train", f"--config={file}").finish()
    assert code == 2 and "--workdir" in err


def test_a_log_begins_with_an_example_of_each_source(config, tmp_path):
    train(with_chats(config, tmp_path), tmp_path / "run", io.StringIO())
    log = (tmp_path / "run" / "log.txt").read_text()
    assert f"data.chats: its first example, loss tokens in [[ ]]: {MARKED}" in log
    assert "data.documents: its first example, loss tokens in [[ ]]: [[" in log


def test_what_a_terminal_would_obey_is_spelled_out(material):
    tokenizer = load_tokenizer(material / "t.model")
    tokenizer.decode = lambda ids: "a\x1b[2Jb"
    word = tokenizer.encode("red")[:1]
    assert shown(tokenizer, word, [0]) == "a\\x1b[2Jb"
    assert shown(tokenizer, word, [1], colour=True) == "\x1b[32ma\\x1b[2Jb\x1b[0m"
