"""Rows of documents for tests of attention, and the comparison with plain attention."""

import jax
import jax.numpy as jnp
import numpy as np

from msm_jax.model import ModelConfig
from msm_jax.model.attention import attend, segment_mask


def case(T, H, K, d, segments, dtype="float32"):
    """q, k, v and cotangent of rows of segments, and their ids."""
    keys = jax.random.split(jax.random.key(T), 4)
    draw = lambda key, heads: jax.random.normal(key, (len(segments), T, heads, d), dtype)
    q, k, v, cotangent = draw(keys[0], H), draw(keys[1], K), draw(keys[2], K), draw(keys[3], H)
    ids = jnp.asarray(segment_ids(T, segments))
    return q, k, v, cotangent * (ids > 0)[..., None, None], ids


def segment_ids(T, segments):
    """int32 [rows, T]; negative lengths are padding, as is what is left of a row."""
    ids = np.zeros((len(segments), T), np.int32)
    for row, lengths in enumerate(segments):
        at = 0
        for number, length in enumerate(lengths, start=1):
            ids[row, at : at + abs(length)] = number if length > 0 else 0
            at += abs(length)
    return ids


def small_model(**changes):
    """A model whose heads any kernel can compute, 128 wide."""
    return ModelConfig(128, 16, 2, 4, 2, 128, 32, **changes)


def compare(attention, q, k, v, cotangent, ids, atol):
    plain = lambda q, k, v: attend(q, k, v, segment_mask(ids))
    real = (ids > 0)[..., None, None]

    def run(attention):
        out, back = jax.vjp(jax.jit(attention), q, k, v)
        return jnp.where(real, out, 0), *back(cotangent)

    for ours, theirs in zip(run(lambda q, k, v: attention(q, k, v, ids)), run(plain), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(
            ours.astype(jnp.float32), theirs.astype(jnp.float32), atol=atol, rtol=atol
        )
