"""One token from scores: temperature, top-k, top-p, min-p, and the first of exponential clocks.

Every token has a waiting time of its own, exponential with the token's weight as its rate, and the
first to ring is drawn: argmax(weight / E). That is argmax(log weight + G) with Gumbel noise
G = -log E (Gumbel 1954; Maddison et al. 2014, "A* Sampling"), which draws each token with the
probability that its weight says. A token's noise is a hash of (the row's key, the token's id) and
does not depend on other tokens, rows or devices, so a score that is rounded differently changes the
draw only if two tokens were about to ring at once.

Which tokens may be drawn is decided by a threshold on their weights, found by bisection over the
bits of float32: exact, without sorting the vocabulary.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array

# Temperatures above 0 are clipped to these bounds: they and their inverses are far from where
# float32 overflows or flushes to 0.
COLDEST, HOTTEST = 1e-30, 1e30


def draw(logits_NV: Array, key_N2: Array, how: Mapping[str, Array]) -> tuple[Array, Array]:
    """Token ids and their log-probabilities under the model itself, int32[N] and float32[N].

    The order is that of transformers: temperature, then top-k, top-p and min-p, each among the
    tokens that the ones before kept. Tokens with equal scores are kept or dropped together. A token
    with a probability below 2**-33 is practically never drawn.

    Args:
      logits_NV: float32; what must not be drawn is -inf.
      key_N2: uint32, 64 random bits per row.
      how: {"temperature", "top_k", "top_p", "min_p"}: scalars. Temperature 0 takes the best token,
        of equal ones that with the smallest id; top_k 0, top_p 1 and min_p 0 keep all.
    """
    total_N = jax.nn.logsumexp(logits_NV, axis=-1)
    some = (how["top_k"] > 0) | (how["top_p"] < 1) | (how["min_p"] > 0)
    # One branch for each way: what passes from one branch to another is written to memory.
    ways = [
        lambda: _first_best(logits_NV),
        lambda: _first_to_ring(weights(logits_NV, how["temperature"]), key_N2),
        lambda: _first_to_ring(_kept(weights(logits_NV, how["temperature"]), how), key_N2),
    ]
    token_N = jax.lax.switch(jnp.where(how["temperature"] > 0, 1 + some, 0), ways)
    chosen_N = jnp.take_along_axis(logits_NV, token_N[:, None], axis=-1)[:, 0]
    return token_N, chosen_N - total_N


def weights(logits_NV: Array, temperature: Array) -> Array:
    """exp(logits / temperature), float32 within 0 and 1; the best token has exactly 1."""
    above_NV = logits_NV - jnp.max(logits_NV, axis=-1, keepdims=True)
    return jnp.exp(above_NV / jnp.clip(temperature, COLDEST, HOTTEST))


def waiting_times(key_N2: Array, vocab_size: int) -> Array:
    """Exponential noise of mean 1, float32[N, V], above 0 and finite.

    A counter-based hash as in Salmon et al. 2011 ("Parallel random numbers: as easy as 1, 2, 3"):
    the id's bits are mixed once for all rows, joined with the row's two words, and mixed again.
    For a given row the hash is one-to-one in the id.
    """
    id_V = _mixed(jnp.arange(vocab_size, dtype=jnp.uint32) + jnp.uint32(0x9E3779B9))
    first_N1, second_N1 = key_N2[:, :1], key_N2[:, 1:] | jnp.uint32(1)
    bits_NV = _mixed((id_V[None] ^ first_N1) * second_N1)
    # Within 2**-33 and 1 - 2**-24; what matters is that small numbers keep their digits.
    u_NV = bits_NV.astype(jnp.float32) * jnp.float32(2**-32) + jnp.float32(2**-33)
    u_NV = jnp.minimum(u_NV, jnp.float32(1 - 2**-24))
    return -jnp.log1p(-u_NV)


def _mixed(bits: Array) -> Array:
    """A one-to-one mixing of 32 bits: multiplications and shifts found by Chris Wellons' search
    ("hash-prospector", 2018: lowbias32)."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)


def _first_to_ring(weights_NV: Array, key_N2: Array) -> Array:
    return _first_best(weights_NV / waiting_times(key_N2, weights_NV.shape[-1]))


def _first_best(scores_NV: Array) -> Array:
    """jnp.argmax, int32[N]. On CPUs and TPUs in two reductions, which XLA's CPU backend vectorizes:
    eight times as fast as its reduction of pairs. On GPUs it would compute all scores twice."""

    def in_two(scores_NV: Array) -> Array:
        V = scores_NV.shape[-1]
        best_NV = scores_NV >= jnp.max(scores_NV, axis=-1, keepdims=True)
        place_N = jnp.min(jnp.where(best_NV, jnp.arange(V, dtype=jnp.int32)[None], V), axis=-1)
        return jnp.where(place_N < V, place_N, 0)  # a row of NaN

    in_one = lambda scores_NV: jnp.argmax(scores_NV, axis=-1).astype(jnp.int32)
    return jax.lax.platform_dependent(scores_NV, cuda=in_one, default=in_two)


def _kept(weights_NV: Array, how: Mapping[str, Array]) -> Array:
    """The weights, with 0 for tokens that top-k, top-p or min-p drop."""
    count = lambda part_NV: jnp.sum(part_NV > 0, axis=-1).astype(jnp.float32)
    mass = lambda part_NV: jnp.sum(part_NV, axis=-1)

    def of_top_k() -> Array:
        wanted_N = jnp.minimum(how["top_k"].astype(jnp.float32), count(weights_NV))
        return _threshold(weights_NV, count, wanted_N)

    # A threshold takes 31 passes.
    none = lambda: jnp.zeros(weights_NV.shape[0])
    weights_NV = _at_least(weights_NV, jax.lax.cond(how["top_k"] > 0, of_top_k, none))
    of_top_p = lambda: _threshold(weights_NV, mass, how["top_p"] * mass(weights_NV))
    weights_NV = _at_least(weights_NV, jax.lax.cond(how["top_p"] < 1, of_top_p, none))
    return _at_least(weights_NV, how["min_p"] * jnp.max(weights_NV, axis=-1))


def _at_least(weights_NV: Array, threshold_N: Array) -> Array:
    return jnp.where(weights_NV >= threshold_N[:, None], weights_NV, 0.0)


def _threshold(weights_NV: Array, measure: Callable[[Array], Array], wanted_N: Array) -> Array:
    """The largest threshold with `measure` of the weights that reach it at least `wanted_N`.

    Weights are not negative, so they have the order of their bits read as integers.
    """

    def halve(step: Array, bits_N: Array) -> Array:
        trial_N = bits_N | (jnp.int32(1) << (30 - step))
        trial = jax.lax.bitcast_convert_type(trial_N, jnp.float32)
        enough_N = (measure(_at_least(weights_NV, trial)) >= wanted_N) & jnp.isfinite(trial)
        return jnp.where(enough_N, trial_N, bits_N)

    bits_N = jax.lax.fori_loop(0, 31, halve, jnp.zeros(weights_NV.shape[0], jnp.int32))
    return jax.lax.bitcast_convert_type(bits_N, jnp.float32)
