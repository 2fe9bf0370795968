"""The loss: a token-weighted mean over the global step.

With V = 152k the scores of one row of 4,096 tokens take 2.5 GB. So they are made a chunk of tokens
at a time, and the chunk's gradients with them, before the next chunk takes its place: three
matrix products instead of the four that recomputing in the backward pass would need.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from msm_jax.model import ModelConfig, forward, head_weights, logits
from msm_jax.model.axes import BATCH_AXES, TABLE, WIDTH_AXES
from msm_jax.model.kernels import platform_of

PLAIN = 2**22  # scores that a device may hold at once without further thought
CHUNK = {"cpu": 2**24}  # and in a chunk: 64 MB, of enough tokens for fast products on a CPU,
CHUNK_ELSEWHERE = 2**27  # or what keeps an accelerator's matrix units busy


def target_logprobs(
    config: ModelConfig,
    params: dict,
    batch: dict,
    mesh: Mesh | None = None,
    documents: int | None = None,
) -> jax.Array:
    """float32[B, T]: the log-probability that each token's target follows it. Traceable.

    `documents` is the most that a row has, as of `forward`.
    """
    hidden_BTD = _hidden(config, params, batch, mesh, documents)
    chunk = chunk_length(hidden_BTD.shape, config.vocab_size, mesh)

    @jax.checkpoint
    def logprobs(hidden_BcD: jax.Array, targets_Bc: jax.Array) -> jax.Array:
        logits_BcV = logits(config, params, hidden_BcD)
        chosen_Bc = jnp.take_along_axis(logits_BcV, targets_Bc[..., None], axis=-1)[..., 0]
        return chosen_Bc - jax.nn.logsumexp(logits_BcV, axis=-1)

    if chunk is None:
        return logprobs.__wrapped__(hidden_BTD, batch["targets"])
    parts = _in_chunks(chunk, hidden_BTD, batch["targets"])
    found = jax.lax.map(lambda part: logprobs(*part), parts)
    return jnp.moveaxis(found, 0, 1).reshape(len(hidden_BTD), -1)[:, : hidden_BTD.shape[1]]


token_logprobs = functools.partial(jax.jit, static_argnums=(0, 3, 4))(target_logprobs)


def summed_loss(
    config: ModelConfig,
    params: dict,
    batch: dict,
    mesh: Mesh | None = None,
    documents: int | None = None,
) -> jax.Array:
    """Negative log-likelihood summed over tokens with their loss weights, in nats.

    `documents` is the most that a row has, as of `forward`.
    """
    shape = (*batch["tokens"].shape, config.width)
    chunk = chunk_length(shape, config.vocab_size, mesh)
    if chunk is None:
        logprobs_BT = target_logprobs(config, params, batch, mesh, documents)
        return -jnp.sum(logprobs_BT * batch["loss_weights"])
    hidden_BTD = _hidden(config, params, batch, mesh, documents)
    w_VD = head_weights(config, params)
    return cross_entropy(chunk, mesh, hidden_BTD, w_VD, batch["targets"], batch["loss_weights"])


def _hidden(
    config: ModelConfig, params: dict, batch: dict, mesh: Mesh | None, documents: int | None
) -> jax.Array:
    inputs = (batch["tokens"], batch["segment_ids"], batch["positions"])
    return forward(config, params, *inputs, mesh=mesh, documents=documents)


def chunk_length(
    hidden_shape: tuple[int, int, int], vocab: int, mesh: Mesh | None = None
) -> int | None:
    """Tokens of a row whose scores are computed at once; None for all of them."""
    rows, length, _ = hidden_shape
    platform = platform_of(mesh)
    if mesh is not None:
        rows = max(1, rows // math.prod(mesh.shape[axis] for axis in BATCH_AXES))
        vocab //= mesh.shape["tensor"]
        length = -(-length // mesh.shape["sequence"])
    if rows * length * vocab <= PLAIN:
        return None
    most = max(1, CHUNK.get(platform, CHUNK_ELSEWHERE) // (rows * vocab))
    return math.ceil(length / math.ceil(length / most))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def cross_entropy(
    chunk: int,
    mesh: Mesh | None,
    hidden_BTD: jax.Array,
    w_VD: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
) -> jax.Array:
    """sum over tokens of weight * (logsumexp(hidden w) - (hidden w)[target]), float32.

    It takes `chunk` tokens of a row at a time, so nothing of size [B, T, V] ever exists. Products
    have hidden's dtype, sums are float32; the head's gradient has the dtype that it is stored in.
    """
    return _run(chunk, mesh, (False, False), hidden_BTD, w_VD, targets_BT, weights_BT)[0]


def _forward(
    chunk: int, mesh: Mesh | None, hidden_BTD: Any, w_VD: Any, targets_BT: Any, weights_BT: Any
) -> tuple[jax.Array, list]:
    wanted = (hidden_BTD.perturbed, w_VD.perturbed)
    values = (hidden_BTD.value, w_VD.value, targets_BT.value, weights_BT.value)
    loss, *gradients = _run(chunk, mesh, wanted, *values)
    return loss, gradients


def _backward(chunk: int, mesh: Mesh | None, gradients: list, cotangent: Any) -> tuple:
    def scaled(gradient: jax.Array | None) -> jax.Array | None:
        if gradient is None or isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
            return None
        return (gradient * cotangent).astype(gradient.dtype)

    return (*map(scaled, gradients), None, None)


cross_entropy.defvjp(_forward, _backward, symbolic_zeros=True)


def _run(chunk: int, mesh: Mesh | None, wanted: tuple[bool, bool], *arguments: jax.Array) -> tuple:
    """(loss, gradient of hidden or None, gradient of w or None), on one device or on many."""
    if mesh is None or mesh.size == 1:
        return _local(chunk, wanted, None, platform_of(mesh) == "cpu", *arguments)
    rows, replicated = PartitionSpec(BATCH_AXES, "sequence"), PartitionSpec()
    return jax.shard_map(
        functools.partial(_local, chunk, wanted, mesh, False),
        mesh=mesh,
        in_specs=(rows, TABLE, rows, rows),
        out_specs=(replicated, rows if wanted[0] else None, TABLE if wanted[1] else None),
        check_vma=False,
    )(*arguments)


def _local(
    chunk: int,
    wanted: tuple[bool, bool],
    mesh: Mesh | None,
    on_cpu: bool,
    hidden_BTD: jax.Array,
    w_VD: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
) -> tuple:
    """The work of one device: its rows, its tokens of each, and its part of the vocabulary.

    Each token's softmax is put together over the tensor axis from the parts' maxima and sums.
    """
    dtype, stored = hidden_BTD.dtype, w_VD.dtype
    w_VD, first, over_tensor = w_VD.astype(dtype), 0, lambda x, reduce=None: x
    if mesh is not None:
        w_VD = jax.lax.all_gather(w_VD, WIDTH_AXES, axis=1, tiled=True)
        first = jax.lax.axis_index("tensor") * w_VD.shape[0]
        over_tensor = lambda x, reduce=jax.lax.psum: reduce(x, "tensor")
    V, D = w_VD.shape

    def one(totals: tuple, part: tuple) -> tuple:
        loss, dw = totals
        N = part[1].size
        hidden_ND, targets_N, weights_N = (x.reshape(N, *x.shape[part[1].ndim :]) for x in part)
        logits_NV = jnp.einsum("ND,VD->NV", hidden_ND, w_VD, preferred_element_type=jnp.float32)
        top_N = jax.lax.stop_gradient(over_tensor(jnp.max(logits_NV, axis=-1), jax.lax.pmax))
        exp_NV = jnp.exp(logits_NV - top_N[:, None])
        sum_N = over_tensor(jnp.sum(exp_NV, axis=-1))
        place_N = targets_N - first
        here_N = (place_N >= 0) & (place_N < V)
        chosen_N = jnp.take_along_axis(logits_NV, jnp.clip(place_N, 0, V - 1)[:, None], 1)[:, 0]
        chosen_N = over_tensor(jnp.where(here_N, chosen_N, 0.0))
        loss += jnp.sum((jnp.log(sum_N) + top_N - chosen_N) * weights_N)
        if not any(wanted):
            return (loss, dw), None
        is_target_NV = jnp.arange(V)[None] == place_N[:, None]
        scale_N = weights_N / sum_N
        d_NV = exp_NV * scale_N[:, None] - jnp.where(is_target_NV, weights_N[:, None], 0.0)
        d_NV = d_NV.astype(dtype)
        dh_BcD = None
        if wanted[0]:
            dh_BcD = (d_NV @ w_VD).reshape(part[0].shape)
        if wanted[1]:
            operands = (hidden_ND, d_NV) if on_cpu else (d_NV, hidden_ND)
            dw += jnp.einsum("Na,Nb->ab", *operands, preferred_element_type=jnp.float32)
        return (loss, dw), dh_BcD

    # On a CPU dw_DV takes a fifth less time than dw_VD.
    start = (jnp.zeros(()), jnp.zeros((D, V) if on_cpu else (V, D)) if wanted[1] else None)
    arrays = (hidden_BTD, targets_BT, weights_BT)
    if on_cpu:
        loss, dw, dh_BTD = _tokens_with_loss(one, chunk, start, wanted[0], *arrays)
    else:
        (loss, dw), dh_cBcD = jax.lax.scan(one, start, _in_chunks(chunk, *arrays))
        dh_BTD = None
        if wanted[0]:
            rows, length = hidden_BTD.shape[:2]
            dh_BTD = over_tensor(jnp.moveaxis(dh_cBcD, 0, 1).reshape(rows, -1, D)[:, :length])
    dw_VD = dw.T if on_cpu and wanted[1] else dw
    if mesh is not None:
        loss = jax.lax.psum(loss, (*BATCH_AXES, "sequence"))
        if wanted[1]:
            dw_VD = jax.lax.psum_scatter(dw_VD, WIDTH_AXES, scatter_dimension=1, tiled=True)
            dw_VD = jax.lax.psum(dw_VD, "data")
    return loss, dh_BTD, dw_VD.astype(stored) if wanted[1] else None


def _tokens_with_loss(
    one: Callable, chunk: int, totals: tuple, wanted: bool, *arrays: jax.Array
) -> tuple:
    """(loss, dw_DV, dh_BTD): the sum of `one` over chunks of tokens with loss.

    In a chat most tokens have none. Those that have it are put first, in their order, and only
    their chunks are computed. On a CPU only: it does not have to know how many chunks there are.
    """
    flat_N = [jnp.reshape(x, (-1, *x.shape[2:])) for x in arrays]
    hidden_ND, weights_N = flat_N[0], flat_N[-1]
    size, N = chunk * arrays[0].shape[0], weights_N.size
    order_N = jnp.argsort(weights_N == 0, stable=True)
    padded_N = jnp.pad(order_N, (0, -N % size), constant_values=N)

    def add(number: jax.Array, done: tuple) -> tuple:
        totals, dh_ND = done
        at_c = jax.lax.dynamic_slice(padded_N, (number * size,), (size,))
        part = [jnp.take(x_N, at_c, axis=0, mode="fill", fill_value=0) for x_N in flat_N]
        totals, dh_cD = one(totals, part)
        if wanted:
            dh_ND = jax.lax.dynamic_update_slice(dh_ND, dh_cD, (number * size, 0))
        return totals, dh_ND

    count = -(-jnp.count_nonzero(weights_N) // size)
    dh_ND = jnp.zeros((padded_N.size, hidden_ND.shape[1]), hidden_ND.dtype) if wanted else None
    (loss, dw_DV), dh_ND = jax.lax.fori_loop(0, count, add, (totals, dh_ND))
    return loss, dw_DV, dh_ND[jnp.argsort(order_N)].reshape(arrays[0].shape) if wanted else None


def _in_chunks(chunk: int, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Each [B, T, ...] as [T / chunk, B, chunk, ...], T filled up with zeros."""

    def split(x: jax.Array) -> jax.Array:
        missing = -x.shape[1] % chunk
        x = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2)) if missing else x
        return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)

    return tuple(map(split, arrays))
