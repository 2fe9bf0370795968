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


def attend_by_head(
    q_BTHd: Array, k_BSKd: Array, v_BSKd: Array, segment_ids_BS: Array, first: Array | int = 0
) -> Array:
    """`attend` within segments, one key/value head of one row after another.

    Memory holds the scores [H / K, T, S] of one of them, also backward, where they are computed
    again. `first` is the place of the first query in the row. Padding gets the mean of the values.
    """
    B, T, H, d = q_BTHd.shape
    S, K = k_BSKd.shape[1:3]
    ids_BT = jax.lax.dynamic_slice_in_dim(segment_ids_BS, first, T, axis=1)

    @jax.checkpoint
    def one_head(q_TGd: Array, k_Sd: Array, v_Sd: Array, ids_T: Array, ids_S: Array) -> Array:
        earlier_TS = jnp.arange(S)[None] <= first + jnp.arange(T)[:, None]
        seen_TS = (ids_T[:, None] == ids_S[None]) & earlier_TS & (ids_T > 0)[:, None]
        return attend(q_TGd[None], k_Sd[None, :, None], v_Sd[None, :, None], seen_TS[None])[0]

    def one_row(row: tuple) -> Array:
        q_KTGd, k_KSd, v_KSd, ids_T, ids_S = row
        return jax.lax.map(lambda head: one_head(*head, ids_T, ids_S), (q_KTGd, k_KSd, v_KSd))

    q_BKTGd = jnp.moveaxis(q_BTHd.reshape(B, T, K, H // K, d), 2, 1)
    by_head = lambda x_BSKd: jnp.swapaxes(x_BSKd, 1, 2)
    rows = (q_BKTGd, by_head(k_BSKd), by_head(v_BSKd), ids_BT, segment_ids_BS)
    return jnp.moveaxis(jax.lax.map(one_row, rows), 1, 2).reshape(B, T, H, d)
