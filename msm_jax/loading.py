"""What a directory holds: a Hugging Face checkpoint, or a run as `train` writes it."""

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Sequence

import jax
from absl import flags

from msm_jax.corpus.records import file_hash
from msm_jax.data.chat import ChatFormat
from msm_jax.data.template import (
    FORMATS,
    OWN,
    PROMPT_DIFFERS,
    SETTINGS_FILE,
    builtin_name,
    difference,
    find_format,
    find_template,
    misread,
    other_templates,
    own_format,
    special_tokens,
    unprompted,
)
from msm_jax.data.tokenizer import (
    HF_TOKENIZER_FILE,
    TOKENIZER_FILE,
    Tokenizer,
    different_id,
    load_tokenizer,
)
from msm_jax.errors import UserError
from msm_jax.model import ModelConfig
from msm_jax.model.axes import AXES
from msm_jax.sample.settings import KEYS
from msm_jax.settings import SAMPLING, Problems
from msm_jax.weights import hf_config, keys
from msm_jax.weights.checkpoints import load_params
from msm_jax.weights.export import GENERATION, KEPT_CONFIG, hf_settings
from msm_jax.weights.hf_config import read_json
from msm_jax.weights.huggingface import load_checkpoint
from msm_jax.weights.peft import CONFIG_FILE


@dataclasses.dataclass(frozen=True)
class Parts:
    """The fields of `msm_jax.api.Model`, as a directory holds them."""

    config: ModelConfig
    params: dict
    tokenizer: Tokenizer
    chat: "Chat"
    directory: pathlib.Path
    stop_ids: tuple[int, ...]
    context_length: int | None
    base: str


@dataclasses.dataclass(frozen=True)
class Chat:
    """Which chat format a model has, and why.

    Attributes:
      name: that `find_format` knows.
      place: directory of the template, if it is "own": the adapter's, or the base's.
      asked: what the caller asked for; None: nothing.
      recorded: what the run was trained with; None: not a run.
    """

    name: str
    place: pathlib.Path
    asked: str | None = None
    recorded: str | None = None


def choose_chat(
    base: pathlib.Path,
    adapter: str | os.PathLike | None,
    tokenizer: Tokenizer,
    asked: str | None,
    recorded: str | None = None,
) -> Chat:
    """The chat format of a model in `base`, with an adapter or without.

    What is asked for; else the adapter's template, what the run was trained with, the base's
    template, or what its family uses: the first that exists.
    """
    place = base
    if adapter is not None:
        _check_adapters_tokenizer(pathlib.Path(adapter), base, tokenizer)
    if adapter is not None and find_template(adapter) is not None:
        place = pathlib.Path(adapter)
    name = asked or (recorded if place == base else None)
    name = name or checkpoint_format(base, place, tokenizer)
    if name != recorded:  # a run that learned from documents only may have no format
        format = find_format(name, place, tokenizer, base)
        if name in OWN:  # what the built-in ones write is documented
            _warn_of_prompt(place, format)
    return Chat(name, place, asked, recorded)


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
    adapter: str | os.PathLike | None = None,
) -> Parts:
    """Everything about the model in a directory.

    Args:
      path: of a Hugging Face checkpoint or a run.
      chat_format: a name that `find_format` knows; None: as `choose_chat` finds it.
      mesh: to cut the weights by; None: all on the first device.
      dtype: of weights and activations; None: as stored, an adapter always in float32.
      adapter: directory of an adapter, whose chat template comes before the model's own; its
        weights are not read.

    Raises:
      UserError: what does not fit, before weights are read where that can be known.
    """
    path = pathlib.Path(path)
    if not is_checkpoint(path):
        return _run_parts(path, chat_format, mesh, dtype, adapter)
    tokenizer = load_tokenizer(path)
    chat = choose_chat(path, adapter, tokenizer, chat_format)
    stops = stop_ids(path)
    check_keys(path)
    config, params = load_checkpoint(path, dtype, mesh)
    check_vocabulary(path, config, tokenizer)
    check_stops(path, config, stops)
    return Parts(
        config, params, tokenizer, chat, path, stops, context_length(path), os.path.abspath(path)
    )


def check_vocabulary(path: pathlib.Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """UserError where the tokenizer has more ids than the model has rows."""
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{path}: its tokenizer has {tokenizer.vocab_size} ids, its model only "
            f"{config.vocab_size} rows: they belong to different models"
        )


def check_stops(path: pathlib.Path, config: ModelConfig, stops: Sequence[int]) -> None:
    """Warns of ids that no answer can end with."""
    if outside := [token for token in stops if token >= config.vocab_size]:
        warnings.warn(
            f"{path}: eos_token_id {outside} are not among the {config.vocab_size} rows of the "
            "model: no answer ends there",
            stacklevel=2,
        )


def _check_adapters_tokenizer(
    adapter: pathlib.Path, base: pathlib.Path, tokenizer: Tokenizer
) -> None:
    """Warns where an adapter was trained with other ids than its base's, or another last token."""
    end, ours = (special_tokens(place).get("eos_token") for place in (adapter, base))
    if end not in (None, ours) and find_template(adapter) is None:
        warnings.warn(
            f"{adapter}: its eos_token is {end!r}, its base's {ours!r}: without a chat template of "
            "the adapter's own, answers end where the base's do",
            stacklevel=3,
        )
    file = adapter / HF_TOKENIZER_FILE
    if not file.exists() or file_hash(file) == tokenizer.fingerprint:
        return
    if (differs := different_id(tokenizer, load_tokenizer(adapter))) is not None:
        warnings.warn(
            f"{adapter}: its tokenizer gives other ids than its base's, which is used, first for "
            f"{differs!r}: if it was trained with its own, merge it with peft and save model and "
            "tokenizer together",
            stacklevel=3,
        )


def checkpoint_format(path: pathlib.Path, place: pathlib.Path, tokenizer: Tokenizer) -> str:
    """The name of a checkpoint's chat format; warns where its template is not what ours writes.

    Args:
      path: of the checkpoint.
      place: where to look for a template: the same, or an adapter's.
      tokenizer: of the checkpoint.
    """
    own = own_format(place, tokenizer, base=path)
    settings = hf_settings(path)
    if settings is None:  # a run whose model came from no checkpoint, with an adapter's template
        return "own"
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type")) if isinstance(rope, dict) else None
    builtin = builtin_name(str(settings.get("model_type")), tokenizer, kind == "llama3")
    if own is None:
        return builtin
    if read := misread(tokenizer, own):
        warnings.warn(
            f"{path}: its tokenizer joins control tokens and text in a way that ours does not, "
            f"first in {read!r}",
            stacklevel=2,
        )
    try:
        ours = find_format(builtin, place, tokenizer)
    except UserError:  # its tokenizer lacks the control tokens of its family
        return "own"
    if differs := difference(own, ours):
        warnings.warn(
            f"{place}: its chat template is used; the built-in format {builtin!r} differs, "
            f"first for {differs}",
            stacklevel=2,
        )
    return "own"


def _warn_of_prompt(place: pathlib.Path, format: ChatFormat) -> None:
    """Where a model is asked for answers otherwise than it learns them."""
    if differs := unprompted(format):
        warnings.warn(
            f"{place}: {PROMPT_DIFFERS}: {differs}",
            stacklevel=2,
        )


def stop_ids(path: pathlib.Path) -> tuple[int, ...]:
    """eos_token_id of generation_config.json, or else of config.json."""
    for name in (GENERATION, KEPT_CONFIG, "config.json"):
        if (path / name).exists():
            found = hf_config.stop_ids(read_json(path / name), str(path / name))
            if found:
                return found
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


def check_keys(path: pathlib.Path) -> None:
    """Warns of what a checkpoint's tokenizer and generation settings ask for and we do not do."""
    for name, table in ((GENERATION, keys.GENERATION), (SETTINGS_FILE, keys.TOKENIZER)):
        if (path / name).exists():
            table.warn(path / name, read_json(path / name))
    if others := other_templates(path):
        warnings.warn(
            f"{path}: has several chat templates: {', '.join(others)} are neither used here nor "
            "exported",
            stacklevel=2,
        )


def _run_parts(path: pathlib.Path, chat_format, mesh, dtype, adapter) -> Parts:
    settings = read_json(path / "config.json")
    missing = [name for name in ("tokenizer", "chat_format") if name not in settings]
    if missing:
        raise UserError(f"{path / 'config.json'}: lacks {missing}, so it is not a run directory's")
    recorded = settings["chat_format"]
    if recorded not in FORMATS:
        raise UserError(
            f"{path / 'config.json'}: chat_format {recorded!r} is unknown; known: {sorted(FORMATS)}"
        )
    kept = any((path / name).exists() for name in (TOKENIZER_FILE, HF_TOKENIZER_FILE))
    place = path if kept else pathlib.Path(settings["tokenizer"])
    tokenizer = load_tokenizer(place)
    directory = place if place.is_dir() else place.parent
    chat = choose_chat(directory, adapter, tokenizer, chat_format, recorded)
    config, params, facts = load_params(path, mesh=mesh)
    chats = facts.get("taught")  # words: ok
    if chats and chat.name == recorded and not chat_format and chat.place == directory:
        format = find_format(recorded, directory, tokenizer)
        if chats["writes"] != format.fingerprint:
            raise UserError(
                f"{path}: was trained on chats in the format {chats['name']!r}, and {recorded!r} "
                "writes them in another way now: put its template back, or say which format to use "
                "(chat_format)"
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
    base = facts["base"] or os.path.abspath(path)
    stops, length = stop_ids(path), context_length(path)
    return Parts(config, params, tokenizer, chat, directory, stops, length, base)
