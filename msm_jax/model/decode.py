"""The decoder against keys and values that are kept: prompts once, answers in rings.

Rows in flight are P prompts with M answers each. A prompt's keys lie in memory once and are read
once for all of its answers; attention has two parts, over the prompt and over the answer's own
tokens, whose softmaxes are merged by their maxima and sums (Juravsky et al. 2024, "Hydragen").

An answer's own tokens lie in a ring of R slots. All rows write to the same slots, at the cursor;
which slots a row sees follows from its age, the tokens that it has. So a row begins anew by setting
its age to 0, and writing is one slice for all rows. The newest tokens lie apart, in a chunk of C
slots that joins the ring when it is full: a loop over its tokens only reads the ring, whereas
XLA's CPU backend would copy, for every token, whatever the loop both reads and writes.

More letters: M answers in flight per prompt, R slots of a ring, C of a chunk; T tokens of an answer
at once, N = M T.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from msm_jax.model.config import ModelConfig
from msm_jax.model.decoder import Ends, Layer, bind, over_layers
from msm_jax.model.kernels import packed_attention
from msm_jax.model.rope import rotation_angles

CHUNK = 16  # tokens between two looks of the host; a power of two, as the rings' slots are
NEVER = -1e30
NOT_YET = 2**30


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

    def joined(self, chunk: "Chunk") -> "Rings":
        """With all of a chunk's slots, whose number divides the ring's."""
        put = lambda ring, new: jax.lax.dynamic_update_slice(ring, new, (0, 0, 0, self.cursor, 0))
        k, v = (
            tuple(map(put, rings, news))
            for rings, news in ((self.k_PMKRd, chunk.k_PMKCd), (self.v_PMKRd, chunk.v_PMKCd))
        )
        return Rings(k, v, (self.cursor + chunk.slots) % self.slots)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chunk:
    """Keys and values of the answers' newest tokens, an array per layer.

    Attributes:
      k_PMKCd, v_PMKCd: tuples over layers.
      filled: int32 scalar, slots that hold a token.
    """

    k_PMKCd: tuple
    v_PMKCd: tuple
    filled: jax.Array

    @property
    def slots(self) -> int:
        return self.k_PMKCd[0].shape[3]

    def grown(self, k_PMKd: list, v_PMKd: list) -> "Chunk":
        """One token more of every answer."""
        put = lambda old, new: jax.lax.dynamic_update_slice(
            old, new[:, :, :, None], (0, 0, 0, self.filled, 0)
        )
        k = tuple(map(put, self.k_PMKCd, k_PMKd))
        v = tuple(map(put, self.v_PMKCd, v_PMKd))
        return Chunk(k, v, self.filled + 1)


def empty(config: ModelConfig, P: int, S: int, mesh: Mesh | None = None) -> Prompts:
    """Room for P prompts of at most S tokens."""
    k, v = (_zeros(config, (P, config.kv_heads, S, config.head_dim), mesh) for _ in "kv")
    return Prompts(k, v, jnp.zeros(P, jnp.int32))


def empty_rings(config: ModelConfig, P: int, M: int, R: int, mesh: Mesh | None = None) -> Rings:
    k, v = (_zeros(config, (P, M, config.kv_heads, R, config.head_dim), mesh) for _ in "kv")
    return Rings(k, v, jnp.int32(0))


def empty_chunk(rings: Rings) -> Chunk:
    """Room for CHUNK tokens of the answers in `rings`."""
    zeros = lambda ring: jnp.zeros((*ring.shape[:3], CHUNK, ring.shape[4]), ring.dtype)
    return Chunk(tuple(map(zeros, rings.k_PMKRd)), tuple(map(zeros, rings.v_PMKRd)), jnp.int32(0))


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


def unstacked(params: dict, consume: bool = False) -> dict:
    """The parameters with "layers" as a tuple of trees, one per layer; as they are if they are so.

    A loop over tokens reads a layer of a stack through a copy; these it reads as they lie.

    Args:
      consume: give up the stacks one by one, so that memory holds the weights and one more stack.
    """
    if isinstance(params["layers"], tuple):
        return params
    leaves, tree = jax.tree.flatten(params["layers"])
    apart = []
    for leaf in leaves:
        apart.append([_layer(leaf, layer) for layer in range(len(leaf))])
        if consume:
            jax.block_until_ready(apart[-1])
            leaf.delete()
    return {**params, "layers": tuple(tree.unflatten(layer) for layer in zip(*apart, strict=True))}


@jax.jit
def _layer(leaf, layer):
    return jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False)


def stacked(params: dict) -> dict:
    """The opposite of `unstacked`."""
    if not isinstance(params["layers"], tuple):
        return params
    return {**params, "layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *params["layers"])}


def prefill(
    config: ModelConfig, params: dict, tokens_BS, lengths_B, mesh: Mesh | None = None
) -> Prompts:
    """Reads prompts.

    Args:
      params: as from `init_params`, or `unstacked`.
      tokens_BS: prompts from the left; what lies beyond lengths_B is not seen.
    """
    at_BS = jnp.broadcast_to(jnp.arange(tokens_BS.shape[1])[None], tokens_BS.shape)
    segment_ids_BS = (at_BS < lengths_B[:, None]).astype(jnp.int32)
    attention = packed_attention(config, segment_ids_BS, mesh, rows_cut=False)
    x_BSD, angles_BSd = _begin(config, params, tokens_BS, at_BS)

    def layer_step(x_BSD, layer_params):
        x_BSD, kept = bind(Layer, config, layer_params)(x_BSD, angles_BSd, attention, _Kept())
        return x_BSD, (jnp.swapaxes(kept.k, 1, 2), jnp.swapaxes(kept.v, 1, 2))

    _, kept = over_layers(layer_step, x_BSD, params["layers"])
    k, v = zip(*kept, strict=True) if isinstance(kept, list) else map(tuple, kept)
    return Prompts(k, v, lengths_B)


def decode(
    config: ModelConfig,
    params: dict,
    prompts: Prompts,
    rings: Rings,
    chunk: Chunk,
    tokens_PM: jax.Array,
    ages_PM: jax.Array,
):
    """One more token of every answer; returns (hidden_PMD after the final norm, chunk).

    Args:
      params: `unstacked`.
      chunk: not full; `rings` are those that it will join.
      tokens_PM: int32; an answer's first one is the last of its prompt, which `prompts` lacks.
      ages_PM: int32, tokens that each row has in its ring and chunk.
    """
    x_PMD, angles_PMd = _begin(config, params, tokens_PM, prompts.lengths_P[:, None] + ages_PM)
    # How many tokens ago a slot was written.
    back_C = chunk.filled - jnp.arange(chunk.slots)
    back_R = chunk.filled + 1 + (rings.cursor - 1 - jnp.arange(rings.slots)) % rings.slots
    lived_PM111 = ages_PM[..., None, None, None]
    since = lambda back: jnp.where(back > 0, back, NOT_YET)[None, None, None, None] <= lived_PM111
    in_ring_PM11R, in_chunk_PM11C = since(back_R), since(back_C)
    k, v = [], []
    for layer, layer_params in enumerate(params["layers"]):
        before = (
            (rings.k_PMKRd[layer], rings.v_PMKRd[layer], in_ring_PM11R),
            (chunk.k_PMKCd[layer], chunk.v_PMKCd[layer], in_chunk_PM11C),
        )
        attention = _two_parts(prompts, layer, tokens_PM.shape[1], before)
        x_PMD, kept = bind(Layer, config, layer_params)(x_PMD, angles_PMd, attention, _Kept())
        k.append(kept.k)
        v.append(kept.v)
    return _ends(config, params).final_norm(x_PMD), chunk.grown(k, v)


def extend(config: ModelConfig, params: dict, prompts: Prompts, tokens_PMT):
    """T tokens of every answer at once, hidden_PMTD after the final norm; nothing is kept.

    `params` are `unstacked`; tokens as in `decode`.
    """
    P, M, T = tokens_PMT.shape
    at_PN = prompts.lengths_P[:, None] + jnp.tile(jnp.arange(T), M)[None]
    x_PND, angles_PNd = _begin(config, params, tokens_PMT.reshape(P, M * T), at_PN)
    for layer, layer_params in enumerate(params["layers"]):
        attention = _two_parts(prompts, layer, M)
        x_PND, _ = bind(Layer, config, layer_params)(x_PND, angles_PNd, attention)
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


def _two_parts(prompts: Prompts, layer: int, M: int, before: tuple = ()):
    """The attention of a layer, (q_PNHd, k_PNKd, v_PNKd) -> out_PNHd, of T new tokens per answer.

    They see the prompt, what `before` holds of their answer (tuples of keys and values _PMKSd and
    of who sees them, bool [P, M, 1, 1, S]), and each other up to themselves.
    """
    k_PKSd, v_PKSd = prompts.k_PKSd[layer], prompts.v_PKSd[layer]
    known_PS = jnp.arange(k_PKSd.shape[2])[None] < prompts.lengths_P[:, None]

    def attention(q_PNHd, k_PNKd, v_PNKd):
        P, N, K, d = k_PNKd.shape
        T, G = N // M, q_PNHd.shape[2] // K
        cut = lambda x: jnp.moveaxis(x.reshape(P, M, T, K, d), 2, 3)
        new_nT = jnp.repeat(jnp.tril(jnp.ones((T, T), bool)), G, axis=0)
        own = [*before, (cut(k_PNKd), cut(v_PNKd), new_nT[None, None, None])]
        q_PMTKGd = q_PNHd.reshape(P, M, T, K, G, d) * d**-0.5
        shared_PKnd = q_PMTKGd.transpose(0, 3, 1, 2, 4, 5).reshape(P, K, M * T * G, d)
        own_PMKnd = q_PMTKGd.transpose(0, 1, 3, 2, 4, 5).reshape(P, M, K, T * G, d)
        # [P, K, M T G] and [P, M, K, T G] hold the same queries in two orders.
        apart = lambda x: jnp.moveaxis(x.reshape(P, K, M, T * G, *x.shape[3:]), 1, 2)
        prompt = (k_PKSd, v_PKSd, known_PS[:, None, None])
        top1, sum1, out1 = map(apart, _softmax(shared_PKnd, [prompt]))
        top2, sum2, out2 = _softmax(own_PMKnd, own)
        top = jnp.maximum(top1, top2)
        part1, part2 = jnp.exp(top1 - top), jnp.exp(top2 - top)
        whole = sum1 * part1 + sum2 * part2
        out_PMKnd = (out1 * part1[..., None] + out2 * part2[..., None]) / whole[..., None]
        out_PMTKGd = out_PMKnd.reshape(P, M, K, T, G, d).transpose(0, 1, 3, 2, 4, 5)
        return out_PMTKGd.reshape(q_PNHd.shape).astype(q_PNHd.dtype)

    return attention


def _softmax(q_nd, pieces):
    """(maxima, sums, unnormalised outputs) of a softmax in float32, over leading axes alike.

    Its keys come in pieces, each (k_Sd, v_Sd, seen_nS). Where nothing is seen the sum counts for
    nothing once it is merged with one that sees something.
    """
    dot = lambda how, a, b: jnp.einsum(how, a, b, preferred_element_type=jnp.float32)
    scores = [
        jnp.where(seen_nS, dot("...nd,...Sd->...nS", q_nd, k_Sd), NEVER)
        for k_Sd, _, seen_nS in pieces
    ]
    top_n = functools.reduce(jnp.maximum, [jnp.max(scores_nS, axis=-1) for scores_nS in scores])
    weights = [jnp.exp(scores_nS - top_n[..., None]) for scores_nS in scores]
    sum_n = sum(jnp.sum(weights_nS, axis=-1) for weights_nS in weights)
    out_nd = sum(
        dot("...nS,...Sd->...nd", weights_nS.astype(v_Sd.dtype), v_Sd)
        for weights_nS, (_, v_Sd, _) in zip(weights, pieces, strict=True)
    )
    return top_n, sum_n, out_nd
