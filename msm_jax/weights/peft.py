"""LoRA adapters as PEFT writes them: adapter_config.json and adapter_model.safetensors.

What PEFT offers and the decoder does not compute is refused by name.
"""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp

from msm_jax.errors import UserError
from msm_jax.model import ModelConfig
from msm_jax.model.config import PROJECTIONS
from msm_jax.weights import keys
from msm_jax.weights.hf_config import read_json
from msm_jax.weights.huggingface import EMBEDDING, HEAD, check, in_lines, read_params
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
# Ways to begin that leave the base model's weights as they are; PiSSA and others change them.
_BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva")
_MATCHING_SECONDS = 10  # that a pattern of target_modules may take; others need a thousandth
_ELSEWHERE = (
    "; merge it with peft where it was made (merge_and_unload, save_pretrained) and load what that "
    "gives as a checkpoint"
)


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
    rank, alpha = settings.get("r"), keys.finite(settings.get("lora_alpha"))
    if not (isinstance(rank, int) and not isinstance(rank, bool) and 0 < rank < 2**31):
        problems.append(f"r {keys.shown(rank)}: a whole number above 0 is needed")
        rank = 1
    if alpha is None:
        problems.append(f"lora_alpha {keys.shown(settings.get('lora_alpha'))}: a number is needed")
    elif alpha == 0:
        problems.append("lora_alpha 0: the adapter would do nothing; leave it out, or correct it")
    if settings.get("bias", "none") != "none":
        problems.append(f"bias {settings['bias']!r}: only none")
    if settings.get("init_lora_weights") not in _BEGINNINGS:
        problems.append(f"init_lora_weights {settings['init_lora_weights']!r} is not supported")
    problems += keys.ADAPTER.problems(settings)
    layer = settings.get("layers_to_transform")
    if layer == 0 and layer is not False:  # the first one, as PEFT reads it
        problems.append("layers_to_transform 0 is not supported")
    for key, value in keys.ADAPTER.unknown(settings).items():
        problems.append(f"{key} {keys.shown(value)} is not supported")
    targets = _targets(settings, config.layers, problems)
    if problems:
        elsewhere = any("not supported" in each or "only" in each for each in problems)
        raise UserError(f"{where}: " + "; ".join(problems) + elsewhere * _ELSEWHERE)
    assert alpha is not None
    if settings.get("use_rslora"):
        alpha = alpha * math.sqrt(rank)
    return dataclasses.replace(config, lora_rank=rank, lora_alpha=alpha, lora_targets=targets)


def _targets(settings: dict, layers: int, problems: list[str]) -> tuple[str, ...]:
    """Our names of the projections that `target_modules` picks, by PEFT's own rule of matching."""
    wanted: Any = settings.get("target_modules")
    excluded: Any = settings.get("exclude_modules") or []
    for name, value in (("target_modules", wanted), ("exclude_modules", excluded)):
        if not isinstance(value, str | list) or (name == "target_modules" and not value):
            problems.append(f"{name} {value!r}: a list of names or a pattern is needed")
            return ()
    if wanted == "all-linear":
        wanted = [f"{name}_proj" for name in PROJECTIONS]
    if isinstance(wanted, list):
        last = {str(name).rpartition(".")[2] for name in wanted}
        if strange := sorted(last - {f"{name}_proj" for name in PROJECTIONS}):
            problems.append(f"target_modules has {strange}: only projections of the layers")
    block = lambda name: "mlp" if name in ("gate", "up", "down") else "self_attn"
    modules = [
        f"model.layers.{i}.{block(name)}.{name}_proj" for name in PROJECTIONS for i in range(layers)
    ]
    picked: dict[str, list[bool]] = {}
    for key, value in (("target_modules", wanted), ("exclude_modules", excluded)):
        try:
            picked[key] = _picked(value, modules)
        except ValueError as error:
            problems.append(f"{key} {keys.shown(value)}: {error}")
            return ()
    hit = [some and not none for some, none in zip(*picked.values(), strict=True)]
    found = []
    for number, name in enumerate(PROJECTIONS):
        hits = hit[number * layers : (number + 1) * layers]
        if all(hits):
            found.append(name)
        elif any(hits):
            problems.append(f"target_modules {wanted!r}: picks {name}_proj in some layers only")
    if not found and not problems:
        problems.append(f"target_modules {wanted!r}: picks no projection of the layers")
    return tuple(found)


def _picked(wanted: str | list, modules: list[str]) -> list[bool]:
    """Which modules are meant; ValueError for a pattern that cannot be used."""
    if isinstance(wanted, list):
        hit = lambda module, name: module == name or module.endswith(f".{name}")
        return [any(hit(module, name) for name in wanted) for module in modules]
    # In a process of its own, which can be ended: some patterns take for ever.
    match = (
        "import json, re, sys; pattern, modules = json.load(sys.stdin); "
        "print(json.dumps([re.fullmatch(pattern, m) is not None for m in modules]))"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", match],
            input=json.dumps([wanted, modules]),
            capture_output=True,
            text=True,
            timeout=_MATCHING_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"not matched within {_MATCHING_SECONDS} seconds") from error
    if done.returncode:
        raise ValueError(done.stderr.strip().rpartition("\n")[2])
    return json.loads(done.stdout)


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
    params = read_params(config, adapter_entries(config), tensors, "float32", mesh)
    _check_numbers(path, params)
    return config, params


def _check_numbers(path: pathlib.Path, params: dict) -> None:
    """UserError where numbers are not finite; a warning where the adapter does nothing."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    bad, largest = jax.device_get(_measures([leaf for _, leaf in leaves]))
    names = [jax.tree_util.keystr(place, simple=True, separator="/") for place, _ in leaves]
    wrong = [
        f"{name}, layer {layer}: {count} of its numbers are not finite"
        for name, counts in zip(names, bad, strict=True)
        for layer, count in enumerate(counts)
        if count
    ]
    if wrong:
        raise UserError(
            f"{path}: the adapter is damaged, or its training had diverged:\n  " + in_lines(wrong)
        )
    if not any(size for name, size in zip(names, largest, strict=True) if name.endswith("lora_b")):
        warnings.warn(
            f"{path}: the adapter does nothing: all its lora_B are zero, as before training",
            stacklevel=3,
        )


@jax.jit
def _measures(leaves):
    """Of each leaf the count of numbers that are not finite, per layer, and its largest size."""
    count = lambda leaf: jnp.sum(~jnp.isfinite(leaf), axis=range(1, leaf.ndim), dtype=jnp.int32)
    return [count(leaf) for leaf in leaves], [jnp.max(jnp.abs(leaf)) for leaf in leaves]


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
    if beside := [name for name in (EMBEDDING, HEAD) if name in tensors]:
        shapes = ", ".join(f"{name} of shape {list(tensors[name].shape)}" for name in beside)
        raise UserError(
            f"{path}: holds {shapes} beside the adapter: the vocabulary was resized (the model has "
            f"{config.vocab_size} rows), or embeddings were trained too, which is not supported"
            + _ELSEWHERE
        )
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
