"""Weights in another dtype."""

import jax

from msm_jax.model import ModelConfig, abstract_params
from msm_jax.model.adapter import join, only_adapter, without_adapter
from msm_jax.model.eightbit import from_eight_bits, to_eight_bits


def as_stored(config: ModelConfig, params: dict) -> dict:
    """Weights as the config stores them, converted one by one, each given up; an adapter stays as
    it is. From 8 bits come the numbers that the 8 bits stand for."""
    cast = jax.jit(lambda leaf, dtype: leaf.astype(dtype), static_argnums=1, donate_argnums=0)

    def walk(tree: dict, shapes: dict) -> dict:
        tree, scale = dict(tree), shapes.get("w_scale")
        if "w_scale" in tree and (scale is None or tree["w"].dtype != shapes["w"].dtype):
            tree["w"] = from_eight_bits(tree["w"], tree.pop("w_scale"), config.plain_dtype)
        if scale is not None and "w_scale" not in tree:
            tree |= to_eight_bits(tree["w"], config.param_dtype, scale.ndim)
        for name, leaf in tree.items():
            if isinstance(leaf, dict):
                tree[name] = walk(leaf, shapes[name])
            elif leaf.dtype != shapes[name].dtype:
                tree[name] = cast(leaf, shapes[name].dtype)
        return tree

    weights = walk(without_adapter(params), abstract_params(config))
    return join(weights, only_adapter(params))
