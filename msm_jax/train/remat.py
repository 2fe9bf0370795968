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

from msm_jax import accelerators
from msm_jax.errors import UserError
from msm_jax.files import read_json
from msm_jax.model import ModelConfig
from msm_jax.train import hosts
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
    model, why = choose(model, lower, memory)
    return model, f"the fastest that fits: {why}"


def choose(
    model: ModelConfig, lower: Callable[[ModelConfig], Any], memory: float
) -> tuple[ModelConfig, str]:
    """(the model with the first remat whose step fits in `memory`, bytes, less MARGIN; why).

    UserError that names what each needs, if none does.
    """
    room, needs = (1 - MARGIN) * memory, []
    has = f"a device has {room / 2**20:,.0f} ({1 - MARGIN:.0%} of its memory)"
    for remat in FASTEST_FIRST:
        model = dataclasses.replace(model, remat=remat)
        needed = _needed(lower(model))
        needs.append(f"{remat} needs {needed / 2**20:,.0f} MiB")
        if needed <= room:
            return model, f"{', '.join(needs)}; {has}"
    raise UserError(
        f"model.remat=auto: the step does not fit in memory: {', '.join(needs)}; {has}: raise "
        "accumulation, lower rows or sequence_length, or use more devices"
    )


def _needed(lowered: Any) -> float:
    """Bytes of a device; infinite where the compiler itself gives up."""
    try:
        found = lowered.compile().memory_analysis()
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
