"""cuDNN's fused attention on NVIDIA GPUs, and three ways to keep the documents of a row apart.

causal  one document in a row, from the left: a causal mask is enough, because the padding follows
packed  several: cuDNN gets the start and the length of each and computes nothing between them.
        JAX has this in a private module only, for Hopper and later GPUs
mask    an additive mask [B, 1, T, T]: cuDNN computes all T x T scores, and before JAX 0.12 also
        a gradient of the mask that nobody reads

cuDNN writes nothing where no document is. What memory holds there may be NaN, and 0 * NaN is NaN.
So for `packed` a run of padding is a segment like any other: every token is written, forward and
backward. Besides, padding is set to zero on the way in and on the way out; the gradient of `where`
does the same with gradients.
"""

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from msm_jax.model.attention import segment_mask

# Older versions multiply the offsets of keys by the number of query heads (jax-ml/jax#39521): wrong
# for grouped queries. Fixed in 0.11.2 for certain; see `packed`.
GROUPED_OFFSETS = (0, 11, 2)
PACKED_CUDNN = 90600  # the first with packed rows, as in JAX's own test of them
STEP = 8  # `rounded`


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """What the layers of a forward pass share, computed once from the segment ids.

    Attributes:
      starts_Bm, lengths_Bn: int32, in tokens, of each run of equal segment ids, padding included;
        -1 beyond the last run. n is `documents` + 1, and m is n + 1, as cuDNN wants it. The end of
        the last run is not a start: JAX drops what is negative from both lists and joins the rows,
        so that one start more in a row would give all later rows the lengths of other runs.
      is_document_BT: bool, False on padding.
      fits_B: bool, False for rows with more documents than was promised.
    """

    starts_Bm: Array
    lengths_Bn: Array
    is_document_BT: Array
    fits_B: Array

    def cleared(self, x_BTHd: Array) -> Array:
        """0 on padding, and no gradient."""
        return jnp.where(self.is_document_BT[..., None, None], x_BTHd, 0)

    def outputs(self, x_BTHd: Array) -> Array:
        """`cleared`; NaN in rows that do not fit, so that a wrong promise is never silent."""
        filling_B = jnp.where(self.fits_B, 0, jnp.nan).astype(x_BTHd.dtype)
        real_BT = self.is_document_BT & self.fits_B[:, None]
        return jnp.where(real_BT[..., None, None], x_BTHd, filling_B[:, None, None, None])


def rounded(documents: int) -> int:
    """A bound of the documents in a row that many data sets share, so that few programs compile."""
    return 1 if documents <= 1 else -(-documents // STEP) * STEP


def documents_in(segment_ids_BT: np.ndarray) -> int:
    """The most documents that a row has; padding counts as one, except after the last."""
    changes_B = np.sum(segment_ids_BT[:, 1:] != segment_ids_BT[:, :-1], axis=1)
    return int(np.max(changes_B + (segment_ids_BT[:, -1] > 0), initial=1))


def choose_way(documents: int | None, parts: int = 1) -> tuple[str, str]:
    """("causal", "packed" or "mask", why).

    Args:
      documents: in a row, at most; None: unknown.
      parts: devices that share the tokens of a row.
    """
    if parts > 1:
        return "mask", "cuDNN packs complete rows only, mesh.sequence splits them"
    if documents is None:
        return "mask", "the number of documents in a row is not known"
    if documents == 1:
        return "causal", "one document in a row"
    if why := no_packed():
        return "mask", why
    return "packed", f"at most {documents} documents in a row"


def no_packed() -> str:
    """Why cuDNN's packed rows cannot be used here; "" if they can."""
    if (capability := compute_capability()) < 9:
        return f"cuDNN packs rows from compute capability 9.0 (Hopper), this GPU's is {capability}"
    needed = {"q_seqlen", "kv_seqlen", "q_offsets", "kv_offsets", "scale", "mask_type"}
    try:
        fused = _fused_attention()
        known = inspect.signature(fused.dot_product_attention).parameters
        if missing := needed - known.keys():
            return f"JAX {jax.__version__}: its cuDNN attention lacks {', '.join(sorted(missing))}"
        _ = fused.MaskType.PADDING_CAUSAL
        version = fused.check_cudnn_version()
    except (ImportError, AttributeError, RuntimeError) as error:
        return f"JAX {jax.__version__}: its cuDNN attention for packed rows is missing: {error}"
    if version < PACKED_CUDNN:
        return f"cuDNN packs rows from version {PACKED_CUDNN}, this is {version}"
    return ""


def compute_capability() -> float:
    """Of this machine's GPU, as NVIDIA counts (a T4 has 7.5); 0: unknown."""
    return float(getattr(jax.local_devices()[0], "compute_capability", 0))


def _fused_attention() -> Any:
    """JAX's private module; the public interface has no offsets (jax-ml/jax#29731)."""
    from jax._src.cudnn import fused_attention_stablehlo

    return fused_attention_stablehlo


def find_rows(segment_ids_BT: Array, documents: int) -> Rows:
    """The runs of rows that have at most so many documents, and padding after the last of them.

    Padding elsewhere counts as one more document. With one document it has to follow.
    """
    ids_BT, most = segment_ids_BT, documents + 1
    new_Bt = ids_BT[:, 1:] != ids_BT[:, :-1]
    run_BT = jnp.pad(jnp.cumsum(new_Bt, axis=1, dtype=jnp.int32), ((0, 0), (1, 0)))
    run_n = jnp.arange(most)[None, None]
    lengths_Bn = jnp.sum(run_BT[..., None] == run_n, axis=1, dtype=jnp.int32)
    starts_Bn = jnp.cumsum(lengths_Bn, axis=1, dtype=jnp.int32) - lengths_Bn
    used_Bn = lengths_Bn > 0
    fits_B = run_BT[:, -1] < most
    if documents == 1:
        # What comes first is seen by all: it has to be the document.
        fits_B &= ~jnp.any(new_Bt & (ids_BT[:, 1:] > 0), axis=1)
    return Rows(
        starts_Bm=jnp.pad(jnp.where(used_Bn, starts_Bn, -1), ((0, 0), (0, 1)), constant_values=-1),
        lengths_Bn=jnp.where(used_Bn, lengths_Bn, -1),
        is_document_BT=ids_BT > 0,
        fits_B=fits_B,
    )


def causal(q_BTHd: Array, k_BTKd: Array, v_BTKd: Array, rows: Rows) -> Array:
    """Attention of rows with one document each; bfloat16."""
    q_BTHd, k_BTKd, v_BTKd = map(rows.cleared, (q_BTHd, k_BTKd, v_BTKd))
    return rows.outputs(_causal_call(q_BTHd, k_BTKd, v_BTKd))


def packed(q_BTHd: Array, k_BTKd: Array, v_BTKd: Array, rows: Rows) -> Array:
    """Attention within the runs of `rows`; bfloat16."""
    q_BTHd, k_BTKd, v_BTKd = map(rows.cleared, (q_BTHd, k_BTKd, v_BTKd))
    if jax.__version_info__ < GROUPED_OFFSETS:
        group = q_BTHd.shape[2] // k_BTKd.shape[2]
        k_BTKd, v_BTKd = (jnp.repeat(x_BTKd, group, axis=2) for x_BTKd in (k_BTKd, v_BTKd))
    return rows.outputs(_packed_call(q_BTHd, k_BTKd, v_BTKd, rows.starts_Bm, rows.lengths_Bn))


def masked(
    q_BTHd: Array, k_BSKd: Array, v_BSKd: Array, segment_ids_BS: Array, first: Array | int = 0
) -> Array:
    """Attention within segments; bfloat16. `first` is the place of the first query in the row."""
    # A row of scores without any key would be 0 / 0: padding sees itself.
    mask_BSS = segment_mask(segment_ids_BS) | jnp.eye(segment_ids_BS.shape[1], dtype=bool)[None]
    mask_BTS = jax.lax.dynamic_slice_in_dim(mask_BSS, first, q_BTHd.shape[1], axis=1)
    return jax.nn.dot_product_attention(
        q_BTHd, k_BSKd, v_BSKd, mask=mask_BTS[:, None], implementation="cudnn"
    )


def _causal_call(q_BTHd: Array, k_BTKd: Array, v_BTKd: Array) -> Array:
    return jax.nn.dot_product_attention(
        q_BTHd, k_BTKd, v_BTKd, is_causal=True, implementation="cudnn"
    )


def _packed_call(
    q_BTHd: Array, k_BTKd: Array, v_BTKd: Array, starts_Bm: Array, lengths_Bn: Array
) -> Array:
    """cuDNN's attention within the runs; what is in none of them is not written."""
    fused = _fused_attention()
    return fused.dot_product_attention(
        q_BTHd,
        k_BTKd,
        v_BTKd,
        q_seqlen=lengths_Bn,
        kv_seqlen=lengths_Bn,
        q_offsets=starts_Bm,
        kv_offsets=starts_Bm,
        scale=q_BTHd.shape[-1] ** -0.5,
        mask_type=fused.MaskType.PADDING_CAUSAL,
    )
