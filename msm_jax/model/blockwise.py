"""Attention of packed rows in blocks, skipping blocks of other documents. Any backend, no kernels.

A query sees keys of its own document only, so of a packed row's T x T scores most are masked. Here
a block of queries visits the blocks of keys from the start of its earliest document to itself,
with the running softmax of Milakov & Gimelshein 2018 and Dao et al. 2022. How many those are is
known only when the row is, hence loops of variable length, and a backward pass of our own.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array

NEVER = -1e30


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def blockwise_attention(
    q_BTHd: Array,
    k_BSKd: Array,
    v_BSKd: Array,
    segment_ids_BS: Array,
    first: Array | int = 0,
    block: int = 64,
) -> Array:
    """softmax(q k / sqrt(d)) v within segments, causal, out_BTHd; the softmax is in float32.

    Memory is linear in S; time is T times the documents' lengths. A query of segment 0 (padding)
    gets zeros. The queries are those of all S tokens, or of one of equal parts of T tokens, which
    begins at token `first`.
    """
    return _forward(q_BTHd, k_BSKd, v_BSKd, segment_ids_BS, first, block)[0]


def _forward(
    q_BTHd: Array,
    k_BTKd: Array,
    v_BTKd: Array,
    segment_ids_BT: Array,
    first: Array | int,
    block: int,
) -> tuple[Array, tuple]:
    blocks = _Blocks(q_BTHd, k_BTKd, segment_ids_BT, first, block)
    q_BnKMd = blocks.queries(q_BTHd * q_BTHd.shape[-1] ** -0.5)
    k_BKTd, v_BKTd = blocks.keys(k_BTKd), blocks.keys(v_BTKd)

    def one_query(number: Array, done: tuple) -> tuple:
        out_BnKMd, lse_BnKM = done
        b, i, at = blocks.place(number)
        q_KMd = q_BnKMd[b, i]

        def one_key(j: Array, running: tuple) -> tuple:
            top_KM, sum_KM, out_KMd = running
            scores_KMS = blocks.scores(q_KMd, blocks.key(k_BKTd, b, j), b, at, j)
            new_KM = jnp.maximum(top_KM, jnp.max(scores_KMS, axis=-1))
            weights_KMS = jnp.exp(scores_KMS - new_KM[..., None])
            shrink_KM = jnp.exp(top_KM - new_KM)
            added_KMd = _product("KMS,KSd->KMd", weights_KMS, blocks.key(v_BKTd, b, j))
            return (
                new_KM,
                sum_KM * shrink_KM + jnp.sum(weights_KMS, axis=-1),
                out_KMd * shrink_KM[..., None] + added_KMd,
            )

        shape = q_KMd.shape[:2]
        start = (jnp.full(shape, NEVER / 2), jnp.zeros(shape), jnp.zeros(q_KMd.shape))
        top_KM, sum_KM, out_KMd = jax.lax.fori_loop(blocks.first_Bn[b, at], at + 1, one_key, start)
        seen_KM = sum_KM > 0
        sum_KM = jnp.where(seen_KM, sum_KM, 1.0)
        lse_KM = jnp.where(seen_KM, top_KM + jnp.log(sum_KM), -NEVER)
        out_KMd = (out_KMd / sum_KM[..., None]).astype(q_BTHd.dtype)
        return out_BnKMd.at[b, i].set(out_KMd), lse_BnKM.at[b, i].set(lse_KM)

    start = jnp.zeros_like(q_BnKMd), jnp.zeros(q_BnKMd.shape[:-1])
    out_BnKMd, lse_BnKM = jax.lax.fori_loop(0, blocks.count, one_query, start)
    out_BTHd = blocks.rows(out_BnKMd)
    return out_BTHd, (q_BTHd, k_BTKd, v_BTKd, segment_ids_BT, first, out_BTHd, lse_BnKM)


def _backward(block: int, kept: tuple, d_BTHd: Array) -> tuple:
    q_BTHd, k_BTKd, v_BTKd, segment_ids_BT, first, out_BTHd, lse_BnKM = kept
    blocks = _Blocks(q_BTHd, k_BTKd, segment_ids_BT, first, block)
    scale = q_BTHd.shape[-1] ** -0.5
    q_BnKMd, d_BnKMd = blocks.queries(q_BTHd * scale), blocks.queries(d_BTHd)
    k_BKTd, v_BKTd = blocks.keys(k_BTKd), blocks.keys(v_BTKd)
    delta_BTH = jnp.sum(d_BTHd.astype(jnp.float32) * out_BTHd.astype(jnp.float32), axis=-1)
    delta_BnKM = blocks.queries(delta_BTH[..., None])[..., 0]

    def one_query(number: Array, done: tuple) -> tuple:
        dq_BnKMd, dk_BKTd, dv_BKTd = done
        b, i, at = blocks.place(number)
        q_KMd, d_KMd = q_BnKMd[b, i], d_BnKMd[b, i]
        lse_KM1, delta_KM1 = lse_BnKM[b, i][..., None], delta_BnKM[b, i][..., None]

        def one_key(j: Array, running: tuple) -> tuple:
            dq_KMd, dk_BKTd, dv_BKTd = running
            k_KSd, v_KSd = blocks.key(k_BKTd, b, j), blocks.key(v_BKTd, b, j)
            weights_KMS = jnp.exp(blocks.scores(q_KMd, k_KSd, b, at, j) - lse_KM1)
            dweights_KMS = _product("KMd,KSd->KMS", d_KMd, v_KSd)
            dscores_KMS = (weights_KMS * (dweights_KMS - delta_KM1)).astype(q_KMd.dtype)
            dv_BKTd = blocks.add(dv_BKTd, b, j, _product("KMS,KMd->KSd", weights_KMS, d_KMd))
            dk_BKTd = blocks.add(dk_BKTd, b, j, _product("KMS,KMd->KSd", dscores_KMS, q_KMd))
            return dq_KMd + _product("KMS,KSd->KMd", dscores_KMS, k_KSd), dk_BKTd, dv_BKTd

        start = jnp.zeros(q_KMd.shape), dk_BKTd, dv_BKTd
        dq_KMd, dk_BKTd, dv_BKTd = jax.lax.fori_loop(blocks.first_Bn[b, at], at + 1, one_key, start)
        return dq_BnKMd.at[b, i].set(dq_KMd.astype(q_KMd.dtype)), dk_BKTd, dv_BKTd

    zero_BKTd = jnp.zeros(k_BKTd.shape)
    start = jnp.zeros_like(q_BnKMd), zero_BKTd, zero_BKTd
    dq_BnKMd, dk_BKTd, dv_BKTd = jax.lax.fori_loop(0, blocks.count, one_query, start)
    back = lambda x_BKTd: jnp.swapaxes(x_BKTd, 1, 2)[:, : k_BTKd.shape[1]].astype(k_BTKd.dtype)
    return blocks.rows(dq_BnKMd) * scale, back(dk_BKTd), back(dv_BKTd), None, None


blockwise_attention.defvjp(_forward, _backward)


def _product(names: str, x: Array, y: Array) -> Array:
    return jnp.einsum(names, x.astype(y.dtype), y, preferred_element_type=jnp.float32)


class _Blocks:
    """The arrays of one call, in blocks.

    The queries of one key/value head are M = G * block rows of a matrix: q_BnKMd, with n blocks in
    a row, the first of them the row's block number `before`. Keys are not split but sliced: k_BKSd.
    Complete rows are padded to a multiple of the block; parts of rows are multiples of it.
    """

    def __init__(
        self, q_BTHd: Array, k_BSKd: Array, segment_ids_BS: Array, first: Array | int, block: int
    ):
        self.rows_, self.length, self.heads, self.d = q_BTHd.shape
        self.kv_length, self.kv_heads = k_BSKd.shape[1:3]
        is_part = self.length < self.kv_length
        self.block = math.gcd(block, self.length) if is_part else min(block, self.length)
        self.n = -(-self.length // self.block)
        self.before = first // self.block if is_part else 0
        self.count = self.rows_ * self.n
        self.group = self.heads // self.kv_heads
        self.segment_ids_BS = self._filled(segment_ids_BS)
        # Where each token's document starts; padding starts with itself and sees nothing.
        ids_BS = self.segment_ids_BS
        at_S = jnp.arange(ids_BS.shape[1])
        new_BS = jnp.pad(ids_BS[:, 1:] != ids_BS[:, :-1], ((0, 0), (1, 0)), constant_values=True)
        starts_BS = jax.lax.cummax(jnp.where(new_BS, at_S[None], 0), axis=1)
        starts_BS = jnp.where(ids_BS > 0, starts_BS, at_S[None])
        self.first_Bn = jnp.min(starts_BS.reshape(self.rows_, -1, self.block), -1) // self.block

    def _filled(self, x: Array) -> Array:
        if not (missing := -x.shape[1] % self.block):
            return x
        return jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))

    def place(self, number: Array) -> tuple[Array, Array, Array]:
        """(row, block of these queries, the same block's number in the complete row)."""
        b, i = number // self.n, number % self.n
        return b, i, i + self.before

    def queries(self, x_BTHd: Array) -> Array:
        """x_BnKMd."""
        x = self._filled(x_BTHd)
        x = x.reshape(self.rows_, self.n, self.block, self.kv_heads, self.group, -1)
        x = x.transpose(0, 1, 3, 4, 2, 5)
        return x.reshape(self.rows_, self.n, self.kv_heads, self.group * self.block, -1)

    def rows(self, x_BnKMd: Array) -> Array:
        """x_BTHd, the opposite of `queries`."""
        x = x_BnKMd.reshape(self.rows_, self.n, self.kv_heads, self.group, self.block, -1)
        x = x.transpose(0, 1, 4, 2, 3, 5)
        return x.reshape(self.rows_, -1, self.heads, self.d)[:, : self.length]

    def keys(self, x_BTKd: Array) -> Array:
        """x_BKTd, padded."""
        return jnp.swapaxes(self._filled(x_BTKd), 1, 2)

    def key(self, x_BKTd: Array, b: Array, j: Array) -> Array:
        """Block j of row b, x_KSd."""
        start, size = (b, 0, j * self.block, 0), (1, self.kv_heads, self.block, self.d)
        return jax.lax.dynamic_slice(x_BKTd, start, size)[0]

    def add(self, x_BKTd: Array, b: Array, j: Array, more_KSd: Array) -> Array:
        """x_BKTd with more in block j of row b."""
        start = (b, 0, j * self.block, 0)
        return jax.lax.dynamic_update_slice(
            x_BKTd, (self.key(x_BKTd, b, j) + more_KSd)[None], start
        )

    def scores(self, q_KMd: Array, k_KSd: Array, b: Array, i: Array, j: Array) -> Array:
        """float32 scores_KMS of the queries of block i and the keys of block j of row b."""
        ids = lambda n: jax.lax.dynamic_slice(
            self.segment_ids_BS, (b, n * self.block), (1, self.block)
        )[0]
        at = jnp.arange(self.block)
        causal_tS = i * self.block + at[:, None] >= j * self.block + at[None]
        seen_tS = causal_tS & (ids(i)[:, None] == ids(j)[None]) & (ids(i) > 0)[:, None]
        seen_MS = jnp.tile(seen_tS, (self.group, 1))
        return jnp.where(seen_MS[None], _product("KMd,KSd->KMS", q_KMd, k_KSd), NEVER)
