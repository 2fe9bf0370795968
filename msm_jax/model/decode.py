"""The decoder against keys and values that are kept: prompts once, answers in rings.

Rows in flight are P prompts with M answers each. A prompt's keys lie in memory once and are read
once for all of its answers; attention has two parts, over the prompt and over the answer's own
tokens, whose softmaxes are merged by their maxima and sums (Juravsky et al. 2024, "Hydragen").

An answer's own tokens lie in a ring of R slots. All rows write to the same slot, the cursor, which
moves by one with every token; which slots a row sees follows from its age, the tokens that it has
in the ring. So a row begins anew by setting its age to 0, and writing is one slice for all rows.

More letters: M answers in flight per prompt, R slots of a ring; T tokens of an answer at once.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from msm_jax.model.config import ModelConfig
from msm_jax.model.decoder import Ends, Layer, bind
from msm_jax.model.kernels import packed_attention
from msm_jax.model.rope import rotation_angles

NEVER = -1e30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompts:
    """Keys and values of P prompts, an array per layer.

    Attributes:
      k_PKSd, v_PKSd: tuples over layers; what lies beyond a prompt's length is never seen.
      lengths_P: int32 tokens of each prompt.
    """

    k_PKSd: tuple
    v_PKSd: tuple
    lengths_P: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rings:
    """Keys and values of the answers, an array per layer.

    Attributes:
      k_PMKRd, v_PMKRd: tuples over layers.
      cursor: int32 scalar, the slot that is written next.
    """

    k_PMKRd: tuple
    v_PMKRd: tuple
    cursor: jax.Array

    @property
    def slots(self) -> int:
        return self.k_PMKRd[0].shape[3]

    def grown(self) -> "Rings":
        """Twice the slots; every token keeps its distance from the cursor."""

        def twice(x):
            in_order = jnp.roll(x, -self.cursor, axis=3)
            return jnp.concatenate([in_order, jnp.zeros_like(x)], axis=3)

        k, v = (tuple(map(twice, layers)) for layers in (self.k_PMKRd, self.v_PMKRd))
        return Rings(k, v, jnp.int32(self.slots))


def empty(config: ModelConfig, P: int, S: int, mesh: Mesh | None = None) -> Prompts:
    """Room for P prompts of at most S tokens."""
    k, v = (_zeros(config, (P, config.kv_heads, S, config.head_dim), mesh) for _ in "kv")
    return Prompts(k, v, jnp.zeros(P, jnp.int32))


def empty_rings(config: ModelConfig, P: int, M: int, R: int, mesh: Mesh | None = None) -> Rings:
    k, v = (_zeros(config, (P, M, config.kv_heads, R, config.head_dim), mesh) for _ in "kv")
    return Rings(k, v, jnp.int32(0))


def _zeros(config, shape, mesh):
    """One array per layer, cut as `placed_shape` says."""
    dtype = config.compute_dtype
    place = placed_shape(jax.ShapeDtypeStruct(shape, dtype), mesh).sharding
    return tuple(jnp.zeros(shape, dtype, device=place) for _ in range(config.layers))


def placed_shape(leaf, mesh: Mesh | None) -> jax.ShapeDtypeStruct:
    """Where a leaf of `Prompts` or `Rings` lies: key/value heads are cut as the weights are, and
    prompts, with their answers, by the data axis where they can be dealt to it evenly."""
    if mesh is None:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    data = "data" if leaf.ndim and leaf.shape[0] % mesh.shape["data"] == 0 else None
    axes = [data, *[None] * (leaf.ndim - 4), "tensor"] if leaf.ndim > 1 else [data] * leaf.ndim
    place = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def unstacked(params: dict) -> dict:
    """The parameters with "layers" as a tuple of trees, one per layer.

    A loop over tokens reads a layer of a stack through a copy; these it reads as they lie.
    """
    layers = params["layers"]
    count = len(jax.tree.leaves(layers)[0])
    return {**params, "layers": tuple(_layer(layers, i) for i in range(count))}


@jax.jit
def _layer(layers, i):
    take = lambda leaf: jax.lax.dynamic_index_in_dim(leaf, i, keepdims=False)
    return jax.tree.map(take, layers)


def prefill(config: ModelConfig, params: dict, tokens_BS, lengths_B, mesh: Mesh | None = None):
    """Keys and values of prompts, (k_LBSKd, v_LBSKd).

    Args:
      params: as from `init_params`, with stacked layers.
      tokens_BS: prompts from the left; what lies beyond lengths_B is not seen.
    """
    at_BS = jnp.broadcast_to(jnp.arange(tokens_BS.shape[1])[None], tokens_BS.shape)
    segment_ids_BS = (at_BS < lengths_B[:, None]).astype(jnp.int32)
    attention = packed_attention(config, segment_ids_BS, mesh, rows_cut=False)
    x_BSD, angles_BSd = _begin(config, params, tokens_BS, at_BS)

    def layer_step(x_BSD, layer_params):
        x_BSD, kept = bind(Layer, config, layer_params)(x_BSD, angles_BSd, attention, _Kept())
        return x_BSD, (kept.k, kept.v)

    return jax.lax.scan(layer_step, x_BSD, params["layers"])[1]


def decode(config: ModelConfig, params: dict, prompts: Prompts, rings: Rings, tokens_PM, ages_PM):
    """One more token of every answer; returns (hidden_PMD after the final norm, rings).

    Args:
      params: `unstacked`.
      tokens_PM: int32; an answer's first one is the last of its prompt, which `prompts` lacks.
      ages_PM: int32, tokens that each row has in its ring.
    """
    x_PMD, angles_PMd = _begin(config, params, tokens_PM, prompts.lengths_P[:, None] + ages_PM)
    back_R = (rings.cursor - jnp.arange(rings.slots)) % rings.slots
    seen_PMTR = back_R[None, None, None] <= ages_PM[..., None, None]
    k, v = [], []
    for layer, layer_params in enumerate(params["layers"]):
        ring = _Ring(rings.k_PMKRd[layer], rings.v_PMKRd[layer], rings.cursor)
        attention = _two_parts(prompts, layer, seen_PMTR)
        x_PMD, ring = bind(Layer, config, layer_params)(x_PMD, angles_PMd, attention, ring)
        k.append(ring.k_PMKRd)
        v.append(ring.v_PMKRd)
    rings = Rings(tuple(k), tuple(v), (rings.cursor + 1) % rings.slots)
    return _ends(config, params).final_norm(x_PMD), rings


def extend(config: ModelConfig, params: dict, prompts: Prompts, tokens_PMT):
    """T tokens of every answer at once, hidden_PMTD after the final norm; nothing is kept.

    `params` are `unstacked`; tokens as in `decode`.
    """
    P, M, T = tokens_PMT.shape
    at_PN = prompts.lengths_P[:, None] + jnp.tile(jnp.arange(T), M)[None]
    x_PND, angles_PNd = _begin(config, params, tokens_PMT.reshape(P, M * T), at_PN)
    seen_PMTR = jnp.tril(jnp.ones((T, T), bool))[None, None]
    for layer, layer_params in enumerate(params["layers"]):
        attention = _two_parts(prompts, layer, seen_PMTR)
        x_PND, _ = bind(Layer, config, layer_params)(x_PND, angles_PNd, attention, _Whole(M))
    return _ends(config, params).final_norm(x_PND).reshape(P, M, T, -1)


def _ends(config, params):
    return bind(Ends, config, {name: leaf for name, leaf in params.items() if name != "layers"})


def _begin(config, params, tokens, positions):
    """Embedded tokens, and the angles of their positions."""
    x = params["embed"]["w"].astype(config.compute_dtype)[tokens]
    return x, rotation_angles(positions, config.head_dim, config.rope_theta, config.rope_scaling)


@dataclasses.dataclass
class _Kept:
    """Takes part in a layer as a cache, to get at its keys and values."""

    k: jax.Array | None = None
    v: jax.Array | None = None

    def write(self, k_BTKd, v_BTKd):
        return k_BTKd, v_BTKd, _Kept(k_BTKd, v_BTKd)


@dataclasses.dataclass
class _Ring:
    """One layer's rings."""

    k_PMKRd: jax.Array
    v_PMKRd: jax.Array
    cursor: jax.Array

    def write(self, k_PMKd, v_PMKd):
        put = lambda ring, new: jax.lax.dynamic_update_slice(
            ring, new[:, :, :, None], (0, 0, 0, self.cursor, 0)
        )
        ring = _Ring(put(self.k_PMKRd, k_PMKd), put(self.v_PMKRd, v_PMKd), self.cursor)
        return ring.k_PMKRd, ring.v_PMKRd, ring


@dataclasses.dataclass
class _Whole:
    """All of M answers' tokens, as a ring of as many slots."""

    M: int

    def write(self, k_PNKd, v_PNKd):
        cut = lambda x: jnp.moveaxis(x.reshape(x.shape[0], self.M, -1, *x.shape[2:]), 2, 3)
        return cut(k_PNKd), cut(v_PNKd), self


def _two_parts(prompts: Prompts, layer: int, seen_PMTR):
    """The attention of a layer: (q_PNHd, own keys and values _PMKRd) -> out_PNHd, N = M * T."""
    k_PKSd, v_PKSd = prompts.k_PKSd[layer], prompts.v_PKSd[layer]
    known_PS = jnp.arange(k_PKSd.shape[2])[None] < prompts.lengths_P[:, None]

    def attention(q_PNHd, k_PMKRd, v_PMKRd):
        P, M, K, R, d = k_PMKRd.shape
        G = q_PNHd.shape[2] // K
        q_PMTKGd = q_PNHd.reshape(P, M, -1, K, G, d) * d**-0.5
        T = q_PMTKGd.shape[2]
        shared_PKnd = q_PMTKGd.transpose(0, 3, 1, 2, 4, 5).reshape(P, K, M * T * G, d)
        own_PMKnd = q_PMTKGd.transpose(0, 1, 3, 2, 4, 5).reshape(P, M, K, T * G, d)
        seen_PMKnR = jnp.repeat(seen_PMTR, G, axis=2)[:, :, None]
        # [P, K, M T G] and [P, M, K, T G] hold the same queries in two orders.
        apart = lambda x: jnp.moveaxis(x.reshape(P, K, M, T * G, *x.shape[3:]), 1, 2)
        top1, sum1, out1 = map(
            apart, _softmax(shared_PKnd, k_PKSd, v_PKSd, known_PS[:, None, None])
        )
        top2, sum2, out2 = _softmax(own_PMKnd, k_PMKRd, v_PMKRd, seen_PMKnR)
        top = jnp.maximum(top1, top2)
        part1, part2 = jnp.exp(top1 - top), jnp.exp(top2 - top)
        whole = sum1 * part1 + sum2 * part2
        out_PMKnd = (out1 * part1[..., None] + out2 * part2[..., None]) / whole[..., None]
        out_PMTKGd = out_PMKnd.reshape(P, M, K, T, G, d).transpose(0, 1, 3, 2, 4, 5)
        return out_PMTKGd.reshape(q_PNHd.shape).astype(q_PNHd.dtype)

    return attention


def _softmax(q_nd, k_Sd, v_Sd, seen_nS):
    """(maxima, sums, unnormalised outputs) of a softmax in float32, over leading axes alike.

    Where nothing is seen the sum counts for nothing once it is merged with one that sees something.
    """
    scores_nS = jnp.einsum("...nd,...Sd->...nS", q_nd, k_Sd, preferred_element_type=jnp.float32)
    scores_nS = jnp.where(seen_nS, scores_nS, NEVER)
    top_n = jnp.max(scores_nS, axis=-1)
    weights_nS = jnp.exp(scores_nS - top_n[..., None])
    out_nd = jnp.einsum(
        "...nS,...Sd->...nd",
        weights_nS.astype(v_Sd.dtype),
        v_Sd,
        preferred_element_type=jnp.float32,
    )
    return top_n, jnp.sum(weights_nS, axis=-1), out_nd
