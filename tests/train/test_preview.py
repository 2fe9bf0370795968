"""What is learned can be seen before and while a stage is trained."""

import io
import json

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


def test_a_preview_prints_rows_and_writes_no_run(config, tmp_path, run_python):
    file = tmp_path / "stage.py"
    text = with_chats(config, tmp_path).to_json()
    file.write_text(
        "import json\nfrom ml_collections import ConfigDict\n"
        f"def get_config():\n    return ConfigDict(json.loads({text!r})).lock()\n"
    )
    before = {*tmp_path.iterdir()}
    done = run_python("-m", "msm_jax.train", f"--config={file}", "--preview")
    assert done.returncode == 0, done.stderr
    assert MARKED in done.stdout and done.stdout.count("=== row") == config.rows
    assert {*tmp_path.iterdir()} - before <= {tmp_path / "cache"}
    done = run_python("-m", "msm_jax.train", f"--config={file}")
    assert done.returncode == 2 and "--workdir" in done.stderr


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
