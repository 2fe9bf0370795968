"""LoRA adapters as part of the parameters: separated, joined, merged into the weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from msm_jax.model.config import ModelConfig

ADAPTER = "lora_"  # begins the name of every leaf of an adapter


def only_adapter(params: dict) -> dict:
    """The tree of the adapter's leaves alone."""
    return _picked(params, True)


def without_adapter(params: dict) -> dict:
    """The tree without the adapter's leaves."""
    return _picked(params, False)


def join(first: Any, second: Any) -> Any:
    """Both trees in one; no leaf is in both."""
    if isinstance(first, tuple):
        return tuple(join(*pair) for pair in zip(first, second, strict=True))
    joined = dict(first)
    for name, leaf in second.items():
        joined[name] = join(joined[name], leaf) if name in joined else leaf
    return joined


def _picked(tree: Any, adapter: bool) -> Any:
    if isinstance(tree, tuple):
        layers = tuple(_picked(layer, adapter) for layer in tree)
        return layers if any(layers) else {}
    found = {}
    for name, leaf in tree.items():
        if isinstance(leaf, dict | tuple):
            if inner := _picked(leaf, adapter):
                found[name] = inner
        elif name.startswith(ADAPTER) == adapter:
            found[name] = leaf
    return found


def merge(config: ModelConfig, params: dict) -> tuple[ModelConfig, dict]:
    """The model with its adapter's contribution added to the weights, as in `merged_weight`.

    UserError if the weights are in 8 bits.
    """
    config.refuse_eight_bits("an adapter cannot be merged into them")

    def walk(tree: dict) -> dict:
        if "lora_a" in tree:
            return {**without_adapter(tree), "w": merged_weight(config.lora_scale, tree)}
        return {name: walk(leaf) if isinstance(leaf, dict) else leaf for name, leaf in tree.items()}

    return dataclasses.replace(config, lora_rank=0), walk(params)


def merged_weight(scale: float, projection: Mapping[str, Array]) -> Array:
    """w + scale * b a (Hu et al. 2021) of stacked layers, {"w", "lora_a", "lora_b"}.

    The sum is computed in float32, a layer at a time, and rounded to w's dtype once.
    """
    return _merged(scale, *(projection[name] for name in ("w", "lora_a", "lora_b")))


@jax.jit
def _merged(scale: Array, w_L: Array, a_L: Array, b_L: Array) -> Array:
    def layer(leaves: tuple) -> Array:
        w, a, b = leaves
        return (w.astype(jnp.float32) + scale * jnp.tensordot(b, a, 1)).astype(w.dtype)

    return jax.lax.map(layer, (w_L, a_L, b_L))
