"""Rows of documents for tests of attention, and the comparison with plain attention."""

import jax
import jax.numpy as jnp
import numpy as np

from msm_jax.model import ModelConfig
from msm_jax.model.attention import attend, segment_mask


def case(T, H, K, d, segments, dtype="float32"):
    """q, k, v and cotangent of rows of segments, and their ids."""
    rng, ids = np.random.default_rng(T), segment_ids(T, segments)
    draw = lambda heads: rng.standard_normal((len(segments), T, heads, d)).astype("float32")
    q, k, v, cotangent = draw(H), draw(K), draw(K), draw(H) * (ids > 0)[..., None, None]
    # By numpy, as JAX would compile each of these operations for each shape.
    q, k, v, cotangent = (
        jax.device_put(each.astype(jnp.dtype(dtype))) for each in (q, k, v, cotangent)
    )
    return q, k, v, cotangent, jax.device_put(ids)


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

    @jax.jit
    def both(q, k, v, cotangent):
        def run(attention):
            out, back = jax.vjp(attention, q, k, v)
            return jnp.where(real, out, 0), *back(cotangent)

        return run(lambda q, k, v: attention(q, k, v, ids)), run(plain)

    for ours, theirs in zip(*both(q, k, v, cotangent), strict=True):
        assert ours.dtype == theirs.dtype
        ours, theirs = (np.asarray(each).astype(np.float32) for each in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, atol=atol, rtol=atol)
