"""Frozen weights in 8 bits: each is a small number times a scale that its output channel has.

Only weights are stored so. A product multiplies activations by the small numbers, which its dtype
holds exactly, and its result by the scales: w x = scale * (q x).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

EIGHT_BITS = {"int8": jnp.int8, "float8": jnp.float8_e4m3fn}
_SMALLEST = 2.0**-100  # scale of a channel; below it a channel is zero


def quantized(w: Array, kind: str, channel_axes: int) -> tuple[Array, Array]:
    """(q, scale) with w ≈ scale * q; the leading `channel_axes` axes number the output channels.

    w is rounded to bfloat16 first. The scale is bfloat16. For "int8" it is the channel's largest
    magnitude over 127, and q is rounded to the nearest, halves away from zero. For "float8" (e4m3:
    4 bits of exponent, 3 of mantissa) it is a power of two that puts that magnitude below 256.
    The result is the same to the last bit on every chip: products and differences here are exact.
    """
    # Not two casts, of which XLA makes none on a GPU ("excess precision").
    to_bfloat16 = functools.partial(jax.lax.reduce_precision, exponent_bits=8, mantissa_bits=7)
    w = to_bfloat16(w.astype(jnp.float32))
    top = jnp.max(jnp.abs(w), tuple(range(channel_axes, w.ndim)), keepdims=True)
    if kind == "int8":
        scale = to_bfloat16(jnp.maximum(top * (1 / 127), _SMALLEST))
        # Chips divide with errors: the remainder, which is exact, decides.
        size = jnp.floor(jnp.abs(w) / scale)
        size += jnp.abs(w) - size * scale >= scale / 2
        q = jnp.sign(w) * jnp.minimum(size, 127)
    else:
        exponent = jnp.frexp(jnp.maximum(top, _SMALLEST))[1] - 8
        scale = jnp.ldexp(jnp.float32(1), exponent)
        q = w * jnp.ldexp(jnp.float32(1), -exponent)
    return q.astype(EIGHT_BITS[kind]), scale.reshape(w.shape[:channel_axes]).astype(jnp.bfloat16)


def to_eight_bits(w_L: Array, kind: str, channel_axes: int) -> dict[str, Array]:
    """{"w", "w_scale"} of stacked layers in place of w_L, which is deleted.

    A scale is on the device of its channel. `channel_axes` counts that of the layers too.
    """
    places: Any = (w_L.sharding, w_L.sharding)
    if isinstance(w_L.sharding, NamedSharding):
        spec = PartitionSpec(*w_L.sharding.spec[:channel_axes])
        places = w_L.sharding, NamedSharding(w_L.sharding.mesh, spec)
    q_L, scale_L = _quantizer(kind, channel_axes, places)(w_L)
    jax.block_until_ready((q_L, scale_L))
    w_L.delete()
    return {"w": q_L, "w_scale": scale_L}


@functools.cache
def _quantizer(kind: str, channel_axes: int, places: Any) -> Any:
    """`quantized` for stacked layers, one function for all weights that are placed alike."""
    one = functools.partial(quantized, kind=kind, channel_axes=channel_axes - 1)
    return jax.jit(functools.partial(jax.lax.map, one), out_shardings=places)


@functools.partial(jax.jit, static_argnums=2)
def from_eight_bits(q: Array, scale: Array, dtype: str) -> Array:
    """scale * q, rounded to this dtype once."""
    scale = scale.reshape(*scale.shape, *[1] * (q.ndim - scale.ndim))
    return (scale.astype(jnp.float32) * q.astype(jnp.float32)).astype(dtype)
