"""Scaled dot-product attention within segments: the oracle of all other implementations."""

import jax
import jax.numpy as jnp
from jax import Array


def segment_mask(segment_ids_BT: Array) -> Array:
    """bool mask_BTS: query t sees key s if s <= t and both are in one segment that is not 0."""
    length = segment_ids_BT.shape[1]
    causal_TS = jnp.tril(jnp.ones((length, length), bool))
    same_BTS = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
    return same_BTS & causal_TS[None] & (segment_ids_BT > 0)[:, :, None]


def attend(q_BTHd: Array, k_BSKd: Array, v_BSKd: Array, mask_BTS: Array) -> Array:
    """softmax(q k / sqrt(d)) v with the softmax in float32; query heads share H // K keys.

    A query whose mask row is empty (padding) gets the mean of the values: finite, never used.
    """
    d, group = q_BTHd.shape[-1], q_BTHd.shape[2] // k_BSKd.shape[2]
    q_BHTd = jnp.swapaxes(q_BTHd * d**-0.5, 1, 2)
    k_BHSd = jnp.swapaxes(jnp.repeat(k_BSKd, group, axis=2), 1, 2)
    v_BHSd = jnp.swapaxes(jnp.repeat(v_BSKd, group, axis=2), 1, 2)
    scores_BHTS = jnp.einsum("BHTd,BHSd->BHTS", q_BHTd, k_BHSd, preferred_element_type=jnp.float32)
    scores_BHTS = jnp.where(mask_BTS[:, None], scores_BHTS, -1e30)
    weights_BHTS = jax.nn.softmax(scores_BHTS, axis=-1).astype(v_BSKd.dtype)
    return jnp.swapaxes(weights_BHTS @ v_BHSd, 1, 2)
