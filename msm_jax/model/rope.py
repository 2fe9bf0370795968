"""Rotary position embedding (Su et al. 2021) in the half-split form of Hugging Face checkpoints."""

import dataclasses
import math

import jax.numpy as jnp
from jax import Array


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's scaling of low frequencies (Grattafiori et al. 2024; "llama3" in config.json).

    Attributes:
      factor: by which frequencies are divided whose wave is longer than
        original_length / low_freq_factor tokens; waves shorter than
        original_length / high_freq_factor stay, those between are interpolated.
      original_length: of the rows that the model was first trained on, in tokens.
    """

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192


def frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> Array:
    """float32[head_dim // 2] angle per position: theta ** (-2i / head_dim), then scaled."""
    plain = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if scaling is None:
        return plain
    turns = scaling.original_length * plain / (2 * math.pi)  # within the original length
    span = scaling.high_freq_factor - scaling.low_freq_factor
    kept = jnp.clip((turns - scaling.low_freq_factor) / span, 0.0, 1.0)
    return plain * (kept + (1 - kept) / scaling.factor)


def rotation_angles(
    positions_BT: Array, head_dim: int, theta: float, scaling: RopeScaling | None = None
) -> Array:
    """float32 angles_BTd of size head_dim // 2: position times frequency."""
    per_position_d = frequencies(head_dim, theta, scaling)
    return positions_BT[..., None].astype(jnp.float32) * per_position_d[None, None]


def rotate(x_BTHd: Array, angles_BTd: Array) -> Array:
    """Rotate each pair (x[i], x[i + d/2]) of every head by its angle, in float32."""
    cos, sin = jnp.cos(angles_BTd)[:, :, None], jnp.sin(angles_BTd)[:, :, None]
    first, second = jnp.split(x_BTHd.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BTHd.dtype)
