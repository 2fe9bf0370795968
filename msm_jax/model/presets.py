"""Published models by name, as their config.json describes them.

They serve runs without a checkpoint: compiling ahead of time, benchmarks, and random weights of a
real shape. A checkpoint's own config.json takes precedence.
"""

from msm_jax.errors import UserError
from msm_jax.model.config import ModelConfig
from msm_jax.model.rope import RopeScaling


def _qwen25(
    width: int, mlp_width: int, layers: int, heads: int, kv_heads: int, head_dim: int, tied: bool
) -> ModelConfig:
    return ModelConfig(
        151_936 if tied else 152_064, width, layers, heads, kv_heads, head_dim, mlp_width,
        qk_norm=False, qkv_bias=True, tied_embeddings=tied,
    )  # fmt: skip


def _qwen3(width: int, mlp_width: int, layers: int, heads: int, tied: bool) -> ModelConfig:
    return ModelConfig(151_936, width, layers, heads, 8, 128, mlp_width, tied_embeddings=tied)


PRESETS = {
    "qwen2.5-0.5b": _qwen25(896, 4864, 24, 14, 2, 64, True),
    "qwen2.5-1.5b": _qwen25(1536, 8960, 28, 12, 2, 128, True),
    "qwen2.5-3b": _qwen25(2048, 11008, 36, 16, 2, 128, True),
    "qwen2.5-7b": _qwen25(3584, 18944, 28, 28, 4, 128, False),
    "qwen2.5-14b": _qwen25(5120, 13824, 48, 40, 8, 128, False),
    "qwen2.5-32b": _qwen25(5120, 27648, 64, 40, 8, 128, False),
    "qwen2.5-72b": _qwen25(8192, 29568, 80, 64, 8, 128, False),
    "qwen3-0.6b": _qwen3(1024, 3072, 28, 16, True),
    "qwen3-1.7b": _qwen3(2048, 6144, 28, 16, True),
    "qwen3-4b": _qwen3(2560, 9728, 36, 32, True),
    "qwen3-8b": _qwen3(4096, 12288, 36, 32, False),
    "qwen3-14b": _qwen3(5120, 17408, 40, 40, False),
    "qwen3-32b": _qwen3(5120, 25600, 64, 64, False),
    "llama-3.1-8b": ModelConfig(
        128_256, 4096, 32, 32, 8, 128, 14336, rope_theta=500_000.0, rope_scaling=RopeScaling(),
        norm_eps=1e-5, qk_norm=False, tied_embeddings=False,
    ),
}  # fmt: skip


def preset(name: str) -> ModelConfig:
    """The named model in float32; UserError that lists the names."""
    if name.lower() not in PRESETS:
        raise UserError(f"no model is called {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name.lower()]
