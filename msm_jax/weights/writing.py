"""Safetensors files and directories of weights; tensors pass through the host one by one."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from msm_jax import files
from msm_jax.errors import UserError
from msm_jax.model import ModelConfig
from msm_jax.model.adapter import merged_weight
from msm_jax.weights.names import Entry
from msm_jax.weights.tensor_files import DTYPES

_SPELLED = {dtype: name for name, dtype in DTYPES.items()}
_CHUNK = 64 * 2**20  # bytes written at a time


@dataclasses.dataclass(frozen=True)
class Piece:
    """One tensor of a file: the parameter, and which layer of it, that it comes from."""

    name: str
    entry: Entry
    layer: int

    def bytes(self, dtype: Any) -> int:
        """Its size in this dtype."""
        return int(np.prod(self.entry.file_shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def pieces(entries: Iterable[Entry]) -> list[Piece]:
    """Every tensor of these parameters, layer by layer, in the order of published checkpoints."""
    found = [
        Piece(name, entry, layer) for entry in entries for layer, name in enumerate(entry.names)
    ]
    place = {"model.embed_tokens.weight": -1, "model.norm.weight": 10**9, "lm_head.weight": 10**9}
    return sorted(found, key=lambda piece: place.get(piece.name, piece.layer))


def host_array(piece: Piece, config: ModelConfig, params: dict, dtype: Any) -> np.ndarray:
    """A tensor in the host's memory, with the file's shape; every process has to call it.

    If the parameter has an adapter, its contribution is added to the weight.
    """
    *path, name = piece.entry.path
    node = functools.reduce(dict.__getitem__, path, params)
    names = [name, "lora_a", "lora_b"] if name == "w" and "lora_a" in node else [name]
    leaves = {each: node[each] for each in names}
    if piece.entry.stacked:
        leaves = {each: _layer(leaf, piece.layer) for each, leaf in leaves.items()}
    array = merged_weight(config.lora_scale, leaves) if len(leaves) > 1 else leaves[name]
    array = array.astype(dtype)
    if not array.is_fully_addressable:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array).reshape(piece.entry.file_shape)


_layer = jax.jit(functools.partial(jax.lax.dynamic_slice_in_dim, slice_size=1))


def write_tensors(
    file: pathlib.Path, sources: Sequence[Piece], dtype: Any, arrays: Iterable[np.ndarray]
) -> None:
    """A safetensors file of these tensors, in this order; only the first process writes it."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for source in sources:
        stop = start + source.bytes(dtype)
        header[source.name] = {
            "dtype": _SPELLED[np.dtype(dtype)],
            "shape": list(source.entry.file_shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that tensors begin at a multiple of 8
    first = jax.process_index() == 0
    place = files.new_file(file) if first else contextlib.nullcontext(os.devnull)
    with place as path, open(path, "wb") as writer:
        writer.write(struct.pack("<Q", len(text)) + text)
        for _, array in zip(sources, arrays, strict=True):
            view = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            for at in range(0, len(view), _CHUNK):
                writer.write(view[at : at + _CHUNK])


def split_into_shards(wanted: Iterable[Piece], dtype: Any, shard_bytes: int) -> list[list[Piece]]:
    """The tensors in their order, in as few files of at most `shard_bytes` as that order allows."""
    if shard_bytes < 1:
        raise UserError(f"shard_bytes={shard_bytes}: must be at least 1")
    shards: list[list[Piece]] = [[]]
    room = shard_bytes
    for piece in wanted:
        size = piece.bytes(dtype)
        if size > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(piece)
        room -= size
    return shards


def write_shards(
    directory: pathlib.Path,
    shards: Sequence[Sequence[Piece]],
    dtype: Any,
    array: Callable[[Piece], np.ndarray],
) -> dict[str, Any]:
    """Write a file per shard, named as transformers does; returns their index, {} for one file."""
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        name = name if len(shards) > 1 else "model.safetensors"
        write_tensors(directory / name, shard, dtype, map(array, shard))
        weight_map |= {piece.name: name for piece in shard}
    total = sum(piece.bytes(dtype) for shard in shards for piece in shard)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return index if len(shards) > 1 else {}


@contextlib.contextmanager
def new_directory(directory: str | os.PathLike) -> Iterator[pathlib.Path]:
    """`files.new_directory` for all processes of a run, of which the first makes and renames it."""
    target = pathlib.Path(directory).absolute()
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            temporary = stack.enter_context(files.new_directory(target))
        elif target.exists() and (target.is_file() or any(target.iterdir())):
            raise UserError(f"{directory}: exists and is not empty: choose another place")
        else:
            temporary = target.with_name(f".{target.name}{files.TEMPORARY}")
        _together("made", target)
        yield temporary
        _together("filled", target)
    _together("renamed", target)


def _together(what: str, place: pathlib.Path) -> None:
    """Wait until every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"{what} {place}")


def write_json(file: pathlib.Path, content: dict) -> None:
    """JSON with transformers' indentation; only the first process writes it."""
    if jax.process_index() == 0:
        files.write_text(file, json.dumps(content, indent=2) + "\n")
