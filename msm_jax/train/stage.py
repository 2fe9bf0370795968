"""A stage as its config describes it: tokenizer, model, data, and what is refused of them."""

import dataclasses
import functools
import os
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from msm_jax.data.chat import ChatFormat
from msm_jax.data.pipeline import Data, load_data
from msm_jax.data.template import difference, find_format, own_format
from msm_jax.data.tokenizer import Tokenizer, load_tokenizer
from msm_jax.errors import UserError
from msm_jax.links import below, refuse_links
from msm_jax.model import ModelConfig, batch_sharding, make_mesh, preset
from msm_jax.model.kernels import documents_bound
from msm_jax.settings import checked
from msm_jax.train.config import STAGE
from msm_jax.weights import checkpoints

CHATS = "taught"  # words: ok; the key in the facts of a run
# Keys of config.model that do not describe the shape, which a preset decides.
OURS = ("dtype", "param_dtype", "lora_rank", "lora_alpha", "lora_targets", "remat", "attention")


class Stage:
    """A stage of training; its parts are read when they are first used.

    Attributes:
      config: complete and locked.

    Raises:
      UserError: a key or an input that does not fit, here or where the part is used.
    """

    def __init__(self, config: ConfigDict):
        self.config = checked(STAGE, config)
        check(self.config)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the config names, or the parent's."""
        return load_tokenizer(self.config.tokenizer or self.config.parent)

    @functools.cached_property
    def model(self) -> ModelConfig:
        """The model; training replaces remat="auto" by what it chooses.

        UserError where the tokenizer has more ids than the model has rows.
        """
        config, ids = self.config, self.tokenizer.vocab_size
        model = model_config(config, ids)
        if model.vocab_size < ids:
            raise UserError(
                f"model.vocab_size={model.vocab_size} but {config.tokenizer or config.parent} has "
                f"{ids} ids: set it to 0 to follow the tokenizer"
            )
        return model

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """The mesh over all devices."""
        return make_mesh(self.config.mesh)

    @functools.cached_property
    def place(self) -> jax.sharding.NamedSharding:
        """The sharding of a micro-batch [rows, T]."""
        rows = self.config.rows // self.config.accumulation
        return batch_sharding(self.mesh, rows, self.config.sequence_length)

    @functools.cached_property
    def data(self) -> Data:
        """The mixture that is trained on, tokenized and packed."""
        config = self.config
        return self._load(config.data, mixture=config.mixture, epochs=config.epochs)

    @functools.cached_property
    def held_out(self) -> Data | None:
        """The data of "eval_loss"; None if it is never measured."""
        if not self.config.eval.every:
            return None
        return self._load(self.config.eval.data, mixture="epochs", epochs=1.0, where="eval.data")

    def _load(self, sources: ConfigDict, **options: Any) -> Data:
        config = self.config
        return load_data(
            sources.to_dict(),
            self.tokenizer,
            config.chat_format,
            config.sequence_length,
            config.rows,
            config.seed,
            packing=config.packing.to_dict(),
            cache=config.token_cache,
            **options,
        )

    @functools.cached_property
    def steps(self) -> int:
        """The optimizer steps."""
        return self.data.stage_steps(self.config.steps)

    @property
    def documents(self) -> int | None:
        """The most documents of a row, as of `forward`."""
        return documents_bound(self.data.documents, self.mesh)

    @functools.cached_property
    def chats(self) -> tuple[dict | None, list[str]]:
        """The format of the chats that the model will have been trained on, and warnings.

        It is {"name", "writes": fingerprint}, or None if neither this run nor one before it trained
        on chats. UserError if the parent was trained on another format, or has another tokenizer.
        """
        config, tokenizer, parent = self.config, self.tokenizer, self.config.parent
        before = None
        if parent and is_run(parent):
            facts = checkpoints.read_facts(parent)
            before = facts.get(CHATS)
            theirs, ours = facts["tokenizer"], tokenizer.fingerprint
            if theirs != ours:
                raise UserError(
                    f"tokenizer={config.tokenizer}: not the tokenizer of parent={parent} (sha256 "
                    f"{ours[:12]}, the parent's {theirs[:12]}), so its ids mean other words: "
                    'tokenizer="" takes the parent\'s'
                )
        if not any(account.get("chats") for account in self.data.accounts.values()):
            return before, []
        format = find_format(config.chat_format, tokenizer.directory or ".", tokenizer)
        now = {"name": config.chat_format, "writes": format.fingerprint}
        if before and before["writes"] != now["writes"]:
            text = (
                f"chat_format={config.chat_format!r} writes chats in another way than "
                f"{before['name']!r}, which parent={parent} was trained on"
                + _where(_parents_format(parent, before["name"]), format)
            )
            if not config.allow_new_chat_format:
                raise UserError(
                    f"{text}: use the parent's, or set allow_new_chat_format=True to change it"
                )
            return now, [text]
        own = _parents_format(parent, "own") if parent and not before else None
        if own and own.fingerprint != format.fingerprint:
            return now, [
                f"chat_format={config.chat_format!r} is not the template of parent={parent}"
                f"{_where(own, format)}; chat_format='own' is that template"
            ]
        return now, []


def _parents_format(parent: str, name: str) -> ChatFormat | None:
    """None if the parent no longer has it, or it cannot be used."""
    try:
        tokenizer = load_tokenizer(parent)
        place = tokenizer.directory or parent
        find = own_format if name == "own" else lambda *given: find_format(name, *given)
        return find(place, tokenizer)
    except UserError:
        return None


def _where(theirs: ChatFormat | None, ours: ChatFormat) -> str:
    words = theirs and difference(theirs, ours)
    return f", first for {words}" if words else ""


def check_place(run: pathlib.Path, parent: str) -> None:
    """UserError for a run directory that is something else already, or leads to somewhere else."""
    if is_huggingface(run):
        raise UserError(
            f"workdir={run}: is a Hugging Face checkpoint, which a run would overwrite: give "
            "another directory"
        )
    if parent and run.exists() and os.path.realpath(parent) == os.path.realpath(run):
        raise UserError(f"parent={parent}: is the run's own directory: use another workdir")
    for name in ("checkpoints", "tensorboard", "lock", "log.txt", "metrics.jsonl"):
        refuse_links(below(run, name))


def check(config: ConfigDict) -> None:
    """Impossible combinations of keys, before anything is read."""
    if config.steps == 0 and config.mixture != "epochs":
        raise UserError(
            f"steps=0: must be at least 1 (0 follows from the data, with "
            f'mixture="epochs" and not {config.mixture!r})'
        )
    if config.rows % config.accumulation:
        raise UserError(
            f"rows={config.rows} is not a multiple of accumulation={config.accumulation}"
        )
    if config.parent and not (is_run(config.parent) or is_huggingface(config.parent)):
        raise UserError(
            f"parent={config.parent}: has no checkpoints; give a run directory, or one with "
            "config.json and *.safetensors"
        )
    if config.probes and config.optimizer.schedule != "constant":
        raise UserError(
            f"probes end the stage early, so optimizer.schedule={config.optimizer.schedule!r} "
            'would not reach its end: use "constant", or remove the probes'
        )
    if config.trainable == "all" and config.model.param_dtype != "float32":
        raise UserError(
            f'trainable="all" with model.param_dtype={config.model.param_dtype}: updates would be '
            'lost in rounding: train an adapter (trainable="lora"), or keep float32 weights, and '
            "set model.dtype=bfloat16"
        )
    if config.eval.every and not config.eval.data:
        raise UserError("eval.every is set and eval.data is empty: name a source")
    if config.samples.every and not config.samples.prompts:
        raise UserError("samples.every is set and samples.prompts is empty: give some texts")


def is_run(path: str) -> bool:
    """Whether a directory holds a run of ours."""
    return checkpoints.directory(path).is_dir()


def is_huggingface(path: str | os.PathLike) -> bool:
    """Whether a directory is a Hugging Face checkpoint."""
    folder = pathlib.Path(path)
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def model_config(config: ConfigDict, ids: int = 0) -> ModelConfig:
    """The model of a stage whose tokenizer has so many ids."""
    fields = dict(config.model)
    if name := fields.pop("preset", ""):
        shape = shape_of(config.parent) if name == "parent" else preset(name)
        return dataclasses.replace(shape, **{key: fields[key] for key in OURS})
    return ModelConfig(**{**fields, "vocab_size": fields["vocab_size"] or ids})


def shape_of(parent: str) -> ModelConfig:
    """The model of a run or a Hugging Face checkpoint; no weights are read."""
    if not parent:
        raise UserError('model.preset="parent" needs a parent')
    if is_run(parent):
        return checkpoints.load_config(parent)
    from msm_jax.weights.hf_config import read_config

    return read_config(pathlib.Path(parent), "float32")
