"""Parameters into a Hugging Face checkpoint directory, or into a run directory of ours."""

import dataclasses
import json
import os
import pathlib
import shutil
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from msm_jax.data.chat import ChatFormat
from msm_jax.data.jinja import TODAY
from msm_jax.data.template import (
    SETTINGS_FILE,
    SPECIAL_FILE,
    TEMPLATE_FILE,
    difference,
    find_format,
    portable,
    special_tokens,
)
from msm_jax.data.tokenizer import HF_TOKENIZER_FILE, Tokenizer
from msm_jax.errors import UserError
from msm_jax.model import ModelConfig
from msm_jax.weights import checkpoints
from msm_jax.weights.hf_config import as_hf_config, read_json, stop_ids
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
GENERATION = "generation_config.json"
# What lies beside weights and goes where they go.
CARRIED = (
    GENERATION,
    "tokenizer.json",
    SETTINGS_FILE,
    "tokenizer.model",
    SPECIAL_FILE,
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    TEMPLATE_FILE,
    "LICENSE",
)


@dataclasses.dataclass(frozen=True)
class Chat:
    """The chat format that goes out with a model.

    Attributes:
      format: what is to be written again from the files of the export.
      template: its Jinja source.
      names: what that refers to by name, such as {"bos_token": ...}.
      tokenizer: of the model.
      stop_ids: of all tokens that end an answer, that of a turn first.
    """

    format: ChatFormat
    template: str
    names: Mapping[str, Any]
    tokenizer: Tokenizer
    stop_ids: tuple[int, ...]


def save_checkpoint(
    directory: str | os.PathLike,
    config: ModelConfig,
    params: dict,
    dtype: str | None = None,
    original: str | os.PathLike | None = None,
    max_length: int = 32_768,
    shard_bytes: int = SHARD_BYTES,
    chat: Chat | None = None,
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
      chat: written in place of the original's template, with its end among the tokens at which
        `generate` stops; None: as the original has them.

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
        if jax.process_index() == 0:
            if beside:
                carry(beside, aside)
            if chat:
                write_chat(aside, settings, chat)
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


def hf_settings(directory: pathlib.Path | None) -> dict | None:
    """The config.json that a model came with, wherever a run keeps it, or None."""
    for name in (KEPT_CONFIG, "config.json"):
        if directory and (directory / name).exists():
            found = read_json(directory / name)
            if "model_type" in found:
                return found
    return None


def write_chat(directory: pathlib.Path, config: dict, chat: Chat) -> None:
    """A chat format into the tokenizer's and the generation's settings of a directory.

    Its end becomes the tokenizer's eos_token, at which vLLM and others stop, and is among the
    eos_token_id of generation_config.json, at which transformers does. A template that means
    another token by a name than the directory now says carries that token itself.

    Raises:
      UserError: the directory's template would not write what the format writes.
    """
    end = chat.format.end
    has_settings = (directory / SETTINGS_FILE).exists()
    if has_settings or (directory / HF_TOKENIZER_FILE).exists():
        fresh = {} if has_settings else {"tokenizer_class": "PreTrainedTokenizerFast"}
        _edit(directory / SETTINGS_FILE, end, fresh)
    if (directory / SPECIAL_FILE).exists():
        _edit(directory / SPECIAL_FILE, end, {})
    template = portable(chat.template, chat.names, special_tokens(directory))
    (directory / TEMPLATE_FILE).write_text(template, encoding="utf-8")
    if differs := difference(find_format("own", directory, chat.tokenizer), chat.format):
        raise UserError(f"the chat format cannot be exported: it would differ, first for {differs}")
    if "strftime_now" in chat.template:
        warnings.warn(
            "the chat template asks for today's date: transformers and vLLM will write the day of "
            f"the call, this package writes {TODAY:%d %b %Y}: give them that date (in Llama's "
            f"templates, date_string), or write it into {TEMPLATE_FILE}",
            stacklevel=4,
        )
    known = ("bos_token_id", "eos_token_id", "pad_token_id")
    generation = {name: config[name] for name in known if config.get(name) is not None}
    if (directory / GENERATION).exists():
        generation = read_json(directory / GENERATION)
    ends = list(dict.fromkeys([*chat.stop_ids, *stop_ids(generation)]))
    write_json(directory / GENERATION, {**generation, "eos_token_id": ends})


def _edit(file: pathlib.Path, end: str, settings: dict) -> None:
    if file.exists():
        settings = read_json(file)
    eos = settings.get("eos_token")
    if (eos.get("content") if isinstance(eos, dict) else eos) != end:
        settings["eos_token"] = end
    settings.pop("chat_template", None)  # it has a file of its own
    text = json.dumps(settings, indent=2, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def save_run(
    directory: str | os.PathLike,
    config: ModelConfig,
    params: dict,
    facts: dict,
    original: pathlib.Path | None = None,
    template: str | None = None,
) -> None:
    """A run directory whose only checkpoint holds these parameters, for training to go on from.

    Args:
      directory: as for `save_checkpoint`.
      config, params: the model, its adapter among them.
      facts: {"tokenizer": fingerprint, "chat_format": name, "base": path}; the last is of the
        checkpoint that an adapter lies on, as peft is to find it.
      original: directory whose tokenizer and other small files are carried along.
      template: chat template in place of the original's.

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
            "base": facts["base"],
            "resolved_model": model,
        }
        write_json(aside / "config.json", settings)
        if known_config := hf_settings(original):
            write_json(aside / KEPT_CONFIG, known_config)
        if jax.process_index() == 0:
            if original:
                carry(original, aside)
            if template is not None:
                (aside / TEMPLATE_FILE).write_text(template, encoding="utf-8")


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
