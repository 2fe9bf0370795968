"""Tensors of files into sharded arrays, without a copy of the model in the host's memory.

Every tensor is read in slabs of rows, each once per process, and copied to the devices of the
process that hold a part of it. On the CPU the slabs are read straight into the final array; for
other devices a layer at a time is inserted into a stack on the device.

Files can only be read by rows. If a mesh shards columns over processes, every process would have to
read all of them; instead each reads its share of the rows, and the devices exchange them.
"""

import concurrent.futures
import functools
import itertools
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from msm_jax.weights.names import Entry
from msm_jax.weights.tensor_files import Stored, check_finite

SLAB = 32 * 2**20  # bytes read at a time
READERS = 2  # threads
ALIGNED = 64  # bytes; XLA's CPU backend uses arrays at such an address without a copy


def read_entry(
    entry: Entry,
    tensors: Mapping[str, Stored],
    dtype: Any,
    sharding: jax.sharding.Sharding,
    layers_at_once: int | None = None,
) -> jax.Array:
    """A parameter from its tensors, with this dtype and sharding; NotFinite for NaN or infinity.

    At most `layers_at_once` of a stack are in the host's memory; None: all on the CPU, else one.
    """
    dtype = np.dtype(dtype)
    if _processes_share_columns(entry, sharding):
        return _read_together(entry, tensors, dtype, sharding)
    stack = entry.shape if entry.stacked else (1, *entry.shape)
    indices = sharding.addressable_devices_indices_map(entry.shape)
    parts = {}
    for device, index in indices.items():
        index = index if entry.stacked else (slice(None), *index)
        parts[device] = [slice(*p.indices(size)[:2]) for p, size in zip(index, stack, strict=True)]
    files = [tensors[name] for name in entry.names]
    if layers_at_once is None:
        on_cpu = all(device.platform == "cpu" for device in parts)
        layers_at_once = len(files) if on_cpu else 1
    buffers: dict = {}
    for start in range(0, len(files), layers_at_once):
        group = files[start : start + layers_at_once]
        hosts = {
            device: _aligned([len(group), *(each.stop - each.start for each in part[1:])], dtype)
            for device, part in parts.items()
        }
        _fill(group, entry, hosts, parts)
        for device, host in hosts.items():
            if layers_at_once >= len(files):
                buffers[device] = jax.device_put(host if entry.stacked else host[0], device)
                continue
            if not start:
                shape = (len(files), *host.shape[1:])
                buffers[device] = jnp.zeros(shape, dtype, device=device)
            buffers[device] = _insert(buffers[device], jax.device_put(host, device), start)
        # At most one group is in the host's memory.
        jax.block_until_ready(list(buffers.values()))
    return jax.make_array_from_single_device_arrays(
        entry.shape, sharding, [buffers[device] for device in indices]
    )


def _processes_share_columns(entry: Entry, sharding: jax.sharding.Sharding) -> bool:
    """Whether this process's devices hold only a part of the columns of the rows they hold."""
    if jax.process_count() == 1 or not isinstance(sharding, jax.sharding.NamedSharding):
        return False
    if entry.file_shape[0] % sharding.mesh.size:
        return False  # rows that cannot be split evenly are few
    columns = range(1 + entry.stacked, len(entry.shape))
    held = sharding.addressable_devices_indices_map(entry.shape).values()
    return any(
        len({index for part in held for index in range(*part[axis].indices(entry.shape[axis]))})
        < entry.shape[axis]
        for axis in columns
    )


def _read_together(
    entry: Entry, tensors: Mapping[str, Stored], dtype: Any, sharding: Any
) -> jax.Array:
    """A parameter from its tensors; every process has to call it."""
    mesh = sharding.mesh
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=sharding)
    def insert(stack, tensor, layer):
        tensor = tensor.astype(dtype).reshape(entry.tensor_shape)
        if not entry.stacked:
            return tensor
        return jax.lax.dynamic_update_index_in_dim(stack, tensor, layer, 0)

    stack = jax.jit(functools.partial(jnp.zeros, entry.shape, dtype), out_shardings=sharding)()
    for layer, name in enumerate(entry.names):
        read = functools.partial(_rows, tensors[name])
        tensor = jax.make_array_from_callback(entry.file_shape, rows, read)
        stack = jax.block_until_ready(insert(stack, tensor, layer))
    return stack


def _rows(stored: Stored, index: tuple[slice, ...]) -> np.ndarray:
    first, stop, _ = index[0].indices(len(stored))
    array = stored.read(first, stop)
    check_finite(array.reshape(-1).view(np.uint8), stored.dtype)
    return array


@functools.partial(jax.jit, donate_argnums=0)
def _insert(stack, group, start):
    return jax.lax.dynamic_update_slice_in_dim(stack, group, start, 0)


def _fill(files: Sequence[Stored], entry: Entry, hosts: dict, parts: dict) -> None:
    """Read each slab once, into all arrays that need it."""
    shape = entry.tensor_shape
    rows = entry.file_shape[0] // shape[0]  # of the file for one index of our first axis
    row_bytes = math.prod(entry.file_shape[1:]) * files[0].dtype.itemsize
    step = max(1, SLAB // max(1, rows * row_bytes))
    wanted = sorted({(part[1].start, part[1].stop) for part in parts.values()})
    slabs = [
        (layer, at, min(at + step, stop), (first, stop))
        for layer, (first, stop) in itertools.product(range(len(files)), wanted)
        for at in range(first, stop, step)
    ]

    mine = threading.local()

    def scratch(dtype, shape):
        """Memory of this thread, reused: fresh pages cost as much as reading."""
        size = math.prod(shape) * dtype.itemsize
        if getattr(mine, "bytes", np.empty(0)).size < size:
            mine.bytes = np.empty(size, np.uint8)
        return mine.bytes[:size].view(dtype).reshape(shape)

    def read(slab):
        layer, first, stop, span = slab
        takers = [d for d, part in parts.items() if (part[1].start, part[1].stop) == span]
        places = [hosts[d][layer, first - span[0] : stop - span[0]] for d in takers]
        direct = places[0].shape[1:] == shape[1:] and files[layer].dtype == places[0].dtype
        array = places[0] if direct else scratch(files[layer].dtype, (stop - first, *shape[1:]))
        files[layer].read_into(array, first * rows)
        for device, place in list(zip(takers, places, strict=True))[direct:]:
            _copy(array[(slice(None), *parts[device][2:])], place)

    with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
        for _ in readers.map(read, slabs):
            pass


def _copy(source: np.ndarray, target: np.ndarray) -> None:
    if (source.dtype, target.dtype) == (ml_dtypes.bfloat16, np.float32):
        # The upper half of the same bits; five times as fast as the conversion of ml_dtypes.
        bits = target.view(np.uint32)
        np.left_shift(source.view(np.uint16), 16, out=bits, dtype=np.uint32)
    else:
        target[...] = source


def _aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Uninitialised, at an address that JAX uses without a copy."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + ALIGNED, np.uint8)
    start = -raw.ctypes.data % ALIGNED
    return raw[start : start + size].view(dtype).reshape(shape)
