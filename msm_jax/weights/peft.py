"""LoRA adapters as PEFT writes them: adapter_config.json and adapter_model.safetensors.

Options of PEFT that the decoder does not compute are refused by name.
"""

import dataclasses
import json
import math
import os
import pathlib
import warnings
from typing import Any

import jax
import numpy as np

from msm_jax.data.tokenizer_patterns import run_apart
from msm_jax.errors import UserError
from msm_jax.files import read_object
from msm_jax.limits import MATCHING_SECONDS, PATTERN_CHARACTERS
from msm_jax.model import ModelConfig
from msm_jax.model.config import PROJECTIONS
from msm_jax.weights import keys
from msm_jax.weights.huggingface import EMBEDDING, HEAD, check, not_finite, read_params
from msm_jax.weights.names import Entry, entries
from msm_jax.weights.tensor_files import Stored, find_tensors, in_lines
from msm_jax.weights.writing import host_array, new_directory, pieces, write_json, write_tensors

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every tensor, before its name in the base model
# Initializations that leave the base model's weights as they are; PiSSA and others change them.
_INITIALIZATIONS = (True, False, None, "gaussian", "orthogonal", "eva")
_MERGE_FIRST = (
    "; merge it with peft where it was made (merge_and_unload, save_pretrained) and load the "
    "result as a checkpoint"
)


def adapted(config: ModelConfig, settings: dict, where: str = CONFIG_FILE) -> ModelConfig:
    """The model with the adapter that an adapter_config.json describes.

    PEFT scales an adapter's output by alpha / r, or with `use_rslora` by alpha / sqrt(r)
    (Kalajdzievski 2023), which becomes the alpha that gives the same scale without it. UserError
    lists every key that is malformed or not supported.
    """
    problems = []
    if settings.get("peft_type") != "LORA":
        problems.append(f"peft_type {keys.shown(settings.get('peft_type'))}: only LORA")
    rank: Any = settings.get("r")
    alpha: Any = settings.get("lora_alpha")
    if type(rank) is not int or not 0 < rank < 2**31:
        problems.append(f"r {keys.shown(rank)}: a whole number above 0 is needed")
        rank = 1
    if (
        type(alpha) not in (int, float) or not abs(alpha) < 1e30
    ):  # with any rank float32 can hold it
        problems.append(f"lora_alpha {keys.shown(alpha)}: a number is needed")
    elif alpha == 0:
        problems.append("lora_alpha 0: the adapter would do nothing; leave it out, or correct it")
    elif alpha < 0:
        problems.append(f"lora_alpha {alpha:g}: a number above 0 is needed")
    if settings.get("bias", "none") != "none":
        problems.append(f"bias {keys.shown(settings['bias'])}: only none")
    if settings.get("init_lora_weights") not in _INITIALIZATIONS:
        how = keys.shown(settings["init_lora_weights"])
        problems.append(f"init_lora_weights {how} is not supported")
    problems += keys.ADAPTER.problems(settings)
    layer = settings.get("layers_to_transform")
    if layer == 0 and layer is not False:  # the first one, as PEFT reads it
        problems.append("layers_to_transform 0 is not supported")
    for key, value in keys.ADAPTER.unknown(settings).items():
        problems.append(f"{key} {keys.shown(value)} is not supported")
    targets = _targets(settings, config.layers, problems)
    if problems:
        unsupported = any("not supported" in each or "only" in each for each in problems)
        raise UserError(f"{where}: " + "; ".join(problems) + unsupported * _MERGE_FIRST)
    alpha *= math.sqrt(rank) if settings.get("use_rslora") else 1.0
    return dataclasses.replace(config, lora_rank=rank, lora_alpha=alpha, lora_targets=targets)


def _targets(settings: dict, layers: int, problems: list[str]) -> tuple[str, ...]:
    """The projections that `target_modules` matches, by PEFT's rule, in our names."""
    wanted: Any = settings.get("target_modules")
    excluded: Any = settings.get("exclude_modules") or []
    for name, value in (("target_modules", wanted), ("exclude_modules", excluded)):
        if not isinstance(value, str | list) or (name == "target_modules" and not value):
            problems.append(f"{name} {keys.shown(value)}: a list of names or a pattern is needed")
            return ()
    if wanted == "all-linear":
        wanted = [f"{name}_proj" for name in PROJECTIONS]
    if isinstance(wanted, list):
        last = {str(name).rpartition(".")[2] for name in wanted}
        if strange := sorted(last - {f"{name}_proj" for name in PROJECTIONS}):
            problems.append(
                f"target_modules has {keys.shown(strange)}: only projections of the layers"
            )
    block = lambda name: "mlp" if name in ("gate", "up", "down") else "self_attn"
    modules = {
        name: {f"model.layers.{i}.{block(name)}.{name}_proj" for i in range(layers)}
        for name in PROJECTIONS
    }
    picked: dict[str, set[str]] = {}
    for key, value in (("target_modules", wanted), ("exclude_modules", excluded)):
        try:
            picked[key] = _picked(value, set().union(*modules.values()))
        except ValueError as error:
            problems.append(f"{key} {keys.shown(value)}: {error}")
            return ()
    hits, shown = picked["target_modules"] - picked["exclude_modules"], keys.shown(wanted)
    found = [name for name in PROJECTIONS if modules[name] <= hits]
    for name in PROJECTIONS:
        if name not in found and modules[name] & hits:
            problems.append(f"target_modules {shown}: picks {name}_proj in some layers only")
    if not found and not problems:
        problems.append(f"target_modules {shown}: picks no projection of the layers")
    return tuple(found)


def _picked(wanted: str | list, modules: set[str]) -> set[str]:
    """The modules that these names or this pattern match; ValueError for an invalid pattern."""
    if isinstance(wanted, list):  # of ends of names, at a dot
        names = {name for name in wanted if isinstance(name, str)}
        ends = lambda module: (module.split(".", n)[-1] for n in range(module.count(".") + 1))
        return {module for module in modules if not names.isdisjoint(ends(module))}
    if len(wanted) > PATTERN_CHARACTERS:
        raise ValueError(f"has more characters than {PATTERN_CHARACTERS}")
    # Some patterns take for ever.
    match = (
        "import json, re, sys; pattern, modules = json.load(sys.stdin); "
        "print(json.dumps([m for m in modules if re.fullmatch(pattern, m)]))"
    )
    return {*json.loads(run_apart(match, [wanted, [*modules]], MATCHING_SECONDS))}


def load_adapter(
    directory: str | os.PathLike, config: ModelConfig, mesh: jax.sharding.Mesh | None = None
) -> tuple[ModelConfig, dict]:
    """(config with an adapter's rank, alpha and targets; tree of float32 lora_a and lora_b alone).

    `adapter.join` puts the tree into a model's parameters. An adapter that `config` already has is
    ignored; `mesh` is as for `load_checkpoint`, errors as of `find_adapter`.
    """
    path = pathlib.Path(directory)
    config = adapted(config, read_object(path / CONFIG_FILE), str(path / CONFIG_FILE))
    tensors = find_adapter(path, config)
    if not any(np.any(t.read()) for name, t in tensors.items() if name.endswith("lora_B.weight")):
        warnings.warn(
            f"{path}: the adapter does nothing: all its lora_B are zero, as before training",
            stacklevel=2,
        )
    return config, read_params(config, adapter_entries(config), tensors, "float32", mesh)


def find_adapter(directory: str | os.PathLike, config: ModelConfig) -> dict[str, Stored]:
    """An adapter's tensors on disk, by their names in the base model; UserError lists all that are
    missing, unknown, not finite, or of a wrong shape or dtype."""
    path = pathlib.Path(directory)
    if not (path / WEIGHTS_FILE).exists() and list(path.glob("adapter_model.*")):
        raise UserError(f"{path}: only {WEIGHTS_FILE} is read: pickled weights can run code")
    found = find_tensors(path, WEIGHTS_FILE)
    tensors = {name.removeprefix(PREFIX): stored for name, stored in found.items()}
    if beside := [name for name in (EMBEDDING, HEAD) if name in tensors]:
        shapes = ", ".join(f"{name} of shape {list(tensors[name].shape)}" for name in beside)
        raise UserError(
            f"{path}: holds {shapes} beside the adapter: the vocabulary was resized (the model has "
            f"{config.vocab_size} rows), or embeddings were trained too, which is not supported"
            + _MERGE_FIRST
        )
    if problems := check(adapter_entries(config), tensors, tied=False):
        raise UserError(f"{path}: does not fit the model:\n  " + in_lines(problems))
    if damaged := not_finite(tensors):
        raise UserError(
            f"{path}: the adapter is damaged, or its training had diverged:\n  " + in_lines(damaged)
        )
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
    """Write a model's adapter where `peft` and vLLM can load it, in a new or empty directory.

    `base` is the name or path of the base model; `rslora` writes the scale as alpha / sqrt(r).
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
    with new_directory(directory) as temporary:
        write_tensors(temporary / WEIGHTS_FILE, wanted, "float32", arrays)
        write_json(temporary / CONFIG_FILE, settings)
