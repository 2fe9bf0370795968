"""What a stage begins with: its checks, its model, and the state to resume from."""

import dataclasses
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from msm_jax.data.tokenizer import Tokenizer
from msm_jax.errors import UserError
from msm_jax.links import below, refuse_links
from msm_jax.model import (
    ModelConfig,
    abstract_params,
    init_params,
    param_shardings,
    placed,
    preset,
)
from msm_jax.model.adapter import join, only_adapter
from msm_jax.train import hosts
from msm_jax.train.optimizer import optimizer_shardings, split_params
from msm_jax.weights import checkpoints
from msm_jax.weights.fingerprint import params_fingerprint

# Keys of config.model that do not describe the shape, which a preset decides.
OURS = ("dtype", "param_dtype", "lora_rank", "lora_alpha", "lora_targets", "remat", "attention")


@dataclasses.dataclass
class State:
    """What a checkpoint holds. `step` is also the position in the data."""

    step: int
    trained: dict
    frozen: dict
    optimizer_state: Any
    tokens: int = 0
    loss_tokens: int = 0
    empty: int = 0  # steps without a loss token, which changed nothing
    probes: dict = dataclasses.field(default_factory=dict)
    done: bool = False
    base: dict | None = None  # where the frozen weights are kept, if not in our checkpoints

    @property
    def params(self) -> dict:
        """All parameters, the frozen ones among them."""
        return join(self.trained, self.frozen)

    @property
    def saved(self) -> dict:
        """The parameters that a checkpoint holds."""
        return self.trained if self.base else self.params

    @property
    def progress(self) -> dict:
        """What a checkpoint restores beside arrays."""
        names = ("tokens", "loss_tokens", "empty", "probes", "done")
        return {name: getattr(self, name) for name in names}


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
    if config.parent and not (_is_run(config.parent) or is_huggingface(config.parent)):
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


def _is_run(path: str) -> bool:
    return checkpoints.directory(path).is_dir()


def is_huggingface(path: str | os.PathLike) -> bool:
    """Whether a directory is a Hugging Face checkpoint."""
    folder = pathlib.Path(path)
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def model_config(config: ConfigDict, tokenizer: Tokenizer) -> ModelConfig:
    """The model of a stage; UserError where the tokenizer has more ids than the model has rows."""
    fields = dict(config.model)
    name = fields.pop("preset", "")
    if name:
        shape = shape_of(config.parent) if name == "parent" else preset(name)
        model = dataclasses.replace(shape, **{key: fields[key] for key in OURS})
    else:
        fields["vocab_size"] = fields["vocab_size"] or tokenizer.vocab_size
        model = ModelConfig(**fields)
    if model.vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"model.vocab_size={model.vocab_size} but {config.tokenizer or config.parent} has "
            f"{tokenizer.vocab_size} ids: set it to 0 to follow the tokenizer"
        )
    return model


def shape_of(parent: str) -> ModelConfig:
    """The model of a run or a Hugging Face checkpoint; no weights are read."""
    if not parent:
        raise UserError('model.preset="parent" needs a parent')
    if _is_run(parent):
        return checkpoints.load_config(parent)
    from msm_jax.weights.hf_config import read_config

    return read_config(pathlib.Path(parent), "float32")


def start(
    config: ConfigDict,
    model: ModelConfig,
    mesh: jax.sharding.Mesh,
    optimizer: optax.GradientTransformation,
    manager: Any,
    facts: dict[str, Any],
) -> State:
    """The state to continue from, the first of these that exists:

    1. the newest checkpoint of this run, if it began with what the parent holds now
    2. the weights of the parent, with a fresh optimizer
    3. fresh weights from the seed

    The fingerprint of the parent's weights is added to `facts`, which are from `record.facts`.

    Raises:
      UserError: the checkpoint is another run's, or the weights of the parent are not finite.
    """
    shapes = placed(abstract_params(model), param_shardings(model, mesh))
    trained, frozen = split_params(shapes, config.trainable)
    places = optimizer_shardings(optimizer, trained, mesh)
    optimizer_shapes = placed(jax.eval_shape(optimizer.init, trained), places)
    params = _parents_params(config, model, mesh) if config.parent else None
    facts["parent"] = params_fingerprint(params) if params else None
    base = None
    if config.trainable == "lora" and params:  # checkpoints leave out what the parent has
        trained, frozen = split_params(_with_adapter(params, config, model, mesh), "lora")
        base = checkpoints.base_facts(manager.directory.parent, config.parent, frozen)
    if checkpoints.steps(manager.directory):
        params = None  # makes room for what is restored
        saved = trained if base else shapes
        step, params, optimizer_state, progress = manager.restore(
            saved, optimizer_shapes, facts, config.fall_back
        )
        trained, frozen = (params, frozen) if base else split_params(params, config.trainable)
        return State(step, trained, frozen, optimizer_state, base=base, **progress)
    if not base:
        trained, frozen = split_params(_with_adapter(params, config, model, mesh), config.trainable)
    # The first collective of a fresh run. On CPUs, processes wait only 30 s for each other in one.
    hosts.barrier("weights")
    if not all_finite(join(trained, frozen)):
        raise UserError(
            f"parent={config.parent}: has weights that are not finite, so nothing can be learned: "
            "use a checkpoint that is not damaged"
        )
    optimizer_state = jax.jit(optimizer.init, out_shardings=places)(trained)
    return State(0, trained, frozen, optimizer_state, base=base)


def parent_fingerprint(config: ConfigDict, model: ModelConfig) -> str | None:
    """Of the weights that the stage starts from; None where they are fresh."""
    return params_fingerprint(_parents_params(config, model, None)) if config.parent else None


@jax.jit
def all_finite(tree: dict) -> jax.Array:
    """bool[]: whether every number of a tree is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _parents_params(config: ConfigDict, model: ModelConfig, mesh: jax.sharding.Mesh | None) -> dict:
    """The weights of the parent, without what this stage adds."""
    if _is_run(config.parent):
        theirs, params, _ = checkpoints.load_params(
            config.parent, mesh=mesh, dtype=model.param_dtype
        )
    else:
        from msm_jax.weights.huggingface import load_checkpoint

        theirs, params = load_checkpoint(config.parent, model.param_dtype, mesh)
    _same_model(config.parent, theirs, model)
    return params


def _with_adapter(
    params: dict | None, config: ConfigDict, model: ModelConfig, mesh: jax.sharding.Mesh
) -> dict:
    """The parent's weights, with a fresh adapter where it has none; without a parent fresh ones."""
    places, key = param_shardings(model, mesh), jax.random.key(config.seed)
    if params is None:
        return jax.jit(init_params, static_argnums=0, out_shardings=places)(model, key)
    if model.lora_rank and not only_adapter(params):
        make = lambda key: only_adapter(init_params(model, key))
        fresh = jax.jit(make, out_shardings=only_adapter(places))
        return join(params, fresh(key))
    return params


def _same_model(parent: str, theirs: ModelConfig, ours: ModelConfig) -> None:
    """UserError that lists what differs between the parent's model and this stage's."""
    changed = {
        field.name: (getattr(theirs, field.name), getattr(ours, field.name))
        for field in dataclasses.fields(ModelConfig)
        if getattr(theirs, field.name) != getattr(ours, field.name)
        and not field.name.startswith("lora_")
        and field.name not in ("dtype", "param_dtype", *checkpoints.RUNTIME_FIELDS)
    }
    if changed:
        raise UserError(
            f"parent {parent} has another model: "
            + ", ".join(f"{name} {them} there, {us} here" for name, (them, us) in changed.items())
        )
    if theirs.lora_rank and not ours.lora_rank:
        raise UserError(
            f"parent {parent} has an adapter of rank {theirs.lora_rank}, this stage has "
            "model.lora_rank=0: merge it first, or use the same rank"
        )
    adapter = lambda model: (model.lora_rank, model.lora_alpha, sorted(model.lora_targets))
    if theirs.lora_rank and adapter(theirs) != adapter(ours):
        raise UserError(
            f"parent {parent} has an adapter of rank, alpha and targets {adapter(theirs)}, this "
            f"stage asks for {adapter(ours)}: merge it first, or use the same"
        )
