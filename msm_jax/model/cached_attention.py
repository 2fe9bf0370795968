"""Attention to cached keys of which only some slots are in use, without reading the others.

A cache has room for S keys, and each of its rows says which slots it sees: a span that may go on at
slot 0 beyond the last one. Programs are compiled for S; what they read follows from the spans.

blocks  JAX: a loop over blocks of slots up to the last that any row sees
kernel  Pallas-Triton on NVIDIA GPUs, where such a loop would wait for the host at every step: each
        row reads its own span. Scores never leave the chip. Several programs share a row's span
        ("split-K") where there are too few rows to fill the GPU

Both keep a running maximum and sum of the softmax (Milakov and Gimelshein 2018, "Online normalizer
calculation for softmax"), so that memory never has scores for all S keys, and return them to be
merged with other parts.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from msm_jax.model import cudnn
from msm_jax.model.kernels import platform_of

NEVER = -1e30  # score of a key that is not seen
# Slots of a block, at least, and its numbers (of all rows together) where rows are few: on a CPU,
# which copies a block to read it, each costs some 20 microseconds beside. One block has no loop.
BLOCK, BLOCK_NUMBERS = 128, 2**19
INTERPRET = False  # the kernel without a GPU, slowly, for tests
# Of the kernel: keys and queries at a time (Triton multiplies at least 16 x 16), and programs that
# fill a GPU of 132 processors. Chosen by shared memory and arithmetic, not yet by measurement.
KERNEL_KEYS, KERNEL_QUERIES, KERNEL_PROGRAMS, MOST_SPLITS = 64, 64, 256, 16

Piece = tuple[Array, Array, Array]  # (k_Sd, v_Sd, which of them are seen, bool [..., n or 1, S])
# (maxima_n, sums_n, unnormalised outputs_nd) of a softmax, float32, batched over leading axes. A
# part without any key has the maximum NEVER, and gets no weight when it is merged with another.
Softmax = tuple[Array, Array, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Span:
    """The slots that are seen: `count` from `first` on, in which no other row's matter.

    Attributes:
      first, count: int32, batched like the rows of a cache; 0 <= first < S, count <= S.
      low, high: int32 scalars, low <= high; all spans are within low..high - 1, modulo S.
    """

    first: Array
    count: Array
    low: Array
    high: Array

    def seen(self, slots_B: Array, S: int) -> Array:
        """bool [..., B]."""
        slots = jnp.expand_dims(slots_B, range(self.first.ndim))
        return (slots - self.first[..., None]) % S < self.count[..., None]


def softmax(q_nd: Array, pieces: Sequence[Piece]) -> Softmax:
    """The softmax over the keys of all pieces."""
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


def merged(one: Softmax, other: Softmax) -> Softmax:
    """The softmax over the keys of both."""
    top_n = jnp.maximum(one[0], other[0])
    part1_n, part2_n = jnp.exp(one[0] - top_n), jnp.exp(other[0] - top_n)
    sum_n = one[1] * part1_n + other[1] * part2_n
    return top_n, sum_n, one[2] * part1_n[..., None] + other[2] * part2_n[..., None]


def over_span(
    q_nd: Array,
    k_Sd: Array,
    v_Sd: Array,
    span: Span,
    pieces: Sequence[Piece] = (),
    mesh: Mesh | None = None,
) -> Softmax:
    """The softmax over the slots of a span, and over some other keys; queries are scaled.

    Args:
      q_nd, k_Sd, v_Sd: with the same leading axes: prompts first, key/value heads last.
      span: its `first` and `count` with the same leading axes, or 1.
      mesh: that shards prompts and heads as `decode.cache_sharding` says; None: one device.
    """
    if not no_kernel(k_Sd, mesh):
        found = _by_kernel(q_nd, k_Sd, v_Sd, span, mesh)
        return merged(found, softmax(q_nd, pieces)) if pieces else found
    S, lead = k_Sd.shape[-2], math.prod(k_Sd.shape[:-2])
    many = BLOCK_NUMBERS // (lead * max(q_nd.shape[-2:]))
    block = max(BLOCK, 1 << max(many.bit_length() - 1, 0))
    if block >= S or S % block:
        seen_nS = span.seen(jnp.arange(S), S)[..., None, :]
        return softmax(q_nd, [(k_Sd, v_Sd, seen_nS), *pieces])
    start, blocks = span.low // block, S // block

    def one_block(number: Array, before: Softmax) -> Softmax:
        at = (start + number) % blocks * block
        part = lambda x_Sd: jax.lax.dynamic_slice_in_dim(x_Sd, at, block, axis=-2)
        seen_nB = span.seen(at + jnp.arange(block), S)[..., None, :]
        return merged(before, softmax(q_nd, [(part(k_Sd), part(v_Sd), seen_nB)]))

    zero_n = jnp.zeros(q_nd.shape[:-1])
    nothing = (zero_n + NEVER, zero_n, jnp.zeros(q_nd.shape))
    count = jnp.minimum(blocks, -(-span.high // block) - start)
    before = softmax(q_nd, pieces) if pieces else nothing
    return jax.lax.fori_loop(0, count, one_block, before)


def no_kernel(k_Sd: Array, mesh: Mesh | None) -> str:
    """Why the kernel cannot run; "" if it can."""
    if (platform := platform_of(mesh)) != "gpu" and not INTERPRET:
        return f"it runs on NVIDIA GPUs, this is {platform}"
    S, d = k_Sd.shape[-2:]
    if k_Sd.dtype != jnp.bfloat16 and not INTERPRET:
        return f"it needs model.dtype=bfloat16, not {k_Sd.dtype}"
    if 0 < (capability := cudnn.compute_capability()) < 8:
        return f"it needs compute capability 8.0 (Ampere) or later, this GPU's is {capability}"
    if d & (d - 1) or not 16 <= d <= 256 or S & (S - 1) or S < 16:
        return f"it needs powers of two: head_dim {d}, at most 256, and {S} slots"
    if k_Sd.size >= 2**31:
        return "its offsets are of 32 bits"
    try:
        _triton()
    except ImportError as error:
        return f"JAX {jax.__version__} has no Pallas for Triton: {error}"
    return ""


def _triton() -> Any:
    from jax.experimental.pallas import triton

    return triton


def _by_kernel(q_nd: Array, k_Sd: Array, v_Sd: Array, span: Span, mesh: Mesh | None) -> Softmax:
    """`over_span` by the kernel, on every device for its own prompts and heads."""
    lead = q_nd.shape[:-2]
    spans = jnp.stack([jnp.broadcast_to(x, lead) for x in (span.first, span.count)], axis=-1)

    def here(q_nd: Array, k_Sd: Array, v_Sd: Array, spans: Array) -> Softmax:
        flat = lambda x: x.reshape(math.prod(x.shape[: len(lead)]), *x.shape[len(lead) :])
        parts = _kernel_call(*map(flat, (q_nd, k_Sd, v_Sd, spans)))
        return tuple(x.reshape(*q_nd.shape[: len(lead)], *x.shape[1:]) for x in parts)

    if mesh is None or mesh.size == 1:
        return here(q_nd, k_Sd, v_Sd, spans)
    data = "data" if lead[0] % mesh.shape["data"] == 0 else None
    place = PartitionSpec(data, *[None] * (len(lead) - 2), "tensor")
    places = {"in_specs": (place,) * 4, "out_specs": (place,) * 3}
    return jax.shard_map(here, mesh=mesh, check_vma=False, **places)(q_nd, k_Sd, v_Sd, spans)


@jax.jit  # traced and lowered once for all layers
def _kernel_call(q_Xnd: Array, k_XSd: Array, v_XSd: Array, spans_X2: Array) -> Softmax:
    from jax.experimental import pallas as pl

    triton, (X, n, d), S = _triton(), q_Xnd.shape, k_XSd.shape[1]
    up = lambda count: 1 << max(count - 1, 0).bit_length()
    queries, keys = min(KERNEL_QUERIES, max(16, up(n))), min(KERNEL_KEYS, S)
    groups, blocks = pl.cdiv(n, queries), S // keys
    splits = min(MOST_SPLITS, blocks, up(pl.cdiv(KERNEL_PROGRAMS, X * groups)))

    def kernel(q_ref: Any, k_ref: Any, v_ref: Any, spans_ref: Any, *out: Any) -> None:
        first, count, split = spans_ref[0], spans_ref[1], pl.program_id(2)
        q_nd, start = q_ref[...], first // keys
        used = jnp.minimum(blocks, pl.cdiv(first + count, keys) - start)
        share = pl.cdiv(used, splits)

        def one_block(number: Array, before: Softmax) -> Softmax:
            top_n, sum_n, out_nd = before
            at = (start + number) % blocks * keys
            k_Bd, v_Bd = k_ref[pl.ds(at, keys), :], v_ref[pl.ds(at, keys), :]
            # S is a power of two: & is % that takes negative numbers too.
            seen_B = ((jnp.arange(keys) + (at - first)) & (S - 1)) < count
            scores_nB = jnp.where(seen_B[None], triton.dot(q_nd, k_Bd.T), NEVER)
            new_n = jnp.maximum(top_n, jnp.max(scores_nB, axis=1))
            weights_nB, old_n = jnp.exp(scores_nB - new_n[:, None]), jnp.exp(top_n - new_n)
            sum_n = sum_n * old_n + jnp.sum(weights_nB, axis=1)
            more_nd = triton.dot(weights_nB.astype(v_Bd.dtype), v_Bd)
            return new_n, sum_n, out_nd * old_n[:, None] + more_nd

        zero_n = jnp.zeros(queries, jnp.float32)
        nothing = (zero_n + NEVER, zero_n, jnp.zeros((queries, d), jnp.float32))
        ends = (split * share, jnp.minimum(used, split * share + share))
        for ref, value in zip(out, jax.lax.fori_loop(*ends, one_block, nothing), strict=True):
            ref[...] = value

    of_row = pl.BlockSpec((None, S, d), lambda x, i, z: (x, 0, 0))
    per_query = pl.BlockSpec((None, None, queries), lambda x, i, z: (z, x, i))
    shapes = [(splits, X, groups * queries)] * 2 + [(splits, X, groups * queries, d)]
    parts = pl.pallas_call(
        kernel,
        grid=(X, groups, splits),
        in_specs=[
            pl.BlockSpec((None, queries, d), lambda x, i, z: (x, i, 0)),
            of_row,
            of_row,
            pl.BlockSpec((None, 2), lambda x, i, z: (x, 0)),
        ],
        out_specs=[
            per_query,
            per_query,
            pl.BlockSpec((None, None, queries, d), lambda x, i, z: (z, x, i, 0)),
        ],
        out_shape=[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=INTERPRET,
        name="cached_attention",
    )(jnp.pad(q_Xnd, ((0, 0), (0, groups * queries - n), (0, 0))), k_XSd, v_XSd, spans_X2)
    top_ZXn, sum_ZXn, out_ZXnd = (x[:, :, :n] for x in parts)
    top_Xn = jnp.max(top_ZXn, axis=0)
    part_ZXn = jnp.exp(top_ZXn - top_Xn[None])
    return top_Xn, jnp.sum(sum_ZXn * part_ZXn, axis=0), jnp.sum(out_ZXnd * part_ZXn[..., None], 0)
