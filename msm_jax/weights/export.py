"""Parameters into a Hugging Face checkpoint directory, or into a run directory of ours."""

import os
import pathlib
import shutil

import jax
import numpy as np

from msm_jax.errors import UserError
from msm_jax.model import ModelConfig
from msm_jax.weights import checkpoints
from msm_jax.weights.hf_config import as_hf_config, read_json
from msm_jax.weights.names import entries
from msm_jax.weights.tensor_files import INDEX
from msm_jax.weights.writing import (
    Piece,
    host_array,
    new_directory,
    pieces,
    write_json,
    write_tensors,
)

SHARD_BYTES = 5_000_000_000  # as transformers cuts checkpoints
KEPT_CONFIG = "huggingface_config.json"  # in a run directory: the config.json it came with
# What lies beside weights and goes where they go.
CARRIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "LICENSE",
)


def save_checkpoint(
    directory: str | os.PathLike,
    config: ModelConfig,
    params: dict,
    dtype: str | None = None,
    original: str | os.PathLike | None = None,
    max_length: int = 32_768,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write config.json, the weights and what is carried along; an adapter is merged in.

    Args:
      directory: that does not exist or is empty; it appears when it is complete.
      config, params: the model.
      dtype: to store, "float32" or "bfloat16" (rounded to the nearest, ties to even); None: the
        weights' own.
      original: directory whose tokenizer, generation config, chat template and further keys of
        config.json are carried along.
      max_length: longest row in tokens, where no original says it.
      shard_bytes: of one file at most, unless one tensor is larger.

    Raises:
      UserError: a model that no family describes, or a directory that holds something.
    """
    dtype = dtype or config.param_dtype
    beside = pathlib.Path(original) if original is not None else None
    settings = as_hf_config(config, dtype, max_length, hf_settings(beside))
    wanted = pieces(entry for entry in entries(config) if not entry.path[-1].startswith("lora_"))
    shards = cut_into_shards(wanted, dtype, shard_bytes)
    with new_directory(directory) as aside:
        write_json(aside / "config.json", settings)
        weight_map = {}
        for number, shard in enumerate(shards, start=1):
            name = "model.safetensors"
            if len(shards) > 1:
                name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            arrays = (host_array(piece, config, params, dtype) for piece in shard)
            write_tensors(aside / name, shard, dtype, arrays)
            weight_map |= {piece.name: name for piece in shard}
        if len(shards) > 1:
            total = sum(piece.bytes(dtype) for piece in wanted)
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            write_json(aside / INDEX, index)
        if beside and jax.process_index() == 0:
            carry(beside, aside)


def hf_settings(directory: pathlib.Path | None) -> dict | None:
    """The config.json that a model came with, wherever a run keeps it, or None."""
    for name in (KEPT_CONFIG, "config.json"):
        if directory and (directory / name).exists():
            found = read_json(directory / name)
            if "model_type" in found:
                return found
    return None


def save_run(
    directory: str | os.PathLike,
    config: ModelConfig,
    params: dict,
    facts: dict,
    original: pathlib.Path | None = None,
) -> None:
    """A run directory whose only checkpoint holds these parameters, for training to go on from.

    Args:
      directory: as for `save_checkpoint`.
      config, params: the model, its adapter among them.
      facts: {"tokenizer": fingerprint, "chat_format": name}.
      original: directory whose tokenizer and other small files are carried along.

    Raises:
      UserError: a directory that holds something.
    """
    model = checkpoints.model_facts(config)
    with new_directory(directory) as aside:
        with checkpoints.checkpointer(aside, keep=1) as keeper:
            known = {"model": model, "tokenizer": facts["tokenizer"]}
            keeper.save(0, params, {}, known, {"tokens": 0, "probes": {}, "done": True})
        settings = {
            "tokenizer": str(original) if original else "",
            "tokenizer_sha256": facts["tokenizer"],
            "chat_format": facts["chat_format"],
            "resolved_model": model,
        }
        write_json(aside / "config.json", settings)
        if known_config := hf_settings(original):
            write_json(aside / KEPT_CONFIG, known_config)
        if original and jax.process_index() == 0:
            carry(original, aside)


def cut_into_shards(wanted: list[Piece], dtype, shard_bytes: int) -> list[list[Piece]]:
    """The tensors in their order, cut wherever the next one would make a file too large."""
    if shard_bytes < 1:
        raise UserError(f"shard_bytes={shard_bytes}: must be at least 1")
    shards: list[list[Piece]] = [[]]
    room = shard_bytes
    for piece in wanted:
        size = piece.bytes(np.dtype(dtype))
        if size > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(piece)
        room -= size
    return shards


def carry(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy what lies beside the weights."""
    for name in CARRIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
