"""What a directory holds: a Hugging Face checkpoint, or a run as `train` writes it."""

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from msm_jax.data.chat import ChatFormat
from msm_jax.data.template import (
    FORMATS,
    PROMPT_DIFFERS,
    TEMPLATE_FILE,
    builtin_name,
    difference,
    find_format,
    misread,
    own_format,
    unprompted,
)
from msm_jax.data.tokenizer import (
    HF_TOKENIZER_FILE,
    TOKENIZER_FILE,
    Tokenizer,
    load_tokenizer,
)
from msm_jax.errors import UserError
from msm_jax.model import ModelConfig
from msm_jax.model.axes import AXES
from msm_jax.sample.settings import KEYS
from msm_jax.settings import SAMPLING, Problems
from msm_jax.weights.checkpoints import load_params
from msm_jax.weights.export import hf_settings
from msm_jax.weights.hf_config import read_json
from msm_jax.weights.huggingface import load_checkpoint
from msm_jax.weights.peft import CONFIG_FILE


@dataclasses.dataclass(frozen=True)
class Parts:
    """The fields of `msm_jax.api.Model`, as a directory holds them."""

    config: ModelConfig
    params: dict
    tokenizer: Tokenizer
    chat_format: str
    directory: pathlib.Path
    stop_ids: tuple[int, ...]
    context_length: int | None


def define_flags() -> None:
    """Flags of commands that load a model, beside where it lies."""
    flags.DEFINE_string("adapter", None, "PEFT adapter to put on the checkpoint.")
    flags.DEFINE_string("dtype", None, "float32 or bfloat16; as stored if not given.")
    flags.DEFINE_list(
        "mesh", [], "Devices that share the weights, such as tensor=4 or fsdp=2,tensor=4."
    )


def mesh_sizes(words: Sequence[str]) -> dict[str, int] | None:
    """["fsdp=2", "tensor=4"] as {"fsdp": 2, "tensor": 4}; None for no words."""
    sizes = {}
    for word in words:
        axis, _, size = word.partition("=")
        if axis not in AXES or not size.isdecimal() or axis in sizes:
            raise UserError(
                f"--mesh: {word!r} is not AXIS=NUMBER with an axis of {AXES}, each once"
            )
        sizes[axis] = int(size)
    return sizes or None


def is_checkpoint(path: str | os.PathLike) -> bool:
    """Whether a directory is a Hugging Face checkpoint, and not a run of ours.

    Raises:
      UserError: it is neither.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise UserError(
            f"{path}: no such directory; give a Hugging Face checkpoint or a run directory"
        )
    if (path / CONFIG_FILE).exists() and not (path / "config.json").exists():
        raise UserError(f"{path}: an adapter alone; load its base model and give it as adapter")
    if not (path / "config.json").exists():
        raise UserError(
            f"{path}: has no config.json, so it is neither a Hugging Face checkpoint nor a run"
        )
    settings = read_json(path / "config.json")
    return "model_type" in settings or "architectures" in settings


def read_parts(
    path: str | os.PathLike,
    chat_format: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
    dtype: str | None = None,
    template_dir: str | os.PathLike | None = None,
) -> Parts:
    """Everything about the model in a directory.

    Args:
      path: of a Hugging Face checkpoint or a run.
      chat_format: a name that `find_format` knows; None: the run's own, or the checkpoint's own
        template, or the built-in format of its family.
      mesh: to cut the weights by; None: all on the first device.
      dtype: of weights and activations; None: as stored, an adapter always in float32.
      template_dir: where to look for a chat template first, such as an adapter's directory.

    Raises:
      UserError: what does not fit, before weights are read where that can be known.
    """
    path = pathlib.Path(path)
    if not is_checkpoint(path):
        return _run_parts(path, chat_format, mesh, dtype)
    tokenizer = load_tokenizer(path)
    directory = path
    if template_dir is not None and (pathlib.Path(template_dir) / TEMPLATE_FILE).exists():
        directory = pathlib.Path(template_dir)
    name = checkpoint_format(path, directory, tokenizer, chat_format)
    config, params = load_checkpoint(path, dtype, mesh)
    check_vocabulary(path, config, tokenizer)
    length = context_length(path)
    return Parts(config, params, tokenizer, name, directory, stop_ids(path), length)


def check_vocabulary(path: pathlib.Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """UserError where the tokenizer has more ids than the model has rows."""
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{path}: its tokenizer has {tokenizer.vocab_size} ids, its model only "
            f"{config.vocab_size} rows: they belong to different models"
        )


def checkpoint_format(
    path: pathlib.Path, template_dir: pathlib.Path, tokenizer: Tokenizer, asked: str | None
) -> str:
    """The name of a checkpoint's chat format; warns where its template is not what ours writes."""
    if asked is not None:
        _warn_of_prompt(template_dir, find_format(asked, template_dir, tokenizer))
        return asked
    settings = read_json(path / "config.json")
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type")) if isinstance(rope, dict) else None
    builtin = builtin_name(str(settings.get("model_type")), tokenizer, kind == "llama3")
    own = own_format(template_dir, tokenizer)
    if own is None:
        return builtin
    if read := misread(tokenizer, own):
        warnings.warn(
            f"{path}: its tokenizer joins control tokens and text in a way that ours does not, "
            f"first in {read!r}",
            stacklevel=4,
        )
    _warn_of_prompt(template_dir, own)
    try:
        ours = find_format(builtin, template_dir, tokenizer)
    except UserError:  # its tokenizer lacks the control tokens of its family
        return "own"
    if differs := difference(own, ours):
        warnings.warn(
            f"{template_dir}: its chat template is used; the built-in format {builtin!r} differs, "
            f"first for {differs}",
            stacklevel=4,
        )
    return "own"


def _warn_of_prompt(place: pathlib.Path, format: ChatFormat) -> None:
    """Where a model is asked for answers otherwise than it learns them."""
    if differs := unprompted(format):
        warnings.warn(
            f"{place}: {PROMPT_DIFFERS}: {differs}",
            stacklevel=5,
        )


def stop_ids(path: pathlib.Path) -> tuple[int, ...]:
    """eos_token_id of generation_config.json, or else of config.json."""
    for name in ("generation_config.json", "config.json"):
        if (path / name).exists():
            found: Any = read_json(path / name).get("eos_token_id")
            ids = found if isinstance(found, list) else [found]
            if any(isinstance(token, int) for token in ids):
                return tuple(token for token in ids if isinstance(token, int) and token >= 0)
    return ()


def context_length(path: pathlib.Path) -> int | None:
    """max_position_embeddings of a checkpoint, or of the one that a run began with; None: unknown.

    Raises:
      UserError: it is not a whole number above 1.
    """
    found = (hf_settings(path) or {}).get("max_position_embeddings")
    problems = Problems(SAMPLING)
    where = f"{path / 'config.json'}: max_position_embeddings"
    length = KEYS["context_length"].read(found, where, problems)
    problems.tell()
    return length


def _run_parts(path: pathlib.Path, chat_format, mesh, dtype) -> Parts:
    settings = read_json(path / "config.json")
    missing = [name for name in ("tokenizer", "chat_format") if name not in settings]
    if missing:
        raise UserError(f"{path / 'config.json'}: lacks {missing}, so it is not a run directory's")
    name = chat_format or settings["chat_format"]
    if name not in FORMATS:
        raise UserError(
            f"{path / 'config.json'}: chat_format {name!r} is unknown; known: {sorted(FORMATS)}"
        )
    kept = any((path / name).exists() for name in (TOKENIZER_FILE, HF_TOKENIZER_FILE))
    place = path if kept else pathlib.Path(settings["tokenizer"])
    tokenizer = load_tokenizer(place)
    directory = place if place.is_dir() else place.parent
    config, params, facts = load_params(path, mesh=mesh)
    taught = facts.get("taught")
    # A run that learned from documents only may have no format.
    format = find_format(name, directory, tokenizer) if chat_format or taught else None
    if format and taught and not chat_format and taught["writes"] != format.fingerprint:
        raise UserError(
            f"{path}: was taught chats in the format {taught['name']!r}, and {name!r} writes them "
            "in another way now: put its template back, or say which format to use (chat_format)"
        )
    if tokenizer.fingerprint != facts["tokenizer"]:
        raise UserError(
            f"{place}: not the tokenizer that {path} was trained with (sha256 "
            f"{tokenizer.fingerprint[:12]}, trained with {facts['tokenizer'][:12]}); "
            f"put that one back"
        )
    if dtype is not None:
        config = dataclasses.replace(config, dtype=dtype, param_dtype=dtype)
        params = jax.tree_util.tree_map_with_path(
            lambda keys, leaf: leaf if keys[-1].key.startswith("lora_") else leaf.astype(dtype),
            params,
        )
    length = context_length(path)
    return Parts(config, params, tokenizer, name, directory, stop_ids(path), length)
