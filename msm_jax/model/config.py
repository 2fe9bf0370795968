"""The decoder's configuration, and the letters that name array axes throughout the package.

    B  batch rows            D  model width             V  vocabulary rows
    T  tokens in a row       H  query heads             F  feed-forward width
    S  cache slots (keys)    K  key/value heads         R  LoRA rank
    L  layers                G  query heads per key     d  head width
                                head, H // K

An array's name carries its axes: `q_BTHd`, `k_BSKd`, `logits_BTV`, weights `w_DF`.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from msm_jax.errors import UserError
from msm_jax.model.eightbit import EIGHT_BITS
from msm_jax.model.rope import RopeScaling

PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
ATTENTIONS = ("auto", "plain", "blockwise", "splash", "cudnn")
DTYPES = ("float32", "bfloat16")
REMATS = ("none", "full", "attention", "dots", "offload", "auto")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A dense decoder of the Qwen/Llama kind. Frozen and hashable, so that it can be a static
    argument of `jax.jit`.

    Attributes:
      vocab_size, width, layers, heads, mlp_width: V, D, L, H, F.
      kv_heads, head_dim: K, which divides `heads`, and d, which need not be D // H.
      rope_theta: base of the rotary frequencies.
      rope_scaling: of the frequencies (Llama 3.1), or None.
      norm_eps: epsilon of every RMSNorm.
      qk_norm: RMSNorm on each query and key head before rotation (Qwen3).
      qkv_bias: biases on the q, k and v projections (Qwen2).
      tied_embeddings: the output head is the embedding table.
      dtype: of activations and of the weights inside a matrix product.
      param_dtype: of stored weights; "int8" and "float8" are that of projections whose base is
        frozen (see eightbit.py), with all else in bfloat16.
      lora_rank: R; 0 builds no adapter.
      lora_alpha: the adapter's output is scaled by `lora_alpha / lora_rank` (Hu et al. 2021).
      lora_targets: which projections carry an adapter.
      remat: what is kept of a layer for the backward pass, which recomputes the rest: "none" keeps
        everything; "full" the layer's input only; "attention" also the products q, k and v and
        the results of attention; "dots" these and all other products of a token with weights;
        "offload" q, k, v and the output of attention, in the host's memory. "auto" stands for what
        training chooses before its first step.
      attention: which implementation trains on packed rows; see kernels.py.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    rope_theta: float = 1_000_000.0
    norm_eps: float = 1e-6
    qk_norm: bool = True
    qkv_bias: bool = False
    tied_embeddings: bool = True
    dtype: str = "float32"
    param_dtype: str = "float32"
    lora_rank: int = 0
    lora_alpha: float = 128.0
    lora_targets: tuple[str, ...] = PROJECTIONS
    remat: str = "none"
    rope_scaling: RopeScaling | None = None
    attention: str = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.rope_scaling, dict):  # as JSON carries it
            object.__setattr__(self, "rope_scaling", RopeScaling(**self.rope_scaling))
        if isinstance(self.remat, bool):  # as older checkpoints have it
            object.__setattr__(self, "remat", "full" if self.remat else "none")
        object.__setattr__(self, "lora_targets", tuple(self.lora_targets))
        for name in ("vocab_size", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_width"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name}={getattr(self, name)}: must be at least 1")
        if self.heads % self.kv_heads:
            raise UserError(
                f"model.heads={self.heads} is not a multiple of model.kv_heads={self.kv_heads}"
            )
        if self.head_dim % 2:
            raise UserError(f"model.head_dim={self.head_dim}: rotary embedding needs an even width")
        if unknown := set(self.lora_targets) - set(PROJECTIONS):
            raise UserError(f"model.lora_targets has {sorted(unknown)}; known: {PROJECTIONS}")
        choices = {"remat": REMATS, "attention": ATTENTIONS, "dtype": DTYPES}
        for name, known in {**choices, "param_dtype": (*DTYPES, *EIGHT_BITS)}.items():
            if getattr(self, name) not in known:
                raise UserError(f"model.{name}={getattr(self, name)!r}: one of {known}")

    @property
    def lora_scale(self) -> float:
        """alpha / R, or 0 without an adapter."""
        return self.lora_alpha / self.lora_rank if self.lora_rank else 0.0

    @property
    def eight_bits(self) -> bool:
        """Whether the projections' weights are stored in 8 bits."""
        return self.param_dtype in EIGHT_BITS

    @property
    def plain_dtype(self) -> str:
        """Of the stored weights that are never in 8 bits."""
        return "bfloat16" if self.eight_bits else self.param_dtype

    def refuse_eight_bits(self, what: str) -> None:
        """UserError if the weights are in 8 bits, in which `what` would be rounded away."""
        if self.eight_bits:
            raise UserError(
                f"the weights are in 8 bits (param_dtype={self.param_dtype}), so {what}: load the "
                'model with dtype="bfloat16" (--dtype=bfloat16), which keeps the numbers that the '
                "8 bits stand for; or save the adapter alone (--to=peft) and put it on the "
                "original base"
            )

    def stored_as(self, dtype: str) -> "ModelConfig":
        """With weights of this dtype, and activations of the same, or bfloat16 over 8 bits."""
        config = dataclasses.replace(self, param_dtype=dtype)
        return dataclasses.replace(config, dtype=config.plain_dtype)

    @property
    def compute_dtype(self) -> Any:
        """`dtype` as numpy has it."""
        return jnp.dtype(self.dtype)
