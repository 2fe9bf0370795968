"""Checkpoints that we write: bit for bit what was read, and what transformers makes of them."""

import json
import pathlib
import sys

import jax
import numpy as np
import pytest

from msm_jax.errors import UserError
from msm_jax.model import make_mesh
from msm_jax.weights.export import save_checkpoint
from msm_jax.weights.huggingface import load_checkpoint
from msm_jax.weights.tensor_files import INDEX, find_tensors

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "model"))
import reference

KINDS = [("qwen3", True), ("qwen3", False), ("qwen2", True), ("llama", False)]


@pytest.fixture
def written(tmp_path):
    """A function: (family, tied) -> directory that transformers wrote in bfloat16."""
    torch = pytest.importorskip("torch")

    def write(family="qwen3", tied=True):
        _, model = reference.tiny(family, tied, 1e-5, 5e6, "odd widths")
        model.to(torch.bfloat16).save_pretrained(tmp_path / "theirs", max_shard_size="30KB")
        (tmp_path / "theirs" / "tokenizer.json").write_text("{}")
        return tmp_path / "theirs"

    return write


def bits(directory):
    found = find_tensors(directory)
    return {name: (t.dtype, t.shape, t.read().tobytes()) for name, t in found.items()}


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 20_000, 1])
@pytest.mark.parametrize(("family", "tied"), KINDS)
def test_there_and_back_is_the_same_to_the_last_bit(written, tmp_path, family, tied, shard_bytes):
    source, target = written(family, tied), tmp_path / "ours"
    save_checkpoint(target, *load_checkpoint(source), original=source, shard_bytes=shard_bytes)
    assert bits(target) == bits(source)
    files = sorted(target.glob("*.safetensors"))
    assert (len(files) > 1) == (shard_bytes < 10**9) == (target / INDEX).exists()
    if shard_bytes == 20_000:
        assert all(file.stat().st_size < 40_000 for file in files)
    assert (target / "generation_config.json").read_text() == (
        source / "generation_config.json"
    ).read_text()
    assert (target / "tokenizer.json").exists()
    assert not list(tmp_path.glob(".*"))  # no temporary file is left


@pytest.mark.parametrize(("family", "tied"), KINDS)
def test_transformers_loads_what_we_write(written, tmp_path, family, tied):
    import torch
    import transformers

    source, target = written(family, tied), tmp_path / "ours"
    save_checkpoint(target, *load_checkpoint(source), shard_bytes=20_000)
    tokens = torch.arange(90)[None]
    loaded = [
        transformers.AutoModelForCausalLM.from_pretrained(folder) for folder in (source, target)
    ]
    assert loaded[1].dtype == torch.bfloat16
    with torch.no_grad():
        one, other = (model(tokens).logits for model in loaded)
    assert torch.equal(one, other)


def test_keys_of_its_config_that_we_do_not_decide_are_kept(written, tmp_path):
    source = written()
    config = source / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token_id": [7, 8]}))
    save_checkpoint(tmp_path / "ours", *load_checkpoint(source), original=source)
    assert json.loads((tmp_path / "ours/config.json").read_text())["eos_token_id"] == [7, 8]


def test_float32_is_rounded_as_torch_rounds(written, tmp_path):
    import torch
    import transformers

    source = written()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.no_grad():
        for value in theirs.parameters():
            value.mul_(1.001)
    theirs.save_pretrained(tmp_path / "wide")
    save_checkpoint(tmp_path / "ours", *load_checkpoint(tmp_path / "wide"), dtype="bfloat16")
    theirs.to(torch.bfloat16).save_pretrained(tmp_path / "narrow")
    assert bits(tmp_path / "ours") == bits(tmp_path / "narrow")


def test_a_directory_that_holds_something_is_left_alone(written, tmp_path):
    loaded = load_checkpoint(written())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    for place in ("full", "full/precious"):
        with pytest.raises(UserError, match="is not empty"):
            save_checkpoint(tmp_path / place, *loaded)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["precious"]
    (tmp_path / "empty").mkdir()
    save_checkpoint(tmp_path / "empty", *loaded)
    assert (tmp_path / "empty" / "model.safetensors").exists()


def test_what_fails_leaves_nothing(written, tmp_path):
    config, params = load_checkpoint(written())
    del params["final_norm"]
    with pytest.raises(KeyError):
        save_checkpoint(tmp_path / "ours", config, params)
    assert not (tmp_path / "ours").exists() and not list(tmp_path.glob(".*"))


def test_sharded_parameters_are_written_as_whole_ones(written, tmp_path):
    source = written()
    save_checkpoint(tmp_path / "one", *load_checkpoint(source))
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    save_checkpoint(tmp_path / "many", *load_checkpoint(source, mesh=mesh))
    assert bits(tmp_path / "one") == bits(tmp_path / "many")
    np.testing.assert_equal(len(bits(tmp_path / "one")), 2 + 11 * 2)
