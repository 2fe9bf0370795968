"""Run checkpoints by Orbax: written aside and renamed, so that a kill leaves the last one whole."""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from msm_jax.errors import UserError
from msm_jax.model import ModelConfig, abstract_params, param_shardings

FORMAT = 2  # 2: weights outputs first


def directory(run_dir: str | os.PathLike) -> pathlib.Path:
    return pathlib.Path(run_dir).absolute() / "checkpoints"


@contextlib.contextmanager
def checkpointer(run_dir: str | os.PathLike, keep: int, keep_steps: Sequence[int] = ()) -> Iterator:
    """An Orbax checkpointer that keeps the newest `keep` checkpoints and those of `keep_steps`."""
    policies = ocp.training.preservation_policies
    policy = policies.AnyPreservationPolicy(
        [policies.LatestN(keep), policies.CustomSteps(tuple(keep_steps))]
    )
    path = directory(run_dir)
    path.mkdir(parents=True, exist_ok=True)
    with ocp.training.Checkpointer(
        path, preservation_policy=policy, cleanup_tmp_directories=True
    ) as found:
        yield found


def save(
    checkpointer, step: int, params: dict, optimizer_state: Any, facts: dict, progress: dict
) -> None:
    """Write params and optimizer state after `step` steps, as one checkpoint or not at all.

    `facts` are what a restore has to match, `progress` is what it gives back; both are JSON.

    Raises:
      UserError: the file system refused; earlier checkpoints stay as they are.
    """
    state = {"params": params}
    if jax.tree.leaves(optimizer_state):  # weights that nobody has trained here have none
        state["optimizer"] = optimizer_state
    metadata = {"facts": {"format": FORMAT, **facts}, "progress": progress}
    try:
        checkpointer.save_checkpointables(step, state, force=True, custom_metadata=metadata)
    except (OSError, ValueError) as error:
        if not _out_of_space(error):
            raise
        raise UserError(
            f"{checkpointer.directory}: no room for the checkpoint of step {step}: free "
            "some space and run the same command again; earlier checkpoints are whole"
        ) from error


def _out_of_space(error: BaseException) -> bool:
    words = ("No space left", "ENOSPC", "RESOURCE_EXHAUSTED", "Disk quota")
    return any(word in str(error) for word in words)


def restore(checkpointer, params: dict, optimizer_state: Any, facts: dict):
    """The newest checkpoint as (step, params, optimizer state, progress), None if there is none.

    Args:
      params, optimizer_state: arrays or ShapeDtypeStructs that the checkpoint has to match.
      facts: what the run is made of; a difference from the checkpoint's is an error.

    Raises:
      UserError: listing each fact that differs, with both values.
    """
    newest = checkpointer.latest
    if newest is None:
        return None
    metadata = checkpointer.checkpointables_metadata(newest.step).custom_metadata
    saved = metadata["facts"]
    wanted = json.loads(json.dumps({"format": FORMAT, **facts}))
    differences = [
        f"  {name}: checkpoint {saved.get(name)!r}, this run {value!r}"
        for name, value in wanted.items()
        if saved.get(name) != value
    ]
    if differences:
        raise UserError(
            f"{checkpointer.directory}: the checkpoint of step {newest.step} is another run's:\n"
            + "\n".join(differences)
            + "\nuse another --workdir, or the configuration it was made with"
        )
    abstract = jax.tree.map(_abstract, {"params": params, "optimizer": optimizer_state})
    state = checkpointer.load_checkpointables(newest.step, abstract)
    return newest.step, state["params"], state["optimizer"], metadata["progress"]


def _abstract(leaf, sharding=None):
    sharding = sharding or getattr(leaf, "sharding", None)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def model_facts(config: ModelConfig) -> dict:
    """The config as checkpoints and config.json carry it."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def load_params(run_dir: str | os.PathLike, step: int | None = None, mesh=None):
    """(ModelConfig, params, metadata) of a run's newest checkpoint, or of one of its steps.

    The params lie on the first device, or cut by a mesh as `param_shardings` says.

    Raises:
      UserError: no such run or checkpoint.
    """
    path = directory(run_dir)
    if not path.is_dir():
        raise UserError(
            f"{run_dir}: has no checkpoints; give a run directory, as `train` writes it"
        )
    with ocp.training.Checkpointer(path) as reader:
        steps = [found.step for found in reader.checkpoints]
        if not steps or (step is not None and step not in steps):
            wanted = "" if step is None else f" of step {step}"
            raise UserError(f"{path}: has no checkpoint{wanted}; there are {steps}")
        step = steps[-1] if step is None else step
        metadata = reader.checkpointables_metadata(step).custom_metadata
        config = ModelConfig(**metadata["facts"]["model"])
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shapes = abstract_params(config)
        places = param_shardings(config, mesh) if mesh else jax.tree.map(lambda _: here, shapes)
        abstract = jax.tree.map(_abstract, shapes, places)
        params = reader.load_checkpointables(step, {"params": abstract})["params"]
    return config, params, {"step": step, **metadata["facts"], **metadata["progress"]}
