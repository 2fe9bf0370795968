"""The fingerprint of weights: every bit in its place, however the weights are kept."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "model"))
from reference import drawn

from msm_jax.model import ModelConfig
from msm_jax.model.decode import unstacked
from msm_jax.weights.fingerprint import checksums, params_fingerprint

CONFIG = ModelConfig(
    vocab_size=32, width=16, layers=4, heads=2, kv_heads=2, head_dim=8, mlp_width=16, lora_rank=2
)
# Layers of 2**10 elements and more, whose row-major places differ by multiples of a power of two.


@pytest.fixture(scope="module")
def params():
    """Of numpy, as JAX would compile every change below for each shape."""
    return jax.device_get(drawn(CONFIG))


def changed(params, *path, by):
    """The tree with one leaf changed."""
    if not path:
        return by(params)
    return {**params, path[0]: changed(params[path[0]], *path[1:], by=by)}


def with_numbers(w, numbers):
    """A copy with other numbers at some places."""
    copy = w.copy()
    for place, number in numbers.items():
        copy[place] = number
    return copy


CHANGES = {
    "layers of one weight permuted": (("layers", "mlp", "up", "w"), lambda w: w[::-1]),
    "two layers swapped": (("layers", "mlp", "up", "w"), lambda w: w[np.array([2, 1, 0, 3])]),
    "two elements swapped": (
        ("embed", "w"),
        lambda w: with_numbers(w, {(0, 0): w[1, 0], (1, 0): w[0, 0]}),
    ),
    "transposed": (("layers", "mlp", "down", "w"), lambda w: w.transpose(0, 2, 1)),
    "heads permuted": (("layers", "attention", "q", "w"), lambda w: w[:, ::-1]),
    "every sign": (("embed", "w"), lambda w: -w),
    "two signs": (
        ("embed", "w"),
        lambda w: with_numbers(w, {(3, 4): -w[3, 4], (5, 6): -w[5, 6]}),
    ),
    "a zero's sign": (("final_norm", "scale"), lambda w: w * 0),
    "the adapter": (("layers", "attention", "k", "lora_a"), lambda w: w[:, ::-1]),
    "one dropped": (("layers",), lambda layers: {**layers, "mlp": {"up": layers["mlp"]["up"]}}),
    "another shape": (("embed", "w"), lambda w: w.reshape(16, 32)),
}


def test_what_makes_other_weights_makes_another_fingerprint(params):
    zero = changed(params, "final_norm", "scale", by=lambda w: w * np.float32(-0.0))
    everything = lambda tree: jax.tree.map(lambda leaf: leaf[::-1], tree)
    found = [params_fingerprint(params), params_fingerprint(zero)]
    found += [params_fingerprint(changed(params, *at, by=by)) for at, by in CHANGES.values()]
    found.append(params_fingerprint(changed(params, "layers", by=everything)))
    assert len(set(found)) == len(found) and all(len(each) == 16 for each in found)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_every_bit_counts_in_every_place(dtype):
    x = (np.random.default_rng(0).normal(size=(4, 6)) * 9).astype(jnp.dtype(dtype))
    width = 8 * x.dtype.itemsize
    bits = x.view(f"uint{width}")
    found = [checksums({"x": x})["x"]]
    for place in np.ndindex(bits.shape):
        for bit in range(width):
            other = bits.copy()
            other[place] ^= bits.dtype.type(1 << bit)
            found.append(checksums({"x": other.view(x.dtype)})["x"])
    assert len(set(found)) == len(found)


def test_it_does_not_depend_on_how_weights_are_kept(params):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    assert params_fingerprint(half) == params_fingerprint(wide) != params_fingerprint(params)
    for tree in (params, half):
        assert params_fingerprint(unstacked(tree)) == params_fingerprint(tree)
    assert params_fingerprint(jax.device_put(params)) == params_fingerprint(params)
    tiny = jnp.asarray([1e-40, -1e-40], jnp.bfloat16)  # below the smallest normal number
    assert checksums(tiny) == checksums(np.asarray(tiny).astype(np.float32))
