"""Rotary position embedding (Su et al. 2021) in the half-split form of Hugging Face checkpoints."""

import jax.numpy as jnp


def rotation_angles(positions_BT, head_dim, theta):
    """float32 angles_BTd of size head_dim // 2: position times theta ** (-2i / head_dim)."""
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    return positions_BT[..., None].astype(jnp.float32) * frequencies[None, None]


def rotate(x_BTHd, angles_BTd):
    """Rotate each pair (x[i], x[i + d/2]) of every head by its angle, in float32."""
    cos, sin = jnp.cos(angles_BTd)[:, :, None], jnp.sin(angles_BTd)[:, :, None]
    first, second = jnp.split(x_BTHd.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BTHd.dtype)
