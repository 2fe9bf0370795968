"""model.remat=auto: the fastest choice with which a step fits in memory, as the compiler says.

The step is compiled with each choice, from the fastest to the leanest, until one fits. A run keeps
what it began with, so that it resumes to the same bits.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from msm_jax import accelerators
from msm_jax.errors import UserError
from msm_jax.files import read_json
from msm_jax.model import ModelConfig, abstract_params, batch_sharding, param_shardings, placed
from msm_jax.train import hosts
from msm_jax.train.optimizer import optimizer_shardings, split_params
from msm_jax.weights import checkpoints

# By what the backward pass computes again. "offload" is left out: nobody knows the host's memory.
FASTEST_FIRST = ("none", "dots", "attention", "full")
# Of a device's memory, for what a step's estimate leaves out: evaluations, samples, fragments.
MARGIN = 0.08


def settled(
    model: ModelConfig, run: pathlib.Path, mesh: Mesh, lower: Callable[[ModelConfig], Any]
) -> tuple[ModelConfig, str]:
    """(the model with "auto" replaced, why, "" if nothing was); `lower` gives the lowered step.

    UserError if the step does not fit with any choice.
    """
    if model.remat != "auto":
        return model, ""
    if checkpoints.steps(checkpoints.directory(run)):
        recorded = read_json(run / "config.json", {"resolved_model": {"remat": str}}) or {}
        before = recorded.get("resolved_model", {}).get("remat")
        if before in FASTEST_FIRST:
            return dataclasses.replace(model, remat=before), "as this run began"
    memory = min(device_memory(device) for device in mesh.local_devices)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        hosts.barrier("memory")
        memory = float(np.min(multihost_utils.process_allgather(np.float32(memory))))
    with_remat = lambda remat: dataclasses.replace(model, remat=remat)
    remat, why = choose(lambda remat: lower(with_remat(remat)).compile(), memory)
    return with_remat(remat), f"the fastest that fits: {why}"


def choose(compiled: Callable[[str], Any], memory: float) -> tuple[str, str]:
    """(remat, why): the first whose step fits in the memory of a device, in bytes, less MARGIN.

    UserError that names what each needs, if none does.
    """
    room, needs = (1 - MARGIN) * memory, []
    for remat in FASTEST_FIRST:
        needed = _needed(compiled, remat)
        needs.append(f"{remat} needs {needed / 2**20:,.0f} MiB")
        if needed <= room:
            break
    text = f"{', '.join(needs)}; a device has {room / 2**20:,.0f} ({1 - MARGIN:.0%} of its memory)"
    if needed > room:
        raise UserError(
            f"model.remat=auto: the step does not fit in memory: {text}: raise accumulation, lower "
            "rows or sequence_length, or use more devices"
        )
    return remat, text


def _needed(compiled: Callable[[str], Any], remat: str) -> float:
    """Bytes of a device; infinite where the compiler itself gives up."""
    try:
        found = compiled(remat).memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return float("inf")
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    return found.argument_size_in_bytes + found.temp_size_in_bytes + max(results, 0)


def device_memory(device: jax.Device) -> float:
    """Bytes that a program can use; of a CPU device its share of the machine's.

    Of a GPU, what JAX takes of it: 75 % by default, also of one that is only compiled for.
    UserError where that is not known.
    """
    chip = accelerators.find(device.device_kind)
    if chip and chip.memory and device.platform != "gpu":
        return chip.memory
    if device.platform == "cpu":
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return machine / len(jax.local_devices(backend="cpu"))
    limit = 0.75 * chip.memory if chip else 0.0
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # of a device that is not here
        limit = (device.memory_stats() or {}).get("bytes_limit", limit)
    if not limit:
        raise UserError(
            f"model.remat=auto: {device.device_kind} does not say how much memory it has: set "
            f"model.remat to one of {FASTEST_FIRST}"
        )
    return limit


def step_arguments(config: ConfigDict, model: ModelConfig, mesh: Mesh, optimizer: Any) -> tuple:
    """Shapes of (trained, optimizer state, frozen, batch) of a stage, with their shardings."""
    params = placed(abstract_params(model), param_shardings(model, mesh))
    trained, frozen = split_params(params, config.trainable)
    state = placed(
        jax.eval_shape(optimizer.init, trained), optimizer_shardings(optimizer, trained, mesh)
    )
    at_a_time = config.rows // config.accumulation
    batch = batch_shapes(mesh, config.rows, at_a_time, config.sequence_length)
    return trained, state, frozen, batch


def batch_shapes(mesh: Mesh, rows: int, at_a_time: int, length: int) -> dict[str, Any]:
    """Shapes of a batch [rows, length] whose rows are placed as those that run `at_a_time`."""
    place = batch_sharding(mesh, at_a_time, length)
    of = lambda dtype: jax.ShapeDtypeStruct((rows, length), dtype, sharding=place)
    names = ("tokens", "targets", "segment_ids", "positions")
    return {**dict.fromkeys(names, of(np.int32)), "loss_weights": of(np.float32)}
