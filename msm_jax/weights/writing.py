"""Directories of weights, written aside and renamed; tensors pass through the host one by one."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from msm_jax.errors import UserError
from msm_jax.model import ModelConfig
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

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entry.file_shape

    def bytes(self, dtype) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def pieces(entries: Iterable[Entry]) -> list[Piece]:
    """Every tensor of these parameters, layer by layer, as checkpoints have them."""
    found = [
        Piece(name, entry, layer) for entry in entries for layer, name in enumerate(entry.names)
    ]
    place = {"model.embed_tokens.weight": -1, "model.norm.weight": 10**9, "lm_head.weight": 10**9}
    return sorted(found, key=lambda piece: place.get(piece.name, piece.layer))


def host_array(piece: Piece, config: ModelConfig, params: dict, dtype) -> np.ndarray:
    """A tensor as the file has it, in the host's memory; on many hosts all of them have to ask.

    Where the parameters have an adapter, its contribution is added to the weight.
    """
    node = functools.reduce(dict.__getitem__, piece.entry.path[:-1], params)
    leaf = node[piece.entry.path[-1]]
    if piece.entry.path[-1] == "w" and "lora_a" in node:
        scale = np.float32(config.lora_scale)
        array = _merged_layer(scale, leaf, node["lora_a"], node["lora_b"], piece.layer)
    elif piece.entry.stacked:
        array = _layer(leaf, piece.layer)
    else:
        array = leaf
    array = array.astype(dtype)
    if not array.is_fully_addressable:
        from jax.experimental import multihost_utils

        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array).reshape(piece.shape)


_layer = jax.jit(functools.partial(jax.lax.dynamic_index_in_dim, keepdims=False))


@jax.jit
def _merged_layer(scale, w_L, a_L, b_L, layer):
    return merged(scale, *(_layer(leaf, layer) for leaf in (w_L, a_L, b_L)))


def merged(scale, w, a, b):
    """w + scale * b a, summed in float32 and rounded to w's dtype once."""
    return (w.astype(jnp.float32) + scale * jnp.tensordot(b, a, 1)).astype(w.dtype)


def write_tensors(
    file: pathlib.Path, sources: Sequence[Piece], dtype, arrays: Iterator[np.ndarray]
) -> None:
    """A safetensors file of these tensors, in this order; only the first process writes it."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for source in sources:
        stop = at + source.bytes(dtype)
        header[source.name] = {
            "dtype": _SPELLED[np.dtype(dtype)],
            "shape": list(source.shape),
            "data_offsets": [at, stop],
        }
        at = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that tensors begin at a multiple of 8
    first = jax.process_index() == 0
    with open(file if first else os.devnull, "wb") as writer:
        writer.write(struct.pack("<Q", len(text)) + text)
        for _, array in zip(sources, arrays, strict=True):
            view = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            for start in range(0, len(view), _CHUNK):
                writer.write(view[start : start + _CHUNK])
        writer.flush()
        if first:
            os.fsync(writer.fileno())


@contextlib.contextmanager
def new_directory(directory: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A directory to fill, which takes its place when the block ends well; else nothing is left.

    Raises:
      UserError: the place is taken by a file or by a directory that holds something.
    """
    target = pathlib.Path(directory).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{directory}: exists and is not empty; choose another place or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.partial")
    first = jax.process_index() == 0
    if first:
        shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
        aside.mkdir()
    _together("begin", aside)
    try:
        yield aside
        _together("end", aside)
        if first:
            if target.exists():
                target.rmdir()
            os.replace(aside, target)
    except BaseException:
        if first:
            shutil.rmtree(aside, ignore_errors=True)
        raise
    _together("renamed", aside)


def _together(what: str, place: pathlib.Path) -> None:
    """Wait until every process has come here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"{what} {place}")


def write_json(file: pathlib.Path, content: dict) -> None:
    """Only the first process writes it."""
    if jax.process_index() == 0:
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
