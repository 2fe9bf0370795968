"""Where arrays lie on many devices, by the axes and rules of axes.py."""

import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from msm_jax.errors import UserError
from msm_jax.model.axes import AXES, BATCH_AXES, RULES
from msm_jax.model.config import ModelConfig
from msm_jax.model.decoder import abstract_params, logical_axes


def make_mesh(sizes: Mapping[str, int], devices=None) -> Mesh:
    """A mesh over all devices; at most one size may be -1, which takes what the others leave.

    Raises:
      UserError: an unknown axis, sizes that are no whole numbers, or whose product is not the
        number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if unknown := [name for name in sizes if name not in AXES]:
        raise UserError(f"mesh: there is no axis {unknown[0]!r}; known: {', '.join(AXES)}")
    shape = [sizes.get(axis, 1) for axis in AXES]
    if wrong := [size for size in shape if not isinstance(size, int) or isinstance(size, bool)]:
        raise UserError(f"mesh: {wrong[0]!r} is no size: must be a whole number")
    asked = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise UserError(f"{asked}: sizes are at least 1, and one of them may be -1 (what is left)")
    fixed = math.prod(size for size in shape if size != -1)
    if -1 in shape and len(devices) % fixed == 0:
        shape[shape.index(-1)] = len(devices) // fixed
    if -1 in shape or math.prod(shape) != len(devices):
        raise UserError(
            f"{asked}: impossible mesh: {'a multiple of ' if -1 in shape else ''}{fixed} devices "
            f"are asked for, this machine has {len(devices)} ({devices[0].device_kind})"
        )
    return Mesh(np.asarray(devices).reshape(shape), AXES)


def param_shardings(config: ModelConfig, mesh: Mesh) -> dict:
    """The tree of `init_params` with a NamedSharding per leaf.

    Raises:
      UserError: naming every dimension that its mesh axis does not divide, or axes that lack.
    """
    if lacking := [axis for axis in AXES if axis not in mesh.shape]:
        raise UserError(
            f"the mesh has axes {tuple(mesh.shape)} and lacks {lacking}: make it by "
            "msm_jax.model.make_mesh, or give sizes such as {'fsdp': 8}"
        )
    wrong = set()

    def sharding(leaf, axes):
        for size, name in zip(leaf.shape, axes, strict=True):
            cut = RULES.get(name) or ()
            cut = (cut,) if isinstance(cut, str) else cut
            if size % math.prod(mesh.shape[axis] for axis in cut):
                asked = " x ".join(f"mesh.{axis}={mesh.shape[axis]}" for axis in cut)
                wrong.add(f"{name} has {size}, {asked}")
        return NamedSharding(mesh, PartitionSpec(*(RULES.get(name) for name in axes)))

    shapes, axes = abstract_params(config), logical_axes(config)
    shardings = jax.tree.map(sharding, shapes, axes)
    if wrong:
        raise UserError(f"the model cannot be cut by the mesh: {'; '.join(sorted(wrong))}")
    return shardings


def batch_sharding(mesh: Mesh, rows: int, length: int) -> NamedSharding:
    """Of arrays [B, T]; UserError where rows or tokens cannot be dealt to their axes evenly."""
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if rows % parts:
        asked = " x ".join(f"mesh.{axis}={mesh.shape[axis]}" for axis in BATCH_AXES)
        raise UserError(f"rows={rows} of a micro-batch cannot be dealt to {asked} devices evenly")
    if length % mesh.shape["sequence"]:
        raise UserError(
            f"sequence_length={length} cannot be cut evenly by mesh.sequence="
            f"{mesh.shape['sequence']}"
        )
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES, "sequence"))
