"""Checkpoint directories that transformers wrote, loaded to the last bit, or refused in words."""

import json
import pathlib
import sys

import jax
import numpy as np
import pytest

from msm_jax.errors import UserError
from msm_jax.weights.huggingface import load_checkpoint
from msm_jax.weights.names import entries
from msm_jax.weights.streaming import read_entry
from msm_jax.weights.tensor_files import find_tensors

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "model"))
import reference

KINDS = [("qwen3", True), ("qwen3", False), ("qwen2", True), ("llama", False)]


@pytest.fixture
def written(tmp_path):
    """A function: (family, tied) -> (directory, our config, transformers' model)."""
    pytest.importorskip("transformers")
    pytest.importorskip("torch")

    def write(family="qwen3", tied=True, **how):
        config, model = reference.tiny(family, tied, 1e-5, 5e6, "odd widths")
        model.save_pretrained(tmp_path, **how)
        return tmp_path, config, model

    return write


def same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


@pytest.mark.parametrize("size", ["5GB", "40KB"])
@pytest.mark.parametrize(("family", "tied"), KINDS)
def test_loaded_is_what_was_written(written, family, tied, size):
    folder, config, model = written(family, tied, max_shard_size=size)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (size == "40KB")
    found, params = load_checkpoint(folder)
    assert found == config
    same(params, reference.our_params(config, model))


def test_bfloat16_is_rounded_as_torch_rounds(written):
    import torch

    folder, config, model = written()
    _, params = load_checkpoint(folder, "bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"bfloat16"}
    rounded = model.to(torch.bfloat16)
    same(params, reference.our_params(config, rounded.float()))
    rounded.to(torch.bfloat16).save_pretrained(folder)
    found, again = load_checkpoint(folder)
    assert found.param_dtype == "bfloat16"
    same(again, params)


def test_a_layer_at_a_time_is_all_at_once(written):
    folder, config, _ = written()
    tensors = find_tensors(folder)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for entry in entries(config):
        whole = read_entry(entry, tensors, "float32", here)
        same(read_entry(entry, tensors, "float32", here, layers_at_once=1), whole)
        same(read_entry(entry, tensors, "float32", here, layers_at_once=2), whole)


def changed(folder, change):
    """Rewrite the single file with `change` applied to its tensors."""
    import safetensors.numpy

    file = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    change(tensors)
    safetensors.numpy.save_file(tensors, file, metadata={"format": "pt"})


def test_every_problem_is_told_at_once(written):
    folder, _, _ = written()

    def spoil(tensors):
        del tensors["model.norm.weight"]
        name = "model.layers.1.self_attn.q_proj.weight"
        tensors[name] = np.ascontiguousarray(tensors[name].T)
        tensors["model.layers.0.mlp.up_proj.weight"] = np.zeros((72, 40), np.int8)
        tensors["model.layers.3.mlp.up_proj.weight"] = np.zeros((72, 40), np.float32)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1

    changed(folder, spoil)
    with pytest.raises(UserError) as error:
        load_checkpoint(folder)
    for words in (
        "model.norm.weight: is missing",
        "layers.1.self_attn.q_proj.weight: has shape [40, 96], its config asks for [96, 40]",
        "layers.0.mlp.up_proj.weight: has dtype int8",
        "layers.3.mlp.up_proj.weight: is not a tensor of this model",
        "lm_head.weight: differs from model.embed_tokens.weight",
    ):
        assert words in str(error.value)


def test_what_follows_from_the_rest_may_be_stored_too(written):
    folder, config, model = written()

    def add(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(12, np.float32)

    changed(folder, add)
    same(load_checkpoint(folder)[1], reference.our_params(config, model))


def test_another_familys_config_is_noticed(written):
    folder, _, _ = written("qwen2")
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "model_type": "llama"}))
    with pytest.raises(UserError, match=r"q_proj.bias: is not a tensor of this model"):
        load_checkpoint(folder)


MESH_PROGRAM = """
import sys, jax, numpy as np
from msm_jax.model import make_mesh
from msm_jax.weights.fingerprint import params_fingerprint
from msm_jax.weights.huggingface import load_checkpoint
for sizes in ((1, 4, 2), (2, 2, 2), (8, 1, 1), (1, 8, 1)):
    mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), sizes)))
    dtype = "int8" if sizes == (1, 4, 2) else None
    _, one = load_checkpoint(sys.argv[1], dtype)
    _, many = load_checkpoint(sys.argv[1], dtype, mesh=mesh)
    assert params_fingerprint(one) == params_fingerprint(many)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        assert len(b.sharding.device_set) == 8
        for piece in b.addressable_shards:
            np.testing.assert_array_equal(np.asarray(a)[piece.index], np.asarray(piece.data))
print("equal")
"""


def test_on_every_mesh_the_same(tmp_path, run_program):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    theirs = transformers.Qwen3Config(
        vocab_size=96, hidden_size=64, intermediate_size=80, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=24, tie_word_embeddings=False,
    )  # fmt: skip
    transformers.Qwen3ForCausalLM(theirs).save_pretrained(tmp_path)
    eight = "--xla_force_host_platform_device_count=8"
    done = run_program(MESH_PROGRAM, str(tmp_path), XLA_FLAGS=eight)
    assert done.returncode == 0 and "equal" in done.stdout, done.stderr
