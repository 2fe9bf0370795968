"""LoRA adapters as PEFT writes them: adapter_config.json and adapter_model.safetensors.

What PEFT offers and the decoder does not compute is refused by name.
"""

import dataclasses
import math
import os
import pathlib
import re
from typing import Any

import jax

from msm_jax.errors import UserError
from msm_jax.model import ModelConfig
from msm_jax.model.config import PROJECTIONS
from msm_jax.weights.hf_config import read_json
from msm_jax.weights.huggingface import check, in_lines, read_params
from msm_jax.weights.names import Entry, entries
from msm_jax.weights.tensor_files import Stored, find_tensors
from msm_jax.weights.writing import (
    host_array,
    merged,
    new_directory,
    pieces,
    write_json,
    write_tensors,
)

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every tensor, before its name in the base model
# Keys that say nothing of what is computed, or only how training begins or goes.
_IDLE = {
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "lora_dropout", "megatron_core", "qalora_group_size",
    "layers_pattern", "runtime_config", "ensure_weight_tying",
}  # fmt: skip
_READ = {
    "peft_type", "r", "lora_alpha", "target_modules", "use_rslora", "bias", "init_lora_weights",
}  # fmt: skip
# Ways to begin that leave the base model's weights as they are; PiSSA and others change them.
_BEGINNINGS = (True, False, None, "gaussian", "orthogonal")


def adapted(config: ModelConfig, settings: dict, where: str = CONFIG_FILE) -> ModelConfig:
    """The model with the adapter that an adapter_config.json describes.

    PEFT scales an adapter's output by alpha / r, or with `use_rslora` by alpha / sqrt(r)
    (Kalajdzievski 2023); the second becomes the alpha that gives the same with the first.

    Raises:
      UserError: listing every key that is malformed or asks for what the decoder does not do.
    """
    problems = []
    if settings.get("peft_type") != "LORA":
        problems.append(f"peft_type {settings.get('peft_type')!r}: only LORA")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not (isinstance(rank, int) and not isinstance(rank, bool) and rank > 0):
        problems.append(f"r {rank!r}: a whole number above 0 is needed")
    if isinstance(alpha, bool) or not (isinstance(alpha, int | float) and math.isfinite(alpha)):
        problems.append(f"lora_alpha {alpha!r}: a number is needed")
    if settings.get("bias", "none") != "none":
        problems.append(f"bias {settings['bias']!r}: only none")
    if settings.get("init_lora_weights") not in _BEGINNINGS:
        problems.append(f"init_lora_weights {settings['init_lora_weights']!r} is not supported")
    for key, value in settings.items():
        if key not in _IDLE | _READ and value:
            problems.append(f"{key} {value!r} is not supported")
    targets = _targets(settings.get("target_modules"), config.layers, problems)
    if problems:
        raise UserError(f"{where}: " + "; ".join(problems))
    assert isinstance(rank, int) and isinstance(alpha, int | float)
    if settings.get("use_rslora"):
        alpha = alpha * math.sqrt(rank)
    return dataclasses.replace(
        config, lora_rank=rank, lora_alpha=float(alpha), lora_targets=targets
    )


def _targets(wanted: Any, layers: int, problems: list[str]) -> tuple[str, ...]:
    """Our names of the projections that `target_modules` picks, by PEFT's own rule of matching."""
    if wanted == "all-linear":
        return PROJECTIONS
    if not isinstance(wanted, str | list) or not wanted:
        problems.append(f"target_modules {wanted!r}: a list of names or a pattern is needed")
        return ()

    def picked(module: str) -> bool:
        if isinstance(wanted, str):
            return re.fullmatch(wanted, module) is not None
        return any(module == name or module.endswith(f".{name}") for name in wanted)

    if isinstance(wanted, list):
        last = {str(name).rpartition(".")[2] for name in wanted}
        if strange := sorted(last - {f"{name}_proj" for name in PROJECTIONS}):
            problems.append(f"target_modules has {strange}: only projections of the layers")
    found = []
    for name in PROJECTIONS:
        block = "mlp" if name in ("gate", "up", "down") else "self_attn"
        try:
            hits = [picked(f"model.layers.{i}.{block}.{name}_proj") for i in range(layers)]
        except (re.error, RecursionError) as error:
            problems.append(f"target_modules {wanted!r}: {error}")
            return ()
        if all(hits):
            found.append(name)
        elif any(hits):
            problems.append(f"target_modules {wanted!r}: picks {name}_proj in some layers only")
    if not found and not problems:
        problems.append(f"target_modules {wanted!r}: picks no projection of the layers")
    return tuple(found)


def load_adapter(
    directory: str | os.PathLike, config: ModelConfig, mesh=None
) -> tuple[ModelConfig, dict]:
    """An adapter for a model.

    Args:
      directory: with adapter_config.json and adapter_model.safetensors.
      config: of the model; an adapter that it says it has is left out of account.
      mesh: as for `load_checkpoint`.

    Returns:
      (the config with the adapter's rank, alpha and targets; a tree of float32 lora_a and lora_b
      alone, which `adapter.join` puts into a model's parameters).

    Raises:
      UserError: as `load_checkpoint`; nothing has been read by then.
    """
    path = pathlib.Path(directory)
    config = adapted(config, read_json(path / CONFIG_FILE), str(path / CONFIG_FILE))
    tensors = find_adapter(path, config)
    return config, read_params(config, adapter_entries(config), tensors, "float32", mesh)


def find_adapter(directory: str | os.PathLike, config: ModelConfig) -> dict[str, Stored]:
    """Where an adapter's tensors lie, by their names in the base model.

    Raises:
      UserError: listing all that is missing, unknown or of a wrong shape or dtype.
    """
    path = pathlib.Path(directory)
    if not (path / WEIGHTS_FILE).exists() and list(path.glob("adapter_model.*")):
        raise UserError(f"{path}: only {WEIGHTS_FILE} is read: pickled weights can run code")
    found = find_tensors(path, WEIGHTS_FILE)
    tensors = {name.removeprefix(PREFIX): stored for name, stored in found.items()}
    if problems := check(adapter_entries(config), tensors, tied=False):
        raise UserError(f"{path}: does not fit the model:\n  " + in_lines(problems))
    return tensors


def adapter_entries(config: ModelConfig) -> list[Entry]:
    """The adapter's parameters, in the order of the tree; their names are without `PREFIX`."""
    return [entry for entry in entries(config) if entry.path[-1].startswith("lora_")]


def save_adapter(
    directory: str | os.PathLike,
    config: ModelConfig,
    params: dict,
    base: str | None = None,
    rslora: bool = False,
) -> None:
    """Write a model's adapter where `peft` and vLLM can load it.

    Args:
      directory: that does not exist or is empty; it appears when it is complete.
      config, params: of the model; everything but the adapter is left out.
      base: name or path of the base model, for those who load the adapter.
      rslora: write the scale as alpha / sqrt(r).

    Raises:
      UserError: a model without an adapter, or a directory that holds something.
    """
    if not config.lora_rank:
        raise UserError(f"{directory}: the model has no adapter to save")
    alpha = config.lora_alpha / (math.sqrt(config.lora_rank) if rslora else 1)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.lora_rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "target_modules": [f"{name}_proj" for name in PROJECTIONS if name in config.lora_targets],
        "use_rslora": rslora,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
    }
    wanted = [
        dataclasses.replace(piece, name=PREFIX + piece.name)
        for piece in pieces(adapter_entries(config))
    ]
    arrays = (host_array(piece, config, params, "float32") for piece in wanted)
    with new_directory(directory) as aside:
        write_tensors(aside / WEIGHTS_FILE, wanted, "float32", arrays)
        write_json(aside / CONFIG_FILE, settings)


def merge(config: ModelConfig, params: dict) -> tuple[ModelConfig, dict]:
    """The model with its adapter's contribution added to the weights: w + alpha / r * b a.

    The sum is made in float32, a layer at a time, and rounded to the weights' dtype once.
    """

    def walk(tree: dict) -> dict:
        if "lora_a" in tree:
            kept = {name: leaf for name, leaf in tree.items() if not name.startswith("lora_")}
            w = _merged(config.lora_scale, tree["w"], tree["lora_a"], tree["lora_b"])
            return {**kept, "w": w}
        return {name: walk(leaf) if isinstance(leaf, dict) else leaf for name, leaf in tree.items()}

    return dataclasses.replace(config, lora_rank=0), walk(params)


@jax.jit
def _merged(scale, w_L, a_L, b_L):
    return jax.lax.map(lambda layer: merged(scale, *layer), (w_L, a_L, b_L))
