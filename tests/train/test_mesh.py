"""Sharded training equals training on one device; a run may change its mesh and move away."""

import json
import os
import shutil

import numpy as np
import pytest

import msm_jax
from msm_jax.errors import UserError
from msm_jax.train.loop import train

EIGHT = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
SHARDED = """
import json, pathlib, sys
import jax
from ml_collections import ConfigDict
from msm_jax.model import make_mesh
from msm_jax.train.loop import train
from msm_jax.weights.checkpoints import load_params

config, out = ConfigDict(json.loads(sys.argv[1])), pathlib.Path(sys.argv[2])
meshes = {"data": (8, 1, 1, 1), "fsdp": (1, 8, 1, 1), "sequence": (1, 2, 4, 1), "all": (2, 1, 2, 2)}
for name, sizes in meshes.items():
    config.mesh.update(dict(zip(("data", "fsdp", "sequence", "tensor"), sizes)))
    train(config, out / name)
# What one mesh saved is read under another, and cut by it.
config.mesh.update({"data": 1, "fsdp": 4, "sequence": 1, "tensor": 2})
_, params, _ = load_params(out / "all", mesh=make_mesh(config.mesh))
leaf = params["layers"]["mlp"]["up"]["w"]
assert leaf.addressable_shards[0].data.size * 8 == leaf.size, leaf.sharding
# A run that was stopped half-way goes on under that mesh.
config.steps = 12
train(config, out / "stopped")
"""


KERNELS = """
import dataclasses
import jax, jax.numpy as jnp, numpy as np
from msm_jax.model import ModelConfig, abstract_params, kernels, make_mesh, param_shardings
from msm_jax.train import loss
from msm_jax.train.loss import summed_loss

loss.PLAIN, loss.CHUNK["cpu"] = 1, 2 * 96 * 8
config = ModelConfig(96, 16, 2, 4, 2, 8, 32, attention="blockwise", remat="full")
rng = np.random.default_rng(0)
some = lambda x: 0.2 * rng.standard_normal(x.shape).astype(np.float32)
params = jax.tree.map(some, abstract_params(config))  # numpy cuts it without a program
draw = lambda: rng.integers(1, 96, (8, 32)).astype(np.int32)
batch = {"tokens": draw(), "targets": draw(), "loss_weights": (draw() % 3 > 0).astype(np.float32)}
batch["segment_ids"] = np.minimum(np.arange(32) // 7 + 1, 4).astype(np.int32)[None].repeat(8, 0)
batch["segment_ids"][1::2, 20:] = 0
batch["positions"] = np.arange(32, dtype=np.int32)[None].repeat(8, 0)
grad = jax.jit(jax.value_and_grad(summed_loss, 1), static_argnums=(0, 3))
wanted, of_params = grad(config, params, batch, None)
for sizes in ((8, 1, 1, 1), (2, 2, 1, 2), (1, 2, 2, 2)):
    mesh = make_mesh(dict(zip(("data", "fsdp", "sequence", "tensor"), sizes)))
    cut = jax.device_put(params, param_shardings(config, mesh))
    found, of_cut = grad(config, cut, batch, mesh)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), of_cut, of_params)

# Splash, interpreted: a device visits the blocks of its part of the row.
kernels.INTERPRET = True
q, k, v, cotangent = (rng.standard_normal((2, 512, heads, 64)).astype(np.float32)
                      for heads in (4, 2, 2, 4))
ids = np.repeat(np.array([[1, 2, 3, 4], [1, 1, 2, 2]], np.int32), 128, axis=1)
def run(kind, mesh, **more):
    changed = dataclasses.replace(config, attention=kind, head_dim=64)
    attention = kernels.packed_attention(changed, ids, mesh, **more)
    @jax.jit
    def both(q, k, v, cotangent):
        out, back = jax.vjp(attention, q, k, v)
        return out, *back(cotangent)
    return both(q, k, v, cotangent)
mesh = make_mesh({"data": 2, "fsdp": 1, "sequence": 2, "tensor": 2})
wanted = run("plain", None)
for a, b in zip(run("splash", mesh), wanted, strict=True):
    np.testing.assert_allclose(a, b, atol=3e-5)

# What cuDNN would get of packed rows: each device its rows, their runs, and its heads.
from msm_jax.model import attention, cudnn
def contract(q, k, v, starts, lengths):
    at = jnp.arange(q.shape[1])[None, None]
    inside = (at >= starts[:, :-1, None]) & (at < (starts[:, :-1] + lengths)[..., None])
    run_of = jnp.where(inside.any(1), jnp.argmax(inside & (starts[:, :-1, None] >= 0), 1) + 1, 0)
    return attention.attend(q, k, v, attention.segment_mask(run_of))
kernels._no_cudnn, cudnn.no_packed = (lambda *_: ""), (lambda: "")
cudnn._packed_call, kernels.platform_of = contract, lambda mesh: "gpu"
mesh = make_mesh({"data": 2, "fsdp": 1, "sequence": 1, "tensor": 2}, jax.devices()[:4])
for a, b in zip(run("cudnn", mesh, documents=5), wanted, strict=True):
    np.testing.assert_allclose(a, b, atol=3e-5)
"""


def test_chunks_and_blocks_are_the_same_on_every_mesh(run_program):
    done = run_program(KERNELS, XLA_FLAGS=EIGHT)
    assert done.returncode == 0, done.stderr[-2000:]


def losses(run):
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return np.array([row["loss"] for row in rows if "loss" in row])


@pytest.fixture
def wide(config):
    """Cut into eight: rows, width, heads."""
    config.rows = 8
    config.model.update({"heads": 4, "kv_heads": 2, "vocab_size": 96})
    config.optimizer.learning_rate = 1e-3
    return config


def test_every_mesh_trains_like_one_device(wide, tmp_path, run_program):
    train(wide, tmp_path / "one")
    # One that was stopped after step 4: what is left of it is its first checkpoint.
    wide.keep_steps = (4,)
    train(wide, tmp_path / "stopped")
    wide.keep_steps = ()
    for path in (tmp_path / "stopped" / "checkpoints").iterdir():
        if path.name not in ("4",):
            shutil.rmtree(path)
    done = run_program(SHARDED, wide.to_json(), str(tmp_path), XLA_FLAGS=EIGHT)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("data", "fsdp", "sequence", "all", "stopped"):
        np.testing.assert_allclose(losses(tmp_path / name), losses(tmp_path / "one"), rtol=2e-5)


def test_an_impossible_mesh_is_refused_before_anything_is_written(config, tmp_path):
    config.mesh.data = 3
    with pytest.raises(UserError, match="impossible mesh"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_can_be_moved_without_its_tokenizer(config, material, tmp_path):
    lent = tmp_path / "lent.model"
    shutil.copyfile(material / "t.model", lent)
    config.tokenizer = str(lent)
    train(config, tmp_path / "run")
    before = msm_jax.load(tmp_path / "run").logprobs(["red"], [" small."])
    lent.unlink()
    (tmp_path / "run").rename(tmp_path / "moved")
    after = msm_jax.load(tmp_path / "moved").logprobs(["red"], [" small."])
    np.testing.assert_array_equal(before[0], after[0])
