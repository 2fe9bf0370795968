"""What files, tokenizers and checkpoints are, wherever they are and whatever they are called.

What a study names by path counts by what is computed here, so that a copy under another name
changes nothing and another content under the same name does.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from msm_jax.data.sources import TFDS, source_hash
from msm_jax.data.template import find_format
from msm_jax.data.tokenizer import Tokenizer, load_tokenizer
from msm_jax.errors import UserError
from msm_jax.files import read_json, read_object, sha256_file, sha256_json, sha256_text
from msm_jax.links import is_step

_METADATA = {
    "custom_metadata": {"facts": object, "checksums": object, "base": ({"digest": str}, None)}
}
_MADE = re.compile(rf"({TFDS}|)\{{([^{{}}]+)\}}/(.*)")


class StudyPath(NamedTuple):
    """A path to what a node of the study makes: "{name}/inside", or "tfds:{name}/inside"."""

    before: str
    name: str
    inside: str


def made_path(path: str) -> StudyPath | None:
    """The parts of a path to what the study makes; None for a file of the user's."""
    found = _MADE.fullmatch(path)
    return StudyPath(*found.groups()) if found else None


def made_names(paths: Iterable[str]) -> set[str]:
    """The names in "{name}/..." of those paths to what the study makes."""
    return {found.name for path in paths if (found := made_path(path))}


# One file, and a source of data in any form that training reads: of one file they are the same.
file_content = functools.cache(sha256_file)
source_content = functools.cache(source_hash)


def source_or_file(path: str) -> str:
    """Of a source of data or of any other file, such as a spec."""
    file = pathlib.Path(path)
    is_text = file.suffix in (".md", ".txt")
    is_source = path.startswith(TFDS) or not (file.is_file() or is_text)
    return source_content(path) if is_source else file_content(path)


def forget() -> None:
    """Read everything again, because files may have changed since."""
    for known in (file_content, source_content, weights_content, find_base):
        known.cache_clear()


# ------------------------------------------------------------------ tokenizers and chat formats


def encoding(found: Tokenizer, chat_format: str, place: Any = None, base: Any = None) -> dict:
    """What decides which tokens texts become: tokenizer, chat format, default system line.

    Args:
      place, base: the directories of the template and, beneath it, of special tokens; by default
        the tokenizer's.
    """
    try:
        format = find_format(chat_format, place or found.directory or ".", found, base)
    except UserError:  # documents need none; chats are refused when they are read
        return {"tokenizer": found.fingerprint, "writes": ""}
    # The fingerprint does not cover what a template writes of tools.
    template = {"template": sha256_text(format.source)} if format.source else {}
    return {"tokenizer": found.fingerprint, "writes": format.fingerprint, **template}


# ------------------------------------------------------------------ checkpoints


@dataclasses.dataclass(frozen=True)
class Base:
    """The checkpoint that a study starts from.

    Attributes:
      content: SHA-256 of its weights and settings, and of its adapter's.
      chat_format: the requested one, or the first that exists of the adapter's template, the
        format that the run was trained with, the checkpoint's template, and its family's format.
      encoding: as of `encoding`.
    """

    content: str
    chat_format: str
    encoding: dict


@functools.cache
def find_base(path: str, adapter: str, requested: str) -> Base:
    """The checkpoint, run, or either with a PEFT adapter, that `config.base` names.

    Raises:
      UserError: it is none of them, or the adapter does not fit; no weights are read.
    """
    from msm_jax import loading  # imports JAX

    folder = pathlib.Path(path)
    try:
        is_checkpoint = loading.is_checkpoint(folder)
        content = [weights_content(path)]
        tokenizer = load_tokenizer(folder)
    except UserError as error:
        raise UserError(f"config.base.path: {error}") from error
    if adapter:
        from msm_jax.train.stage import shape_of
        from msm_jax.weights import peft

        try:
            content.append(adapter_content(adapter))
            shape = shape_of(path)
            if shape.lora_rank:
                raise UserError(f"{path} has an adapter of its own: merge that first")
            peft.adapted(shape, read_object(pathlib.Path(adapter) / peft.CONFIG_FILE))
        except UserError as error:
            raise UserError(f"config.base.adapter: {error}") from error
    settings = read_object(folder / "config.json")
    recorded, place = None if is_checkpoint else settings.get("chat_format"), folder
    try:
        chat = loading.choose_chat(folder, adapter or None, tokenizer, requested or None, recorded)
        name, place = chat.name, chat.place
    except UserError as error:  # a model without a chat format, which documents do not need
        if requested:
            raise UserError(f"config.train.chat_format: {error}") from error
        name = "own"
    return Base(sha256_json(content), name, encoding(tokenizer, name, place, folder))


def adapter_content(path: str) -> str:
    """SHA-256 of what a PEFT adapter is, whatever it calls its base.

    Raises:
      UserError: it is not an adapter.
    """
    from msm_jax.weights.peft import CONFIG_FILE, WEIGHTS_FILE

    folder = pathlib.Path(path)
    settings = read_json(folder / CONFIG_FILE)
    if not isinstance(settings, dict) or not (folder / WEIGHTS_FILE).is_file():
        raise UserError(f"{path}: not a PEFT adapter: {CONFIG_FILE} and {WEIGHTS_FILE} are needed")
    settings.pop("base_model_name_or_path", None)
    return sha256_json([settings, file_content(str(folder / WEIGHTS_FILE))])


@functools.cache
def weights_content(path: str) -> str:
    """SHA-256 of what a run or a Hugging Face checkpoint holds, independent of its place.

    Of a run the metadata and checksums of its newest checkpoint count: no array is read.

    Raises:
      UserError: it is neither.
    """
    folder = pathlib.Path(path)
    runs = [p for p in folder.glob("checkpoints/*/_CHECKPOINT_METADATA") if is_step(p.parent.name)]
    if runs:
        newest = max(runs, key=lambda file: int(file.parent.name))
        metadata = read_json(newest, _METADATA, "the checkpoint is damaged: put it back")
        metadata = metadata["custom_metadata"]
        kept = {key: metadata[key] for key in ("facts", "checksums")}
        kept["base"] = metadata["base"] and metadata["base"]["digest"]
        kept["ends"] = [sha256_file(file) for file in folder.glob("generation_config.json")]
        return sha256_json(kept)
    tensors = sorted(folder.glob("*.safetensors"))
    if not tensors or not (folder / "config.json").is_file():
        raise UserError(
            f"{path}: neither a run directory with checkpoints nor a Hugging Face checkpoint with "
            "config.json and *.safetensors"
        )
    others = [folder / name for name in ("config.json", "generation_config.json")]
    return sha256_json([file_content(str(file)) for file in (*others, *tensors) if file.exists()])
