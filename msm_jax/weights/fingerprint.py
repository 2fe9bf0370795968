"""One fingerprint of weights: for identities, for parents, and for the checksums of checkpoints.

Every element's bits and its position are hashed together, and the hashes are summed as integers. A
sum does not depend on the order, so shards of a mesh may be added in any; an element in another
position has another hash, so permuted layers, a transposed matrix or two swapped numbers are found.
"""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FIRST = np.uint32(0)
_PLACE = np.uint32(0x9E3779B1)  # odd; the first prime of xxHash32


def checksums(tree: Any) -> dict[str, int]:
    """path -> uint32 that changes with any bit of the array, and with any element's position.

    It depends on the numbers alone: it is the same on every mesh, and the same for a bfloat16 array
    and for that array widened to float32.
    """
    return dict(zip(named_leaves(tree), _on_host(_hashes(tree, FIRST)), strict=True))


def params_fingerprint(params: dict) -> str:
    """16 hex digits of all weights: their names, shapes, and every bit in its position.

    It depends on the numbers alone: it is the same on every mesh, for stacked and unstacked layers
    (`decode.unstacked`), and for bfloat16 weights and the same widened to float32. Weights rounded
    to bfloat16 are other numbers, with another fingerprint.
    """
    hashes, shapes = _hashes(params, FIRST), jax.tree.map(np.shape, params)
    if isinstance(params.get("layers"), tuple):
        layers = [_hashes(layer, np.uint32(i)) for i, layer in enumerate(params["layers"])]
        stack = lambda *shapes: (len(shapes), *shapes[0])
        hashes["layers"] = jax.tree.map(lambda *found: sum(found[1:], found[0]), *layers)
        shapes["layers"] = jax.tree.map(
            stack, *shapes["layers"], is_leaf=lambda x: isinstance(x, tuple)
        )
    sizes = jax.tree.leaves(shapes, is_leaf=lambda x: isinstance(x, tuple))
    digest = hashlib.sha256()
    for name, shape, found in zip(named_leaves(hashes), sizes, _on_host(hashes), strict=True):
        digest.update(f"{name} {list(shape)} {found}\n".encode())
    return digest.hexdigest()[:16]


def named_leaves(tree: Any) -> dict[str, Any]:
    """path -> leaf, in the order of the tree; a path is its keys joined by slashes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _on_host(hashes: Any) -> list[int]:
    return [int(found) for found in jax.device_get(jax.tree.leaves(hashes))]


@jax.jit
def _hashes(tree, layer):
    """One program: of several, each with sums over devices, hosts may begin another one first."""
    return jax.tree.map(lambda leaf: _hash(leaf, layer), tree)


def _hash(leaf, layer):
    """Sum over elements of murmur3's finalizer (Appleby 2011) of the element's bits and position.

    The place is a polynomial of the indices, and not their row-major number, which would wrap
    around in stacks of more than 2**32 elements. An unstacked layer's number is its first index.
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
