"""Parameters into a Hugging Face checkpoint directory, or into a run directory of ours."""

import dataclasses
import json
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import jax

from msm_jax import files
from msm_jax.data.chat import ChatFormat
from msm_jax.data.sandbox import TODAY
from msm_jax.data.template import (
    TEMPLATE_FILE,
    TOOLS_FILE,
    difference,
    find_format,
    portable,
    special_tokens,
)
from msm_jax.data.tokenizer import Tokenizer
from msm_jax.data.tokenizer_files import HF_TOKENIZER_FILE, SETTINGS_FILE, SPECIAL_FILE
from msm_jax.errors import UserError
from msm_jax.links import real_path
from msm_jax.model import ModelConfig
from msm_jax.weights import checkpoints
from msm_jax.weights.hf_config import as_hf_config, stop_ids
from msm_jax.weights.names import entries
from msm_jax.weights.tensor_files import INDEX
from msm_jax.weights.writing import (
    host_array,
    new_directory,
    pieces,
    split_into_shards,
    write_json,
    write_shards,
)

SHARD_BYTES = 5_000_000_000  # of one file, as transformers writes them
KEPT_CONFIG = "huggingface_config.json"  # in a run directory: the config.json it came with
GENERATION = "generation_config.json"
# Files that are copied along with the weights.
CARRIED = (
    GENERATION, "tokenizer.json", SETTINGS_FILE, "tokenizer.model", SPECIAL_FILE,
    "added_tokens.json", "vocab.json", "merges.txt", TEMPLATE_FILE, "LICENSE",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Chat:
    """The chat format that is exported with a model, and the Jinja source that has to write it.

    `names` are what the template refers to by name; `stop_ids` all tokens that end a completion.
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
    """Write config.json, the weights with any adapter merged in, and the files beside them.

    Args:
      directory: does not exist or is empty; it appears when it is complete.
      dtype: "float32" or "bfloat16" (rounded to the nearest, ties to even); None: as they are.
      original: directory whose tokenizer, generation config, chat template and further keys of
        config.json are copied.
      max_length: longest row in tokens, if no original says it.
      shard_bytes: of one file at most, unless one tensor is larger.
      chat: replaces the original's template; transformers' `generate` stops at its end as well.

    Raises:
      UserError: a model that no family describes, weights in 8 bits, a directory that is not empty.
    """
    config.refuse_eight_bits("they cannot be written as a Hugging Face checkpoint")
    dtype = dtype or config.param_dtype
    source = pathlib.Path(original) if original is not None else None
    settings = as_hf_config(config, dtype, max_length, hf_settings(source))
    wanted = pieces(entry for entry in entries(config) if not entry.path[-1].startswith("lora_"))
    shards = split_into_shards(wanted, dtype, shard_bytes)
    with new_directory(directory) as temporary:
        write_json(temporary / "config.json", settings)
        if jax.process_index() == 0:
            if source:
                carry(source, temporary)
            if chat:
                write_chat(temporary, settings, chat)
        array = lambda piece: host_array(piece, config, params, dtype)
        if index := write_shards(temporary, shards, dtype, array):
            write_json(temporary / INDEX, index)


def hf_settings(directory: pathlib.Path | None) -> dict | None:
    """The config.json that the model in a checkpoint or run came with; None if it has none."""
    for name in (KEPT_CONFIG, "config.json"):
        found = files.read_object(directory / name, optional=True) if directory else {}
        if "model_type" in found:
            return found
    return None


def write_chat(directory: pathlib.Path, config: dict, chat: Chat) -> None:
    """A chat format into the settings of the tokenizer and of generation in a directory.

    Its end becomes the tokenizer's eos_token, at which vLLM and others stop, and one of the
    eos_token_id of generation_config.json, at which transformers stops. Where a name in the
    template means another token than in the directory, the template gets the token itself.
    UserError if the directory's template would not write what the format writes.
    """
    end = chat.format.end
    has_settings = (directory / SETTINGS_FILE).exists()
    if has_settings or (directory / HF_TOKENIZER_FILE).exists():
        fresh = {} if has_settings else {"tokenizer_class": "PreTrainedTokenizerFast"}
        _edit(directory / SETTINGS_FILE, end, fresh)
    if (directory / SPECIAL_FILE).exists():
        _edit(directory / SPECIAL_FILE, end, {})
    template = portable(chat.template, chat.names, special_tokens(directory))
    files.write_text(directory / TEMPLATE_FILE, template)
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
        generation = files.read_object(directory / GENERATION)
    ends = list(dict.fromkeys([*chat.stop_ids, *stop_ids(generation)]))
    write_json(directory / GENERATION, {**generation, "eos_token_id": ends})


def _edit(file: pathlib.Path, end: str, settings: dict) -> None:
    settings = files.read_object(file, optional=True) or settings
    eos = settings.get("eos_token")
    if (eos.get("content") if isinstance(eos, dict) else eos) != end:
        settings["eos_token"] = end
    settings.pop("chat_template", None)  # it has a file of its own
    files.write_text(file, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


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
      facts: {"tokenizer": fingerprint, "chat_format": name, "writes": the format's fingerprint or
        None, "base": path of the checkpoint that the adapter was trained on}.
      original: directory whose tokenizer and other small files are copied.
      template: replaces the original's chat template.
    """
    model = checkpoints.model_facts(config)
    with new_directory(directory) as temporary:
        with checkpoints.checkpointer(temporary, keep=1) as manager:
            known = {"model": model, "tokenizer": facts["tokenizer"]}
            if facts["writes"]:
                known["chat_format"] = {"name": facts["chat_format"], "writes": facts["writes"]}
            manager.save(0, params, {}, known, {"tokens": 0, "probes": {}, "done": True})
        settings = {
            "tokenizer": str(original) if original else "",
            "tokenizer_sha256": facts["tokenizer"],
            "chat_format": facts["chat_format"],
            "base": facts["base"],
            "resolved_model": model,
        }
        write_json(temporary / "config.json", settings)
        if known_config := hf_settings(original):
            write_json(temporary / KEPT_CONFIG, known_config)
        if jax.process_index() == 0:
            if original:
                carry(original, temporary)
            if template is not None:
                files.write_text(temporary / TEMPLATE_FILE, template)


def carried(directory: pathlib.Path) -> list[str]:
    """The files beside the weights that go where the model goes; UserError if one of them, or one
    that is read into the exported settings, is a link to somewhere else."""
    is_there = lambda name: (directory / name).is_file()
    for name in filter(is_there, (*CARRIED, KEPT_CONFIG, "config.json", TOOLS_FILE)):
        real_path(directory, name)
    return [*filter(is_there, CARRIED)]


def carry(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy the files beside the weights."""
    for name in carried(source):
        files.copy(source, name, target / name)
