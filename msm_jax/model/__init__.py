"""The decoder. It knows neither files nor text, and imports no other room of the package."""

from msm_jax.model.config import ModelConfig
from msm_jax.model.decoder import (
    abstract_params,
    forward,
    head_weights,
    init_params,
    logical_axes,
    logits,
)
from msm_jax.model.presets import PRESETS, preset
from msm_jax.model.rope import RopeScaling
from msm_jax.model.sharding import batch_sharding, make_mesh, param_shardings, placed

__all__ = [
    "PRESETS",
    "ModelConfig",
    "RopeScaling",
    "abstract_params",
    "batch_sharding",
    "forward",
    "head_weights",
    "init_params",
    "logical_axes",
    "logits",
    "make_mesh",
    "param_shardings",
    "placed",
    "preset",
]
