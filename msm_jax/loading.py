"""Where the parts of a model are found: in a Hugging Face checkpoint, a run, or an adapter."""

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from msm_jax import schema
from msm_jax.data import template
from msm_jax.data.tokenizer import Tokenizer, different_id, load_tokenizer
from msm_jax.data.tokenizer_files import HF_TOKENIZER_FILE, SETTINGS_FILE
from msm_jax.errors import UserError
from msm_jax.files import read_object, sha256_file
from msm_jax.model import ModelConfig
from msm_jax.model.axes import AXES
from msm_jax.sample.settings import KEYS
from msm_jax.settings import SAMPLING, Problems
from msm_jax.weights import hf_config, keys
from msm_jax.weights.checkpoints import load_params
from msm_jax.weights.export import GENERATION, KEPT_CONFIG, hf_settings
from msm_jax.weights.huggingface import load_checkpoint
from msm_jax.weights.peft import CONFIG_FILE

flags.disclaim_key_flags()  # they belong to the command that asks for them


@dataclasses.dataclass(frozen=True)
class ChatSource:
    """Which chat format a model has, by its name for `find_format`, and where it comes from.

    Attributes:
      place: directory of the template, if the format is "own": the adapter's, or the base's.
      requested: the caller's `chat_format`, or None.
      recorded: the format that the run was trained with; None: not a run.
    """

    name: str
    place: pathlib.Path
    requested: str | None = None
    recorded: str | None = None


def define_flags() -> None:
    """Define the flags of commands that load a model, beside that of its directory."""
    flags.DEFINE_string("adapter", None, "Directory of a PEFT adapter to put on the checkpoint.")
    flags.DEFINE_string(
        "dtype",
        None,
        "float32 or bfloat16, by default as the weights are stored; int8 or float8: bfloat16, with "
        "the weights of the projections in 8 bits.",
    )
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
    if path.suffix == ".gguf" and path.is_file():
        raise UserError(
            f"{path}: a GGUF file: make a checkpoint of it with `python -m msm_jax.convert "
            f"--source={path} --target=DIRECTORY`"
        )
    if not path.is_dir():
        raise UserError(
            f"{path}: no such directory; give a Hugging Face checkpoint or a run directory"
        )
    if not (path / "config.json").exists():
        if (path / CONFIG_FILE).exists():
            raise UserError(f"{path}: an adapter alone; load its base model and give it as adapter")
        raise UserError(
            f"{path}: has no config.json, so it is neither a Hugging Face checkpoint nor a run"
        )
    settings = read_object(path / "config.json")
    return "model_type" in settings or "architectures" in settings


def read_model(
    path: str | os.PathLike,
    adapter: str | os.PathLike | None = None,
    mesh: jax.sharding.Mesh | None = None,
    dtype: str | None = None,
    chat_format: str | None = None,
) -> dict[str, Any]:
    """The fields of `msm_jax.api.Model` for a directory; arguments as for `msm_jax.load`.

    The adapter's weights are not read; its chat template is.

    Raises:
      UserError: what does not fit, before weights are read if it can be known by then.
    """
    path = pathlib.Path(path)
    run = None if is_checkpoint(path) else _run_settings(path)
    # Never from the path in a run's config.json: the model would be exported with what is there.
    tokenizer = load_tokenizer(path)
    recorded = run["chat_format"] if run else None
    chat = choose_chat(path, adapter, tokenizer, chat_format or None, recorded)
    stops, length, base = stop_ids(path), context_length(path), os.path.abspath(path)
    if run is None:
        check_keys(path)
        config, params = load_checkpoint(path, dtype, mesh)
        check_vocabulary(path, config, tokenizer)
        if outside := [token for token in stops if token >= config.vocab_size]:
            warnings.warn(
                f"{path}: eos_token_id {outside} are not among the {config.vocab_size} rows of the "
                "model: no completion ends there",
                stacklevel=2,
            )
    else:
        config, params, facts = load_params(path, mesh=mesh, dtype=dtype)
        _check_run(path, tokenizer, chat, facts)
        base = facts["base"] or base
    return {
        "config": config,
        "params": params,
        "tokenizer": tokenizer,
        "chat_format": chat.name,
        "directory": path,
        "stop_ids": stops,
        "context_length": length,
        "mesh": mesh,
        "chat_source": chat,
        "base": base,
    }


def _run_settings(path: pathlib.Path) -> dict:
    """The config.json of a run."""
    form = {"tokenizer": str, "chat_format": tuple(sorted(template.FORMATS))}
    where = f"{path / 'config.json'}: is not a run directory's"
    return schema.check(read_object(path / "config.json"), form, where)


def _check_run(path: pathlib.Path, tokenizer: Tokenizer, chat: ChatSource, facts: dict) -> None:
    """UserError if the run was trained with another tokenizer or another text of its template."""
    trained = facts.get("taught") or facts.get("chat_format") or {}  # words: ok
    writes = lambda: template.find_format(chat.name, path, tokenizer).fingerprint
    unchanged = chat == ChatSource(chat.name, path, None, chat.name)
    if unchanged and "writes" in trained and trained["writes"] != writes():
        how = "was trained on chats in" if facts.get("taught") else "has"  # words: ok
        raise UserError(
            f"{path}: {how} the format {trained['name']!r}, and {chat.name!r} writes chats "
            "differently now: put its template back, or say which format to use (chat_format)"
        )
    if tokenizer.fingerprint != facts["tokenizer"]:
        raise UserError(
            f"{path}: has not the tokenizer that it was trained with (sha256 "
            f"{tokenizer.fingerprint[:12]}, trained with {facts['tokenizer'][:12]}); "
            "put that one back"
        )


def choose_chat(
    base: pathlib.Path,
    adapter: str | os.PathLike | None,
    tokenizer: Tokenizer,
    requested: str | None,
    recorded: str | None = None,
) -> ChatSource:
    """The chat format of a model in `base`, with an adapter or without.

    It is the first that exists of the requested one, the adapter's template, the format that the
    run was trained with, the base's template, and the format of the model's family.
    """
    place = base
    if adapter is not None:
        _check_adapters_tokenizer(pathlib.Path(adapter), base, tokenizer)
        if template.find_template(adapter) is not None:
            place = pathlib.Path(adapter)
    name = requested or (recorded if place == base else None)
    name = name or _checkpoint_format(base, place, tokenizer)
    if name != recorded:  # a run that was trained on documents only may have no format
        format = template.find_format(name, place, tokenizer, base)
        # What the built-in formats write is documented.
        if name in template.OWN and (differs := template.unprompted(format)):
            warnings.warn(f"{place}: {template.PROMPT_DIFFERS}: {differs}", stacklevel=2)
    return ChatSource(name, place, requested, recorded)


def _checkpoint_format(base: pathlib.Path, place: pathlib.Path, tokenizer: Tokenizer) -> str:
    """The name of the format of the template in `place`, or of the family of the model in `base`.

    Warns if that template is not what the built-in format of the family writes.
    """
    own = template.own_format(place, tokenizer, base=base)
    settings = hf_settings(base)
    if settings is None:  # a run whose model came from no checkpoint, with an adapter's template
        return "own"
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type")) if isinstance(rope, dict) else None
    builtin = template.builtin_name(str(settings.get("model_type")), tokenizer, kind == "llama3")
    if own is None:
        return builtin
    if read := template.misread(tokenizer, own):
        warnings.warn(
            f"{base}: its tokenizer joins control tokens and text in a way that ours does not, "
            f"first in {read!r}",
            stacklevel=2,
        )
    try:
        ours = template.find_format(builtin, place, tokenizer)
    except UserError:  # its tokenizer lacks the control tokens of its family
        return "own"
    if differs := template.difference(own, ours):
        warnings.warn(
            f"{place}: its chat template is used; the built-in format {builtin!r} differs, "
            f"first for {differs}",
            stacklevel=2,
        )
    return "own"


def _check_adapters_tokenizer(
    adapter: pathlib.Path, base: pathlib.Path, tokenizer: Tokenizer
) -> None:
    """Warns if an adapter was trained with other ids than its base's, or with another eos_token."""
    end, ours = (template.special_tokens(place).get("eos_token") for place in (adapter, base))
    if end not in (None, ours) and template.find_template(adapter) is None:
        warnings.warn(
            f"{adapter}: its eos_token is {end!r}, its base's {ours!r}: without a chat template of "
            "the adapter's own, completions end where the base's do",
            stacklevel=3,
        )
    file = adapter / HF_TOKENIZER_FILE
    if not file.exists() or sha256_file(file) == tokenizer.fingerprint:
        return
    if (differs := different_id(tokenizer, load_tokenizer(adapter))) is not None:
        warnings.warn(
            f"{adapter}: its tokenizer gives other ids than its base's, which is used, first for "
            f"{differs!r}: if it was trained with its own, merge it with peft and save model and "
            "tokenizer together",
            stacklevel=3,
        )


def check_vocabulary(path: pathlib.Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """UserError if the tokenizer has more ids than the model has rows."""
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{path}: its tokenizer has {tokenizer.vocab_size} ids, its model only "
            f"{config.vocab_size} rows: they belong to different models"
        )


def check_keys(path: pathlib.Path) -> None:
    """Warns of settings of a checkpoint's tokenizer and generation that are ignored."""
    for name, table in ((GENERATION, keys.GENERATION), (SETTINGS_FILE, keys.TOKENIZER)):
        table.warn(path / name, read_object(path / name, optional=True))
    if others := template.other_templates(path):
        warnings.warn(
            f"{path}: has several chat templates: {', '.join(others)} are neither used here nor "
            "exported",
            stacklevel=2,
        )


def stop_ids(path: pathlib.Path) -> tuple[int, ...]:
    """eos_token_id of generation_config.json, or else of config.json."""
    for name in (GENERATION, KEPT_CONFIG, "config.json"):
        settings = read_object(path / name, optional=True)
        if found := hf_config.stop_ids(settings, str(path / name)):
            return found
    return ()


def context_length(path: pathlib.Path) -> int | None:
    """max_position_embeddings of a checkpoint, or of the one that a run began with; None: unknown.

    Raises:
      UserError: it is not a whole number above 1.
    """
    name, problems = "max_position_embeddings", Problems(SAMPLING)
    found = (hf_settings(path) or {}).get(name)
    length = KEYS["context_length"].read(found, f"{path / 'config.json'}: {name}", problems)
    problems.raise_any()
    return length
