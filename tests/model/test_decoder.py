"""The decoder against `transformers`, and against itself where a property must hold."""

import dataclasses
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msm_jax.errors import UserError
from msm_jax.model import (
    ModelConfig,
    abstract_params,
    forward,
    init_params,
    logical_axes,
    logits,
)

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import reference

fresh = jax.jit(init_params, static_argnums=0)
SMALL = ModelConfig(61, 24, 2, 4, 2, 8, 40)
LENGTH = 503


@functools.partial(jax.jit, static_argnums=0)
def _logits(config, params, *inputs):
    return logits(config, params, forward(config, params, *inputs))


def run(config, params, tokens, segment_ids=None, positions=None):
    shape = np.shape(tokens)
    if segment_ids is None:
        segment_ids = np.ones(shape, np.int32)
    if positions is None:
        positions = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    return np.asarray(_logits(config, params, tokens, segment_ids, positions))


def their_logits(model, tokens, mask=None):
    import torch

    with torch.no_grad():
        mask = None if mask is None else torch.tensor(mask)
        return model(torch.tensor(tokens).long(), attention_mask=mask).logits.numpy()


def tokens_of(length, vocab, seed=0, rows=1):
    return np.random.default_rng(seed).integers(0, vocab, (rows, length)).astype(np.int32)


@pytest.mark.parametrize(
    ("family", "tied", "eps", "theta", "shape"),
    [
        ("qwen3", True, 1e-6, 1e6, "odd widths"),
        ("qwen3", True, 1e-6, 1e6, "as many key heads"),
        ("qwen3", False, 1e-5, 5e6, "one key head"),
        ("qwen2", True, 1e-6, 1e6, "one key head"),
        ("llama", False, 1e-5, 5e5, "odd widths"),
    ],
)
def test_logits_are_those_of_transformers(family, tied, eps, theta, shape):
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    config, model = reference.tiny(family, tied, eps, theta, shape)
    params = reference.our_params(config, model)
    tokens = tokens_of(LENGTH, 97)
    wanted = their_logits(model, tokens)
    assert np.std(wanted) > 0.1  # otherwise closeness would mean nothing
    found = run(config, params, tokens)
    assert np.abs(found - wanted).max() <= 1e-4

    # Three documents in one row are three rows.
    cuts = [0, 100, 341, LENGTH]
    segments = np.concatenate(
        [np.full(b - a, i + 1) for i, (a, b) in enumerate(zip(cuts, cuts[1:], strict=False))]
    )
    positions = np.concatenate([np.arange(b - a) for a, b in zip(cuts, cuts[1:], strict=False)])
    packed = run(config, params, tokens, segments[None], positions[None])
    for a, b in zip(cuts, cuts[1:], strict=False):
        alone = their_logits(model, tokens[:, a:b])
        assert np.abs(packed[:, a:b] - alone).max() <= 1e-4

    # Padding on the right, as a padded batch has it.
    mask = np.ones((1, LENGTH), np.int64)
    mask[:, 400:] = 0
    padded = run(config, params, tokens, mask.astype(np.int32))
    assert np.abs(padded[:, :400] - their_logits(model, tokens, mask)[:, :400]).max() <= 1e-4


def test_no_token_sees_the_future_or_another_document():
    params = reference.drawn(SMALL)
    tokens = tokens_of(20, 61)
    segments = np.array([[1] * 9 + [2] * 11], np.int32)
    positions = np.array([[*range(9), *range(11)]], np.int32)

    def at(embedding_shift, t):
        moved = {**params, "embed": {"w": params["embed"]["w"]}}
        x = moved["embed"]["w"][tokens] + embedding_shift
        table = jnp.concatenate([moved["embed"]["w"], x[0]])  # a row of its own for each place
        ids = jnp.arange(20)[None] + 61
        moved["embed"] = {"w": table}
        hidden = forward(dataclasses.replace(SMALL, vocab_size=81), moved, ids, segments, positions)
        return hidden[0, t].sum()

    gradient = jax.jit(jax.grad(at))
    for t in (0, 4, 8, 9, 14, 19):
        influence = np.abs(gradient(jnp.zeros((1, 20, 24)), t)[0]).sum(axis=-1)
        start = 0 if t < 9 else 9
        assert (influence[start : t + 1] > 0).all()
        assert (influence[:start] == 0).all() and (influence[t + 1 :] == 0).all()


def test_remat_of_older_checkpoints_is_a_bool():
    """What each choice computes again is tests/train/test_step.py's."""
    found = [dataclasses.replace(SMALL, remat=remat).remat for remat in (False, True)]
    assert found == ["none", "full"]


def test_adapter_starts_as_nothing_and_merges_into_the_weights():
    config = dataclasses.replace(SMALL, lora_rank=3, lora_alpha=6.0)
    params, tokens = fresh(config, jax.random.key(0)), tokens_of(30, 61)
    assert config.lora_scale == 2.0

    def merged(tree, with_adapter):
        if "lora_a" in tree:
            each = zip(np.asarray(tree["lora_a"]), np.asarray(tree["lora_b"]), strict=True)
            delta = np.stack([np.tensordot(b, a, 1) for a, b in each]) * config.lora_scale
            return {"w": np.asarray(tree["w"]) + np.float32(with_adapter) * delta}
        return {
            name: merged(leaf, with_adapter) if isinstance(leaf, dict) else leaf
            for name, leaf in tree.items()
        }

    np.testing.assert_allclose(
        run(config, params, tokens), run(SMALL, merged(params, 0), tokens), atol=1e-5
    )
    moved = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.asarray(leaf) + np.float32(0.1) * (path[-1].key == "lora_b"), params
    )
    found, wanted = run(config, moved, tokens), run(SMALL, merged(moved, 1), tokens)
    assert np.abs(found - run(config, params, tokens)).max() > 0.01
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        dataclasses.replace(SMALL, tied_embeddings=False, qkv_bias=True, qk_norm=False),
        dataclasses.replace(SMALL, lora_rank=2, lora_targets=("q", "down")),
    ],
)
def test_declarations_agree(config):
    is_leaf = lambda x: isinstance(x, tuple)
    ranks = jax.tree.map(len, logical_axes(config), is_leaf=is_leaf)
    assert ranks == jax.tree.map(lambda x: x.ndim, abstract_params(config))


def test_parameter_names():
    """Checkpoints carry these names: a change needs a new weights.checkpoints.FORMAT."""
    paths = jax.tree_util.tree_leaves_with_path(
        abstract_params(dataclasses.replace(SMALL, tied_embeddings=False, layers=5))
    )
    found = {".".join(key.key for key in path): leaf.shape for path, leaf in paths}
    assert found == {
        "embed.w": (61, 24),
        "final_norm.scale": (24,),
        "head.w": (61, 24),
        "layers.attention.k.w": (5, 2, 8, 24),
        "layers.attention.k_norm.scale": (5, 8),
        "layers.attention.o.w": (5, 24, 4, 8),
        "layers.attention.q.w": (5, 4, 8, 24),
        "layers.attention.q_norm.scale": (5, 8),
        "layers.attention.v.w": (5, 2, 8, 24),
        "layers.attention_norm.scale": (5, 24),
        "layers.mlp.down.w": (5, 24, 40),
        "layers.mlp.gate.w": (5, 40, 24),
        "layers.mlp.up.w": (5, 40, 24),
        "layers.mlp_norm.scale": (5, 24),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_heads": 3}, "heads=4 is not a multiple of model.kv_heads=3"),
        ({"head_dim": 7}, "even"),
        ({"dtype": "int8"}, "one of .*float32.*bfloat16"),
        ({"lora_targets": ("q", "x")}, "known"),
        ({"layers": 0}, "at least 1"),
    ],
)
def test_impossible_models_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SMALL, **change)
