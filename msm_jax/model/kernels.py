"""Which attention a training step runs, and how it is sharded over a mesh.

plain      the oracle of attention.py: all T x T scores at once
blockwise  blockwise.py: skips blocks of other documents; any backend
splash     JAX's Pallas kernel for TPUs, with segment ids
cudnn      cuDNN's fused attention on NVIDIA GPUs; cudnn.py says how it keeps documents apart
auto       the fastest of these that this machine and shape can run; blockwise, whose loops are slow
           on GPUs, only where nothing else fits
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from msm_jax.errors import UserError
from msm_jax.model import cudnn
from msm_jax.model.attention import attend, attend_by_head, segment_mask
from msm_jax.model.axes import BATCH_AXES
from msm_jax.model.blockwise import blockwise_attention
from msm_jax.model.config import ModelConfig

# A plain row of this length costs no more than the loops over its blocks.
PLAIN_LENGTH = 128
# What plain attention may take of a GPU's memory beside weights and activations.
PLAIN_SHARE = 0.25
UNKNOWN_MEMORY = 16 * 2**30
# Of splash: maxtext's record runs use 2048, and the library's default of 128 is a placeholder
# (jax splash_attention_kernel.py, BlockSizes.get_default). Larger ones exceed VMEM.
SPLASH_BLOCK = 1024
# What marks the results of a kernel's forward pass that its backward pass needs: a checkpoint_name
# in splash, the name of JAX's primitive of cuDNN's. Kept, they are not computed again. The other
# kinds compute their scores again in any case.
RESULTS = {"splash": "splash results", "cudnn": "dot_product_attention_fwd_wrapper"}
AttentionFn = Callable[[Array, Array, Array], Array]  # (q, k, v) -> outputs
INTERPRET = False  # splash without a TPU, slowly, for tests


def choose_attention(config: ModelConfig, length: int, platform: str) -> tuple[str, str]:
    """(kind, why) for rows of `length` tokens on "cpu", "tpu" or "gpu" devices.

    UserError if the config names a kind that cannot run here.
    """
    can = {
        "plain": "",
        "blockwise": "",
        "splash": _no_splash(length, config.head_dim, platform),
        "cudnn": _no_cudnn(config, length, platform),
    }
    if config.attention != "auto":
        if why := can[config.attention]:
            raise UserError(f"model.attention={config.attention}: {why}; use auto")
        return config.attention, "set by model.attention"
    if length <= PLAIN_LENGTH:
        return "plain", f"rows of at most {PLAIN_LENGTH} tokens"
    best = {"tpu": "splash", "gpu": "cudnn"}.get(platform, "blockwise")
    if not can[best]:
        return best, f"auto on {platform}"
    why = f"no {best}: {can[best]}"
    if platform == "gpu":
        if not (large := _too_large(config, length)):
            return "plain", why
        why += f"; no plain: {large}"
    return "blockwise", why


def _too_large(config: ModelConfig, length: int) -> str:
    """Why plain attention of one key/value head does not fit into a GPU; "" if it does."""
    # Scores, their softmax, and its gradient in float32.
    need = 3 * 4 * config.heads // config.kv_heads * length**2
    stats = jax.local_devices()[0].memory_stats() or {}
    room = stats.get("bytes_limit", UNKNOWN_MEMORY) * PLAIN_SHARE
    if need <= room:
        return ""
    return f"its scores take {need / 2**30:.1f} GiB, more than {room / 2**30:.1f}"


def _no_splash(length: int, head_dim: int, platform: str) -> str:
    if platform != "tpu" and not INTERPRET:
        return f"it runs on TPUs, this is {platform}"
    if length % 128 or head_dim % 64:
        return f"it needs sequence_length {length} % 128 == 0 and head_dim {head_dim} % 64 == 0"
    return ""


def _no_cudnn(config: ModelConfig, length: int, platform: str) -> str:
    if platform != "gpu":
        return f"it runs on NVIDIA GPUs, this is {platform}"
    if config.dtype != "bfloat16":
        return f"it needs model.dtype=bfloat16, not {config.dtype}"
    if 0 < (capability := cudnn.compute_capability()) < 8:
        return f"it needs compute capability 8.0 (Ampere) or later, this GPU's is {capability}"
    if config.head_dim > 128 or config.head_dim % 8 or length % 2:
        return f"it needs head_dim {config.head_dim} <= 128 and % 8 == 0, and even rows"
    return ""


def platform_of(mesh: Mesh | None) -> str:
    """ "cpu", "gpu" or "tpu": what the mesh's devices are, or the default ones."""
    name = mesh.devices.flat[0].platform if mesh is not None else jax.default_backend()
    return {"cuda": "gpu", "rocm": "gpu"}.get(name, name)


def documents_bound(most: int, mesh: Mesh | None) -> int | None:
    """`documents` of `packed_attention` for rows of `most` documents; None where it is not used."""
    return cudnn.rounded(most) if platform_of(mesh) == "gpu" else None


def describe_attention(
    config: ModelConfig, length: int, mesh: Mesh | None, documents: int | None
) -> str:
    """Which attention runs and why, for people; arguments as of `packed_attention`."""
    kind, why = choose_attention(config, length, platform_of(mesh))
    if kind != "cudnn":
        return f"{kind} ({why})"
    way, because = cudnn.choose_way(documents, mesh.shape["sequence"] if mesh is not None else 1)
    return f"{kind} ({why}), {way} ({because})"


def packed_attention(
    config: ModelConfig,
    segment_ids_BT: Array,
    mesh: Mesh | None,
    shard_rows: bool = True,
    documents: int | None = None,
) -> AttentionFn:
    """The function (q_BTHd, k_BTKd, v_BTKd) -> out_BTHd for these segments.

    A mesh shards heads by its tensor axis, and rows and tokens by the others if `shard_rows`: each
    device has the queries of a part of some rows and gathers the keys of those rows.

    Args:
      documents: that a row has at most, with padding after the last of them; None: unknown. cuDNN
        is far faster if it knows, and gives NaN in rows that have more.
    """
    platform = platform_of(mesh)
    kind, _ = choose_attention(config, segment_ids_BT.shape[1], platform)
    by_head = platform == "gpu" and segment_ids_BT.shape[1] > PLAIN_LENGTH
    if kind == "plain" and not by_head:
        mask_BTS = segment_mask(segment_ids_BT)
        return lambda q_BTHd, k_BTKd, v_BTKd: attend(q_BTHd, k_BTKd, v_BTKd, mask_BTS)
    axes, along = (BATCH_AXES, "sequence") if shard_rows else (None, None)
    parts = mesh.shape["sequence"] if mesh is not None and shard_rows else 1
    run: Any = {"plain": attend_by_head, "blockwise": blockwise_attention, "splash": splash}.get(
        kind
    )
    about: Any = segment_ids_BT
    if kind == "cudnn":
        way, _ = cudnn.choose_way(documents, parts)
        run = {"causal": cudnn.causal, "packed": cudnn.packed, "mask": cudnn.masked}[way]
        if way != "mask" and documents is not None:
            about = cudnn.find_rows(segment_ids_BT, documents)
    if mesh is None or mesh.size == 1:
        return lambda q_BTHd, k_BTKd, v_BTKd: run(q_BTHd, k_BTKd, v_BTKd, about)
    rows, heads = PartitionSpec(axes), PartitionSpec(axes, along, "tensor")
    kernel, spec = None, None
    if kind == "splash" and parts > 1:
        # Which blocks a device visits depends on its part of the row.
        length = segment_ids_BT.shape[1]
        kernel = _splash_kernel(length, config.heads // mesh.shape["tensor"], parts)
        spec = kernel.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(None, "sequence")))

    def part(kernel: Any, q_BTHd: Array, k_BTKd: Array, v_BTKd: Array, about: Any) -> Array:
        if parts == 1:
            return run(q_BTHd, k_BTKd, v_BTKd, about)
        gathered = lambda x_BTKd: jax.lax.all_gather(x_BTKd, "sequence", axis=1, tiled=True)
        first = jax.lax.axis_index("sequence") * q_BTHd.shape[1]
        more = {"kernel": kernel} if kernel is not None else {}
        return run(q_BTHd, gathered(k_BTKd), gathered(v_BTKd), about, first=first, **more)

    sharded = jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(spec, heads, heads, heads, rows),
        out_specs=heads,
        check_vma=False,
    )
    return lambda q_BTHd, k_BTKd, v_BTKd: sharded(kernel, q_BTHd, k_BTKd, v_BTKd, about)


def splash(
    q_BTHd: Array,
    k_BSKd: Array,
    v_BSKd: Array,
    segment_ids_BS: Array,
    first: Array | int = 0,
    kernel: Any = None,
) -> Array:
    """Splash attention; `first` is the position of the first query in the row, as in `kernel`."""
    from jax.experimental.pallas.ops.tpu import splash_attention

    T, S = q_BTHd.shape[1], k_BSKd.shape[1]
    kernel = kernel or _splash_kernel(T, q_BTHd.shape[2])
    ids_BT = segment_ids_BS
    if T < S:
        ids_BT = jax.lax.dynamic_slice_in_dim(segment_ids_BS, first, T, axis=1)

    def one(q_THd: Array, k_SKd: Array, v_SKd: Array, ids_T: Array, ids_S: Array) -> Array:
        segments = splash_attention.SegmentIds(q=ids_T, kv=ids_S)
        q_HTd = jnp.swapaxes(q_THd * q_THd.shape[-1] ** -0.5, 0, 1)
        k_KSd, v_KSd = jnp.swapaxes(k_SKd, 0, 1), jnp.swapaxes(v_SKd, 0, 1)
        return jnp.swapaxes(kernel(q_HTd, k_KSd, v_KSd, segment_ids=segments), 0, 1)

    return jax.vmap(one)(q_BTHd, k_BSKd, v_BSKd, ids_BT, segment_ids_BS)


def _splash_kernel(length: int, heads: int, parts: int = 1) -> Any:
    """For rows of `length` tokens, of whose queries a device has one of so many parts."""
    from jax.experimental.pallas.ops.tpu import splash_attention

    block = math.gcd(length // parts, SPLASH_BLOCK)
    names = "block_q block_kv block_kv_compute block_q_dkv block_kv_dkv block_kv_dkv_compute"
    sizes = splash_attention.BlockSizes(
        **dict.fromkeys(names.split(), block), use_fused_bwd_kernel=True
    )
    causal = splash_attention.CausalMask((length, length))
    make = functools.partial(
        splash_attention.make_splash_mha,
        head_shards=1,
        q_seq_shards=parts,
        interpret=INTERPRET,
        residual_checkpoint_name=RESULTS["splash"],
    )
    return make(splash_attention.MultiHeadMask([causal] * heads), block_sizes=sizes)
