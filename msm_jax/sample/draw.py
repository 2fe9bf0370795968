"""One token from scores: temperature, top-k, top-p, min-p, and a draw that costs one number.

Which tokens may be drawn is decided by a threshold on their scores, found by bisection over the
bits of float32: exact, without sorting the vocabulary.
"""

import jax
import jax.numpy as jnp

LANES = 128  # scores that are summed together; the draw finds the block first, then the token


def draw(logits_NV, uniform_N, how):
    """Token ids and their log-probabilities under the model itself, int32[N] and float32[N].

    The order is that of transformers: temperature, then top-k, top-p and min-p, each among what
    the ones before left. Tokens with equal scores are kept or dropped together.

    Args:
      logits_NV: float32; what must not be drawn is -inf.
      uniform_N: float32 in [0, 1), one number per row.
      how: {"temperature", "top_k", "top_p", "min_p"}: scalars. Temperature 0 takes the best token;
        top_k 0, top_p 1 and min_p 0 leave all.
    """
    best_N = jnp.argmax(logits_NV, axis=-1)
    whole_N = jax.nn.logsumexp(logits_NV, axis=-1)
    hot = lambda: _drawn(logits_NV / how["temperature"], uniform_N, how)
    token_N = jax.lax.cond(how["temperature"] > 0, hot, lambda: best_N)
    token_N = token_N.astype(jnp.int32)
    chosen_N = jnp.take_along_axis(logits_NV, token_N[:, None], axis=-1)[:, 0]
    return token_N, chosen_N - whole_N


def _drawn(scores_NV, uniform_N, how):
    scores_NV = scores_NV - jnp.max(scores_NV, axis=-1, keepdims=True)
    weights_NV = jnp.exp(scores_NV)
    cut = (how["top_k"] > 0) | (how["top_p"] < 1) | (how["min_p"] > 0)
    weights_NV = jax.lax.cond(cut, lambda w: _kept(w, how), lambda w: w, weights_NV)
    return _inverse(weights_NV, uniform_N)


def _kept(weights_NV, how):
    """The weights with 0 for what top-k, top-p and min-p leave out."""
    count = lambda part_NV: jnp.sum(part_NV > 0, axis=-1).astype(jnp.float32)
    mass = lambda part_NV: jnp.sum(part_NV, axis=-1)
    k = jnp.where(how["top_k"] > 0, how["top_k"], weights_NV.shape[-1]).astype(jnp.float32)
    k_N = jnp.minimum(k, count(weights_NV))
    weights_NV = _at_least(weights_NV, _threshold(weights_NV, count, k_N))
    p_N = jnp.minimum(how["top_p"], 1.0) * mass(weights_NV)
    found_NV = _at_least(weights_NV, _threshold(weights_NV, mass, p_N))
    weights_NV = jnp.where(how["top_p"] < 1, found_NV, weights_NV)
    return _at_least(weights_NV, how["min_p"] * jnp.max(weights_NV, axis=-1))


def _at_least(weights_NV, threshold_N):
    return jnp.where(weights_NV >= threshold_N[:, None], weights_NV, 0.0)


def _threshold(weights_NV, measure, wanted_N):
    """The largest threshold at which what is not below it measures as much as is wanted.

    Weights are not negative, and so in the order of their bits read as integers.
    """

    def halve(step, bits_N):
        trial_N = bits_N | (jnp.int32(1) << (30 - step))
        trial = jax.lax.bitcast_convert_type(trial_N, jnp.float32)
        enough_N = (measure(_at_least(weights_NV, trial)) >= wanted_N) & jnp.isfinite(trial)
        return jnp.where(enough_N, trial_N, bits_N)

    bits_N = jax.lax.fori_loop(0, 31, halve, jnp.zeros(weights_NV.shape[0], jnp.int32))
    return jax.lax.bitcast_convert_type(bits_N, jnp.float32)


def _inverse(weights_NV, uniform_N):
    """Where the running sum of the weights first exceeds uniform times the whole."""
    N, V = weights_NV.shape
    lanes = min(LANES, V)
    weights_NV = jnp.pad(weights_NV, ((0, 0), (0, -V % lanes)))
    blocks_Nbl = weights_NV.reshape(N, -1, lanes)
    sums_Nb = jnp.cumsum(jnp.sum(blocks_Nbl, axis=-1), axis=-1)
    aim_N = uniform_N * sums_Nb[:, -1]
    block_N = _first_above(sums_Nb, aim_N)
    before_N = jnp.where(block_N > 0, _at(sums_Nb, jnp.maximum(block_N - 1, 0)), 0.0)
    inside_Nl = jnp.take_along_axis(blocks_Nbl, block_N[:, None, None], axis=1)[:, 0]
    running_Nl = before_N[:, None] + jnp.cumsum(inside_Nl, axis=-1)
    # Rounding may put the aim just beyond the block's own sum: then its last token is meant.
    last_N = lanes - 1 - jnp.argmax(inside_Nl[:, ::-1] > 0, axis=-1)
    place_N = jnp.minimum(_first_above(running_Nl, aim_N), last_N)
    return block_N * lanes + place_N


def _first_above(sums_Nn, aim_N):
    """The first place whose sum is above the aim; the last one that adds something if none is."""
    above_Nn = sums_Nn > aim_N[:, None]
    rises_Nn = jnp.diff(sums_Nn, axis=-1, prepend=0.0) > 0
    last_N = sums_Nn.shape[-1] - 1 - jnp.argmax(rises_Nn[:, ::-1], axis=-1)
    return jnp.where(jnp.any(above_Nn, axis=-1), jnp.argmax(above_Nn, axis=-1), last_N)


def _at(values_Nn, place_N):
    return jnp.take_along_axis(values_Nn, place_N[:, None], axis=-1)[:, 0]
