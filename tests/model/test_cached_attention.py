"""Attention to the used slots of a cache: equal to one softmax over all, without its scores."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msm_jax.model import ModelConfig, abstract_params, cached_attention, decode
from msm_jax.model.cached_attention import NEVER, Span, over_span, softmax

SLOTS = 512  # no other axis has this length


def spans(lead, S, rng):
    """Rows that end at one slot, as in a ring: a full one, an empty one, and any between."""
    count = rng.integers(0, S + 1, (*lead[:-1], 1)).astype(np.int32)
    count.flat[0], count.flat[-1] = S, 0
    end = int(rng.integers(1, S))
    return Span((end - count) % S, count, np.int32(end - count.max()), np.int32(end))


@pytest.mark.parametrize("way", ["blocks", "kernel"])
@pytest.mark.parametrize(("lead", "n", "S"), [((2, 3), 5, 64), ((3, 1, 2), 70, 128)])
def test_a_span_is_one_softmax_over_its_slots(monkeypatch, way, lead, n, S):
    """Queries and splits beyond a block too. Slots outside hold what must not be seen."""
    for name, value in (("BLOCK", 16), ("BLOCK_NUMBERS", 1), ("KERNEL_KEYS", 16)):
        monkeypatch.setattr(cached_attention, name, value)
    monkeypatch.setattr(cached_attention, "INTERPRET", way == "kernel")
    rng = np.random.default_rng(S)
    q, k, v, *other = (
        rng.normal(size=(*lead, size, 16)).astype(np.float32) for size in (n, S, S, 3, 3)
    )
    span = spans(lead, S, rng)
    seen_nS = span.seen(jnp.arange(S), S)[..., None, :]
    spoil = lambda x: np.where(np.swapaxes(seen_nS, -1, -2), x, 1e4).astype(np.float32)
    rest = [(*other, np.ones((*[1] * len(lead), 1, 3), bool))]
    for pieces in ([], rest):
        found = jax.jit(over_span)(q, spoil(k), spoil(v), span, pieces)
        wanted = softmax(q, [(k, v, seen_nS), *pieces])
        some = np.broadcast_to(span.count[..., None] > 0, wanted[0].shape) | bool(pieces)
        assert (np.asarray(found[0])[~some] == NEVER).all()
        for at in (lambda x: x[0] + jnp.log(x[1]), lambda x: x[2] / x[1][..., None]):
            one, other_one = np.asarray(at(found))[some], np.asarray(at(wanted))[some]
            np.testing.assert_allclose(one, other_one, atol=1e-5)


@pytest.mark.parametrize(("platform", "calls"), [("gpu", 4), ("cpu", 0)])
def test_a_token_is_lowered_without_scores_of_all_slots(monkeypatch, platform, calls):
    """For CUDA one call for the prompts and one for the rings of each layer, of two kernels."""
    monkeypatch.setattr(cached_attention, "platform_of", lambda mesh: platform)
    monkeypatch.setattr(cached_attention, "BLOCK_NUMBERS", 1)
    config = ModelConfig(96, 16, 2, 4, 2, 64, 32, dtype="bfloat16")
    params = jax.eval_shape(decode.unstacked, abstract_params(config))
    prompts = jax.eval_shape(lambda: decode.empty(config, 3, SLOTS))
    rings = jax.eval_shape(lambda: decode.empty_rings(config, 3, 2, SLOTS))
    chunk = jax.eval_shape(lambda: decode.empty_chunk(decode.empty_rings(config, 3, 2, SLOTS)))
    ids = jax.ShapeDtypeStruct((3, 2), jnp.int32)
    traced = jax.jit(lambda *a: decode.decode(config, *a)).trace(
        params, prompts, rings, chunk, ids, ids
    )
    text = traced.lower(lowering_platforms=("cuda" if calls else "cpu",)).as_text()
    assert text.count("call @_kernel_call") == calls
    assert text.count("xla.gpu.triton") == calls // config.layers
    scores = re.compile(rf"tensor<(?:\d+x)+{SLOTS}xf32>")
    assert not scores.search(text)
    monkeypatch.setattr(cached_attention, "BLOCK", SLOTS)
    whole = jax.jit(lambda *a: decode.decode(config, *a)).trace(
        params, prompts, rings, chunk, ids, ids
    )
    if not calls:  # what is read here would be seen
        assert scores.search(whole.lower().as_text())
