"""Floating-point operations of training, and what devices can do: for `mfu` and benchmarks."""

from collections.abc import Sequence

import jax

from msm_jax import accelerators
from msm_jax.model import ModelConfig, abstract_params
from msm_jax.train.optimizer import split_params


def flops_per_token(config: ModelConfig, length: int, trainable: str = "all") -> float:
    """Operations of one training step per token.

    The usual convention (Kaplan et al. 2020, Chowdhery et al. 2022): 6 per weight that a matrix
    product reads (4 where it is frozen: no gradient of its own), plus 12 H d per layer and key of
    causal attention, of which a row of `length` tokens sees half on average. Looking up the
    embedding is free; so is recomputation, which does nothing for the user.
    """
    trained, frozen = split_params(abstract_params(config), trainable)
    products = 6 * _read_weights(trained, config) + 4 * _read_weights(frozen, config)
    return products + 12 * config.layers * config.heads * config.head_dim * length / 2


def _read_weights(tree: dict, config: ModelConfig) -> int:
    count = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        names = [key.key for key in path]
        looked_up = names[0] == "embed" and not config.tied_embeddings
        if names[-1] in ("w", "lora_a", "lora_b") and not looked_up:
            count += leaf.size
    return count


def peak_flops(devices: Sequence[jax.Device]) -> float | None:
    """Dense bfloat16 FLOP/s of all devices together; None for what accelerators.tsv lacks."""
    kind = accelerators.find(devices[0].device_kind)
    return kind.flops * len(devices) if kind else None
