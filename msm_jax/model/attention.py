"""Scaled dot-product attention within segments, and the key/value cache of the sampler."""

import dataclasses

import jax
import jax.numpy as jnp


def segment_mask(segment_ids_BT):
    """bool mask_BTS: query t sees key s if s <= t and both lie in one segment that is not 0."""
    length = segment_ids_BT.shape[1]
    causal_TS = jnp.tril(jnp.ones((length, length), bool))
    same_BTS = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
    return same_BTS & causal_TS[None] & (segment_ids_BT > 0)[:, :, None]


def attend(q_BTHd, k_BSKd, v_BSKd, mask_BTS):
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys and values of the tokens seen so far; every row writes to the same slots.

    Rows of unequal length are therefore aligned at their right end, with segment id 0 on the
    left. Layers take turns in `scan`, so the cache is a carry that is updated in place.

    Attributes:
      k_LBSKd, v_LBSKd: rotated keys and values.
      segment_ids_BS: 0 where a slot is empty or padding.
      used: int32 scalar, slots filled.
      layer: int32 scalar, whose turn it is.
    """

    k_LBSKd: jax.Array
    v_LBSKd: jax.Array
    segment_ids_BS: jax.Array
    used: jax.Array
    layer: jax.Array

    @classmethod
    def empty(cls, config, batch: int, slots: int) -> "Cache":
        shape = (config.layers, batch, slots, config.kv_heads, config.head_dim)
        zeros = jnp.zeros(shape, config.compute_dtype)
        zero = jnp.zeros((), jnp.int32)
        return cls(zeros, zeros, jnp.zeros((batch, slots), jnp.int32), zero, zero)

    def admit(self, segment_ids_BT):
        """Mark the next T slots; returns the cache and the new tokens' mask_BTS."""
        T, S = segment_ids_BT.shape[1], self.segment_ids_BS.shape[1]
        marked_BS = jax.lax.dynamic_update_slice(
            self.segment_ids_BS, segment_ids_BT, (0, self.used)
        )
        causal_TS = jnp.arange(S)[None] <= self.used + jnp.arange(T)[:, None]
        same_BTS = segment_ids_BT[:, :, None] == marked_BS[:, None, :]
        mask_BTS = same_BTS & causal_TS[None] & (segment_ids_BT > 0)[:, :, None]
        return dataclasses.replace(self, segment_ids_BS=marked_BS), mask_BTS

    def write(self, k_BTKd, v_BTKd):
        """Store this layer's keys and values; returns all of the layer's, and the cache."""
        start = (self.layer, 0, self.used, 0, 0)
        k_LBSKd = jax.lax.dynamic_update_slice(self.k_LBSKd, k_BTKd[None], start)
        v_LBSKd = jax.lax.dynamic_update_slice(self.v_LBSKd, v_BTKd[None], start)
        cache = dataclasses.replace(self, k_LBSKd=k_LBSKd, v_LBSKd=v_LBSKd, layer=self.layer + 1)
        return k_LBSKd[self.layer], v_LBSKd[self.layer], cache

    def advance(self, tokens: int):
        """Close a forward pass over this many tokens."""
        return dataclasses.replace(self, used=self.used + tokens, layer=jnp.zeros_like(self.layer))
