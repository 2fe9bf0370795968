"""The decoder with cached keys and values: of prompts, and of completions in ring buffers.

Rows in flight are P prompts with M completions each. A prompt's keys are stored once and read once
for all of its completions; attention has two parts, over the prompt and over the completion's own
tokens, whose softmaxes are merged by their maxima and sums (Juravsky et al. 2024, "Hydragen").

A completion's own tokens are in a ring of R slots. All rows write to the same slot, at the cursor;
which slots a row sees follows from its age, the number of its tokens. So a row starts again by
setting its age to 0, and writing is one slice for all rows. The newest tokens are in a separate
chunk of C slots that joins the ring when it is full: a loop over tokens then only reads the ring,
whereas XLA's CPU backend would copy, for every token, what the loop both reads and writes.

More letters: M completions in flight per prompt, R slots of a ring, C of a chunk; T tokens of a
completion at once, N = M T.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from msm_jax.model.cached_attention import Piece, Span, merged, over_span, softmax
from msm_jax.model.config import ModelConfig
from msm_jax.model.decoder import Layer, bind, embedded, final_norm, over_layers
from msm_jax.model.kernels import AttentionFn, packed_attention

CHUNK = 16  # tokens between two reads by the host; a power of two, as the rings' slots are


# (keys, values) of each layer.
Layers = tuple[tuple[Array, Array], ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompts:
    """Keys and values of P prompts; slots beyond a prompt's length are never seen."""

    kv_PKSd: Layers
    lengths_P: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rings:
    """Keys and values of the completions; the slot at the cursor is written next."""

    kv_PMKRd: Layers
    cursor: Array

    @property
    def slots(self) -> int:
        """R."""
        return self.kv_PMKRd[0][0].shape[3]

    def before(self, filled: Array, ages_PM: Array) -> Span:
        """The slots with rows' tokens, of whose newest so many are in the chunk."""
        count_PM1 = jnp.maximum(ages_PM - filled, 0)[..., None]
        first_PM1, low = (self.cursor - count_PM1) % self.slots, self.cursor - jnp.max(count_PM1)
        return Span(first_PM1, count_PM1, low, self.cursor)

    def joined(self, chunk: "Chunk") -> "Rings":
        """With all of a chunk's slots, whose number divides the ring's."""
        put = lambda ring, new: jax.lax.dynamic_update_slice(ring, new, (0, 0, 0, self.cursor, 0))
        kv = jax.tree.map(put, self.kv_PMKRd, chunk.kv_PMKCd)
        return Rings(kv, (self.cursor + chunk.slots) % self.slots)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chunk:
    """Keys and values of the completions' newest tokens; `filled` slots hold one."""

    kv_PMKCd: Layers
    filled: Array

    @property
    def slots(self) -> int:
        """C."""
        return self.kv_PMKCd[0][0].shape[3]

    def grown(self, kv_PMKd: Layers) -> "Chunk":
        """With one more token of every completion."""
        put = lambda old, new: jax.lax.dynamic_update_slice(
            old, new[:, :, :, None], (0, 0, 0, self.filled, 0)
        )
        return Chunk(jax.tree.map(put, self.kv_PMKCd, kv_PMKd), self.filled + 1)


def empty(config: ModelConfig, P: int, S: int) -> Prompts:
    """Room for P prompts of at most S tokens."""
    return Prompts(
        _zeros(config, (P, config.kv_heads, S, config.head_dim)), jnp.zeros(P, jnp.int32)
    )


def empty_rings(config: ModelConfig, P: int, M: int, R: int) -> Rings:
    """Room for M completions of each of P prompts, in rings of R slots."""
    return Rings(_zeros(config, (P, M, config.kv_heads, R, config.head_dim)), jnp.int32(0))


def empty_chunk(rings: Rings) -> Chunk:
    """Room for CHUNK tokens of the completions in `rings`."""
    zeros = lambda ring: jnp.zeros((*ring.shape[:3], CHUNK, ring.shape[4]), ring.dtype)
    return Chunk(jax.tree.map(zeros, rings.kv_PMKRd), jnp.int32(0))


def _zeros(config: ModelConfig, shape: tuple[int, ...]) -> Layers:
    """Two arrays per layer."""
    zeros = lambda: jnp.zeros(shape, config.compute_dtype)
    return tuple((zeros(), zeros()) for _ in range(config.layers))


def placed(tree: Any, mesh: Mesh | None) -> Any:
    """Within `jax.jit`: keys and values sharded as `cache_sharding` says, all else replicated.

    What a program returns and gets again must not have shardings of XLA's choice: it would be
    compiled for those as well.
    """
    if mesh is None:
        return tree
    everywhere = NamedSharding(mesh, PartitionSpec())
    place = lambda leaf: cache_sharding(leaf.shape, mesh) if leaf.ndim > 3 else everywhere
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, place(leaf)), tree)


def cache_sharding(shape: tuple[int, ...], mesh: Mesh | None) -> NamedSharding | None:
    """Of a leaf of `Prompts` or `Rings`: key/value heads like the weights' heads, and prompts, with
    their completions, over the data axis if that divides their number."""
    if mesh is None:
        return None
    data = "data" if shape and shape[0] % mesh.shape["data"] == 0 else None
    axes = [data, *[None] * (len(shape) - 4), "tensor"] if len(shape) > 1 else [data] * len(shape)
    return NamedSharding(mesh, PartitionSpec(*axes))


def unstacked(params: dict, consume: bool = False) -> dict:
    """The parameters with "layers" as a tuple of trees, one per layer; unchanged if they have it.

    A loop over tokens copies a layer of a stack to read it; these it reads without a copy.
    `consume` deletes the stacks one by one, so that memory holds the weights and one more stack.
    """
    if isinstance(params["layers"], tuple):
        return params
    leaves, tree = jax.tree.flatten(params["layers"])
    single = []
    for leaf in leaves:
        single.append([_layer(leaf, layer) for layer in range(len(leaf))])
        if consume:
            jax.block_until_ready(single[-1])
            leaf.delete()
    return {**params, "layers": tuple(tree.unflatten(layer) for layer in zip(*single, strict=True))}


_layer = jax.jit(functools.partial(jax.lax.dynamic_index_in_dim, keepdims=False))


def stacked(params: dict) -> dict:
    """The opposite of `unstacked`."""
    if not isinstance(params["layers"], tuple):
        return params
    return {**params, "layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *params["layers"])}


def prefill(
    config: ModelConfig, params: dict, tokens_BS: Array, lengths_B: Array, mesh: Mesh | None = None
) -> Prompts:
    """Keys and values of prompts, int32 from the left; tokens beyond their lengths are not seen.

    `params` are as from `init_params`, or `unstacked`.
    """
    at_BS = jnp.broadcast_to(jnp.arange(tokens_BS.shape[1])[None], tokens_BS.shape)
    segment_ids_BS = (at_BS < lengths_B[:, None]).astype(jnp.int32)
    attention = packed_attention(config, segment_ids_BS, mesh, shard_rows=False, documents=1)
    x_BSD, angles_BSd = embedded(config, params, tokens_BS, at_BS)

    def layer_step(x_BSD: Array, layer_params: dict) -> tuple[Array, tuple]:
        x_BSD, (k_BSKd, v_BSKd) = bind(Layer, config, layer_params)(x_BSD, angles_BSd, attention)
        return x_BSD, (jnp.swapaxes(k_BSKd, 1, 2), jnp.swapaxes(v_BSKd, 1, 2))

    _, kv = over_layers(layer_step, x_BSD, params["layers"])
    return Prompts(tuple(kv if isinstance(kv, list) else zip(*kv, strict=True)), lengths_B)


def decode(
    config: ModelConfig,
    params: dict,
    prompts: Prompts,
    rings: Rings,
    chunk: Chunk,
    tokens_PM: Array,
    ages_PM: Array,
    mesh: Mesh | None = None,
) -> tuple[Array, Chunk]:
    """One more token of every completion; returns (hidden_PMD after the final norm, chunk).

    Args:
      params: `unstacked`.
      prompts: without their last token.
      chunk: not full; it will join `rings`.
      tokens_PM: int32; of a new completion the last token of its prompt.
      ages_PM: int32, tokens that each row has in its ring and chunk.
    """
    x_PMD, angles_PMd = embedded(config, params, tokens_PM, prompts.lengths_P[:, None] + ages_PM)
    # How many tokens ago a slot of the chunk was written.
    back_C = (chunk.filled - jnp.arange(chunk.slots))[None, None]
    in_chunk_PM11C = ((back_C > 0) & (back_C <= ages_PM[..., None]))[:, :, None, None]
    in_rings = rings.before(chunk.filled, ages_PM)
    kv = []
    for layer, layer_params in enumerate(params["layers"]):
        ring, newest = (*rings.kv_PMKRd[layer], in_rings), (*chunk.kv_PMKCd[layer], in_chunk_PM11C)
        attention = _parts(prompts, layer, tokens_PM.shape[1], mesh, (ring, newest))
        x_PMD, kv_PMKd = bind(Layer, config, layer_params)(x_PMD, angles_PMd, attention)
        kv.append(kv_PMKd)
    return final_norm(config, params, x_PMD), chunk.grown(tuple(kv))


def extend(
    config: ModelConfig, params: dict, prompts: Prompts, tokens_PMT: Array, mesh: Mesh | None = None
) -> Array:
    """T tokens of every completion, as in `decode`: hidden_PMTD after the final norm."""
    P, M, T = tokens_PMT.shape
    at_PN = prompts.lengths_P[:, None] + jnp.tile(jnp.arange(T), M)[None]
    x_PND, angles_PNd = embedded(config, params, tokens_PMT.reshape(P, M * T), at_PN)
    for layer, layer_params in enumerate(params["layers"]):
        attention = _parts(prompts, layer, M, mesh)
        x_PND, _ = bind(Layer, config, layer_params)(x_PND, angles_PNd, attention)
    return final_norm(config, params, x_PND).reshape(P, M, T, -1)


def _parts(
    prompts: Prompts,
    layer: int,
    M: int,
    mesh: Mesh | None,
    own: tuple[tuple[Array, Array, Span], Piece] | None = None,
) -> AttentionFn:
    """The attention of a layer, (q_PNHd, k_PNKd, v_PNKd) -> out_PNHd, of T new tokens per row.

    They see the prompt, each other up to themselves, and the row's `own` tokens before: those in
    its ring (k_PMKRd, v_PMKRd, their span), and the chunk's newest.
    """
    lengths_P1 = prompts.lengths_P[:, None]
    known = Span(jnp.zeros_like(lengths_P1), lengths_P1, jnp.int32(0), jnp.max(lengths_P1))

    def attention(q_PNHd: Array, k_PNKd: Array, v_PNKd: Array) -> Array:
        P, N, K, d = k_PNKd.shape
        T, G = N // M, q_PNHd.shape[2] // K
        by_row = lambda x: jnp.moveaxis(x.reshape(P, M, T, K, d), 2, 3)
        new_nT = jnp.repeat(jnp.tril(jnp.ones((T, T), bool)), G, axis=0)
        new = (by_row(k_PNKd), by_row(v_PNKd), new_nT[None, None, None])
        q_PMTKGd = q_PNHd.reshape(P, M, T, K, G, d) * d**-0.5
        shared_PKnd = q_PMTKGd.transpose(0, 3, 1, 2, 4, 5).reshape(P, K, M * T * G, d)
        own_PMKnd = q_PMTKGd.transpose(0, 1, 3, 2, 4, 5).reshape(P, M, K, T * G, d)
        # [P, K, M T G] and [P, M, K, T G] hold the same queries in two orders.
        of_rows = lambda x: jnp.moveaxis(x.reshape(P, K, M, T * G, *x.shape[3:]), 1, 2)
        prompt = over_span(shared_PKnd, *prompts.kv_PKSd[layer], known, mesh=mesh)
        if own is None:
            rest = softmax(own_PMKnd, [new])
        else:
            ring, newest = own
            rest = over_span(own_PMKnd, *ring, [newest, new], mesh)
        top_PMKn, sum_PMKn, out_PMKnd = map(of_rows, prompt)
        _, sum_PMKn, out_PMKnd = merged((top_PMKn, sum_PMKn, out_PMKnd), rest)
        out_PMKnd /= sum_PMKn[..., None]
        out_PMTKGd = out_PMKnd.reshape(P, M, K, T, G, d).transpose(0, 1, 3, 2, 4, 5)
        return out_PMTKGd.reshape(q_PNHd.shape).astype(q_PNHd.dtype)

    return attention
