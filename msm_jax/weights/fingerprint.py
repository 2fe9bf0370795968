"""One fingerprint of weights: for identities, for parents, and for the checksums of checkpoints.

Every element's bits and its place are hashed together, and the hashes are summed as integers. A
sum has no order, so a mesh may add its parts as it likes; an element in another place has another
hash, so permuted layers, a transposed matrix or two swapped numbers are other weights.
"""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_PLACE = np.uint32(0x9E3779B1)  # odd; the first prime of xxHash32


def checksums(tree: Any) -> dict[str, int]:
    """path -> uint32 that changes with any bit of the array, and with any element's place.

    It is a function of the numbers: the same on every mesh, and the same for a bfloat16 array and
    for that array widened to float32.
    """
    return dict(zip(_names(tree), _on_host(_hashes(tree)), strict=True))


def params_fingerprint(params: dict) -> str:
    """16 hex digits of all weights: their names, shapes, and every bit in its place.

    It is a function of the numbers: the same on every mesh, whether layers are stacked or apart
    (`decode.unstacked`), and for bfloat16 weights also when they are widened to float32. Weights
    that were rounded to bfloat16 are other numbers, with another fingerprint.
    """
    hashes, shapes = _hashes(params), jax.tree.map(np.shape, params)
    if isinstance(params.get("layers"), tuple):
        layers = [_hashes(layer, number) for number, layer in enumerate(params["layers"])]
        stack = lambda *shapes: (len(shapes), *shapes[0])
        hashes["layers"] = jax.tree.map(lambda *found: sum(found[1:], found[0]), *layers)
        shapes["layers"] = jax.tree.map(
            stack, *shapes["layers"], is_leaf=lambda x: isinstance(x, tuple)
        )
    sizes = jax.tree.leaves(shapes, is_leaf=lambda x: isinstance(x, tuple))
    digest = hashlib.sha256()
    for name, shape, found in zip(_names(hashes), sizes, _on_host(hashes), strict=True):
        digest.update(f"{name} {list(shape)} {found}\n".encode())
    return digest.hexdigest()[:16]


def _names(tree: Any) -> list[str]:
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]


def _on_host(hashes: Any) -> list[int]:
    return [int(found) for found in jax.device_get(jax.tree.leaves(hashes))]


def _hashes(tree: Any, layer: int = 0) -> Any:
    return _hash_all(tree, np.uint32(layer))


@jax.jit
def _hash_all(tree, layer):
    """One program: of several, each with sums over devices, hosts may begin another one first."""
    return jax.tree.map(lambda leaf: _hash(leaf, layer), tree)


def _hash(leaf, layer):
    """Sum over elements of murmur3's finalizer (Appleby 2011) of the element's bits and place.

    The place is a polynomial of the indices, and not their row-major number, which would wrap
    around in stacks of more than 2**32 elements. A layer apart has its number as first index.
    """
    place = jnp.broadcast_to(layer * _PLACE, leaf.shape)
    for axis in range(leaf.ndim):
        place = (place + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)) * _PLACE
    mixed = _bits(leaf) ^ place
    mixed = (mixed ^ (mixed >> 16)) * np.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * np.uint32(0xC2B2AE35)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)


def _bits(leaf):
    """uint32, of float32's bits where the leaf has floating point."""
    if leaf.dtype == jnp.bfloat16:  # as integers, since a conversion may flush tiny numbers
        return jax.lax.bitcast_convert_type(leaf, jnp.uint16).astype(jnp.uint32) << 16
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        return jax.lax.bitcast_convert_type(leaf.astype(jnp.float32), jnp.uint32)
    return leaf.astype(jnp.uint32)
