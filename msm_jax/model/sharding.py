"""How arrays are sharded over devices, by the axes and rules of axes.py."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from msm_jax.errors import UserError
from msm_jax.model.axes import AXES, BATCH_AXES, RULES
from msm_jax.model.config import ModelConfig
from msm_jax.model.decoder import abstract_params, logical_axes


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices, of size 1 for missing axes; one size may be -1: what is left."""
    devices = jax.devices() if devices is None else devices
    if unknown := [name for name in sizes if name not in AXES]:
        raise UserError(f"mesh: there is no axis {unknown[0]!r}; known: {', '.join(AXES)}")
    shape = [sizes.get(axis, 1) for axis in AXES]
    if wrong := [size for size in shape if not isinstance(size, int) or isinstance(size, bool)]:
        raise UserError(f"mesh: {wrong[0]!r} is no size: must be a whole number")
    given = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise UserError(f"{given}: sizes are at least 1, and one of them may be -1 (what is left)")
    fixed = math.prod(size for size in shape if size != -1)
    if -1 in shape and len(devices) % fixed == 0:
        shape[shape.index(-1)] = len(devices) // fixed
    if -1 in shape or math.prod(shape) != len(devices):
        raise UserError(
            f"{given}: impossible mesh: {'a multiple of ' if -1 in shape else ''}{fixed} devices "
            f"are needed, this machine has {len(devices)} ({devices[0].device_kind})"
        )
    return Mesh(np.asarray(devices).reshape(shape), AXES)


def param_shardings(config: ModelConfig, mesh: Mesh | None) -> dict:
    """The tree of `init_params` with a sharding per leaf; without a mesh that of the first device.

    UserError names every dimension that its mesh axis does not divide, or axes that are missing.
    """
    shapes = abstract_params(config)
    if mesh is None:
        here = SingleDeviceSharding(jax.local_devices()[0])
        return jax.tree.map(lambda _: here, shapes)
    if lacking := [axis for axis in AXES if axis not in mesh.shape]:
        raise UserError(
            f"the mesh has axes {tuple(mesh.shape)} and lacks {lacking}: make it by "
            "msm_jax.model.make_mesh, or give sizes such as {'fsdp': 8}"
        )
    wrong = set()

    def sharding(leaf: jax.ShapeDtypeStruct, axes: tuple[str, ...]) -> NamedSharding:
        for size, name in zip(leaf.shape, axes, strict=True):
            over = RULES.get(name) or ()
            over = (over,) if isinstance(over, str) else over
            if size % math.prod(mesh.shape[axis] for axis in over):
                sizes = " x ".join(f"mesh.{axis}={mesh.shape[axis]}" for axis in over)
                wrong.add(f"{name} has {size}, {sizes}")
        return NamedSharding(mesh, PartitionSpec(*(RULES.get(name) for name in axes)))

    shardings = jax.tree.map(sharding, shapes, logical_axes(config))
    if wrong:
        raise UserError(f"the mesh does not divide the model: {'; '.join(sorted(wrong))}")
    return shardings


def placed(shapes: Any, shardings: Any) -> Any:
    """A tree of `jax.ShapeDtypeStruct`s with the shardings of a second one."""
    place = lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s)
    return jax.tree.map(place, shapes, shardings)


def batch_sharding(mesh: Mesh, rows: int, length: int) -> NamedSharding:
    """Of arrays [B, T]; UserError if the mesh does not divide rows or tokens."""
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if rows % parts:
        sizes = " x ".join(f"mesh.{axis}={mesh.shape[axis]}" for axis in BATCH_AXES)
        raise UserError(f"rows={rows} of a micro-batch are not a multiple of {sizes} devices")
    if length % mesh.shape["sequence"]:
        raise UserError(
            f"sequence_length={length} is not a multiple of mesh.sequence={mesh.shape['sequence']}"
        )
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES, "sequence"))
