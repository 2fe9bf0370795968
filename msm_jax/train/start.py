"""The state that a stage begins with: resumed, from its parent, or fresh."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from msm_jax.errors import UserError
from msm_jax.model import ModelConfig, init_params, param_shardings
from msm_jax.model.adapter import join, only_adapter
from msm_jax.train import hosts, record
from msm_jax.train.optimizer import split_params
from msm_jax.train.stage import Stage, is_run
from msm_jax.train.step import step_arguments
from msm_jax.weights import checkpoints
from msm_jax.weights.damage import RUNTIME_FIELDS
from msm_jax.weights.fingerprint import params_fingerprint


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


def start(
    stage: Stage, optimizer: optax.GradientTransformation, manager: Any, facts: dict[str, Any]
) -> State:
    """The state to continue from, the first of these that exists:

    1. the newest checkpoint of this run, if it began with what the parent holds now
    2. the weights of the parent, with a fresh optimizer
    3. fresh weights from the seed

    The fingerprint of the parent's weights is added to `facts`, which are from `record.facts`.

    Raises:
      UserError: the checkpoint is another run's, or the weights of the parent are not finite.
    """
    config, model, mesh = stage.config, stage.model, stage.mesh
    trained, optimizer_shapes, frozen, *_ = step_arguments(config, model, mesh, optimizer)
    saved = join(trained, frozen)
    params = _parents_params(config, model, mesh) if config.parent else None
    facts["parent"] = params_fingerprint(params) if params else None
    base = None
    if config.trainable == "lora" and params:  # checkpoints leave out what the parent has
        trained, frozen = split_params(_with_adapter(params, config, model, mesh), "lora")
        base = checkpoints.base_facts(manager.directory.parent, config.parent, frozen)
        saved = trained
    if checkpoints.steps(manager.directory):
        params = None  # makes room for what is restored
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
    places = jax.tree.map(lambda leaf: leaf.sharding, optimizer_shapes)
    optimizer_state = jax.jit(optimizer.init, out_shardings=places)(trained)
    return State(0, trained, frozen, optimizer_state, base=base)


def facts_of(config: ConfigDict) -> dict:
    """What a checkpoint of this stage holds as its facts; nothing is trained.

    Raises:
      UserError: as of `msm_jax.train.loop.train`.
    """
    stage = Stage(config)
    params = _parents_params(stage.config, stage.model, None) if stage.config.parent else None
    return record.facts(stage) | {"parent": params_fingerprint(params) if params else None}


@jax.jit
def all_finite(tree: dict) -> jax.Array:
    """bool[]: whether every number of a tree is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _parents_params(config: ConfigDict, model: ModelConfig, mesh: jax.sharding.Mesh | None) -> dict:
    """The weights of the parent, without what this stage adds."""
    if is_run(config.parent):
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
        and field.name not in ("dtype", "param_dtype", *RUNTIME_FIELDS)
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
