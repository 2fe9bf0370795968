"""Files from strangers end in one message, in bounded time and memory."""

import json
import os
import re

import pytest

from msm_jax import limits
from msm_jax.corpus.records import read_parquet
from msm_jax.data.template import find_template
from msm_jax.data.tokenizer import load_tokenizer
from msm_jax.errors import UserError
from msm_jax.files import read_object, sha256_file
from msm_jax.limits import Limit
from msm_jax.spec import load_spec
from msm_jax.weights.tensor_files import INDEX, find_tensors

FUZZ = """
import runpy, sys
sys.argv = ["fuzz", "--files=250", "--workers=1", "--seed=5"]
runpy.run_path(sys.path.pop(0), run_name="__main__")
"""
# A file of a directory, and what reads it there.
READERS = {
    "config.json": lambda folder: read_object(folder / "config.json"),
    "tokenizer.json": load_tokenizer,
    "tokenizer.model": load_tokenizer,
    "chat_template.jinja": find_template,
    INDEX: find_tensors,
    "spec.md": lambda folder: load_spec(folder / "spec.md", "Qwen"),
}


def test_broken_files_are_read_or_refused_by_one_message(root, run_program):
    """A sample of what `python tests/fuzz --files=10000` tries."""
    program = FUZZ.replace("sys.path.pop(0)", repr(str(root / "tests" / "fuzz")))
    done = run_program(program)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert re.search(r"250 files in \d+ s, 0 faults", done.stdout)


@pytest.mark.parametrize("name", READERS)
def test_a_device_a_pipe_and_a_file_too_large_are_refused(tmp_path, name):
    file, read = tmp_path / name, READERS[name]
    file.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=f"{name}.*is not a regular file"):
        read(tmp_path)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match=f"{name}.*is not a regular file"):
        read(tmp_path)
    file.unlink()
    with file.open("wb") as sparse:
        sparse.truncate(2 << 30)
    with pytest.raises(UserError, match=rf"{name}.*has more bytes than .*_BYTES in msm_jax/limits"):
        read(tmp_path)


def test_a_file_of_data_that_is_a_device_is_neither_hashed_nor_read(tmp_path):
    (tmp_path / "x.jsonl").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="is not a regular file"):
        sha256_file(tmp_path / "x.jsonl")
    os.mkfifo(tmp_path / "x.parquet")
    with pytest.raises(UserError, match="is not a regular file"):
        next(read_parquet(tmp_path / "x.parquet"))


def test_json_is_as_deep_as_its_limit(tmp_path):
    file = tmp_path / "config.json"
    for depth in (limits.JSON_DEPTH - 1, limits.JSON_DEPTH, 900, 200_000):
        file.write_text('{"a": ' + "[" * depth + "]" * depth + "}")
        if depth < limits.JSON_DEPTH:
            assert read_object(file)
        else:
            with pytest.raises(UserError, match=r"config\.json: not JSON .*JSON_DEPTH"):
                read_object(file)


def test_a_message_commands_no_terminal_and_has_an_end():
    assert limits.printable("a\tb\n\x1b[31m\u202e\ud800é") == "a\tb\n\\x1b[31m\\u202e\\ud800é"
    text = limits.printable("x" * 10**6)
    assert len(text) < limits.MESSAGE_CHARACTERS + 50 and text.endswith("(and 980,000 more)")


def test_every_limit_is_on_the_page_of_security(root):
    page = (root / "docs" / "security.md").read_text(encoding="utf-8")
    found = {name: value for name, value in vars(limits).items() if isinstance(value, Limit)}
    assert len(found) > 10
    for name, limit in found.items():
        assert str(limit) == f"{int(limit):,} ({name} in msm_jax/limits.py)"
        assert f"| `{name}` | {int(limit):,} |" in page, f"{name} {int(limit):,}"


def test_a_limit_says_its_name_where_it_is_exceeded(tmp_path):
    settings = {"model_type": "qwen3", "num_hidden_layers": 10**9}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    from msm_jax.weights.hf_config import read_config

    with pytest.raises(UserError, match=r"num_hidden_layers 1000000000: .*\(LAYERS in msm_jax"):
        read_config(tmp_path)
