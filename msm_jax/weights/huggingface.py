"""A Hugging Face checkpoint directory into parameters: everything accounted for, or refused."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from msm_jax.errors import UserError
from msm_jax.model import ModelConfig, param_shardings
from msm_jax.weights.hf_config import read_config
from msm_jax.weights.names import DERIVED, Entry, entries
from msm_jax.weights.streaming import SLAB, read_entry
from msm_jax.weights.tensor_files import Stored, find_tensors

FLOATS = ("bfloat16", "float16", "float32")
SHOWN = 20  # problems told one by one
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def load_checkpoint(
    directory: str | os.PathLike, dtype: str | None = None, mesh=None
) -> tuple[ModelConfig, dict]:
    """The model of a directory with config.json and *.safetensors.

    Args:
      directory: as `save_pretrained` of transformers writes it, in one file or several.
      dtype: of weights and activations, "float32" or "bfloat16"; None: as the embedding is
        stored, and float32 for float16.
      mesh: to cut the weights by, as `param_shardings` says; None: all on the first device.

    Raises:
      UserError: listing all that is missing, unknown, twice there, or of a wrong shape or dtype;
        nothing has been read by then.
    """
    config, tensors = find_checkpoint(directory, dtype)
    return config, read_params(config, list(entries(config)), tensors, config.param_dtype, mesh)


def find_checkpoint(
    directory: str | os.PathLike, dtype: str | None = None
) -> tuple[ModelConfig, dict[str, Stored]]:
    """The model that a directory describes, and where its tensors lie; nothing of them is read.

    Arguments and errors as for `load_checkpoint`.
    """
    path = pathlib.Path(directory)
    config = read_config(path)  # before the weights: what we do not do is refused first
    tensors = find_tensors(path)
    if dtype is None:
        stored = tensors[EMBEDDING].dtype.name if EMBEDDING in tensors else "float32"
        dtype = "bfloat16" if stored == "bfloat16" else "float32"
    problems = check(list(entries(config)), tensors, config.tied_embeddings)
    if problems:
        raise UserError(
            f"{path}: its tensors are not those of its config.json:\n  " + in_lines(problems)
        )
    return dataclasses.replace(config, dtype=dtype, param_dtype=dtype), tensors


def in_lines(problems: list[str]) -> str:
    """The first `SHOWN` of them, one a line."""
    more = len(problems) - SHOWN
    return "\n  ".join([*problems[:SHOWN], *([f"and {more} more"] if more > 0 else [])])


def read_params(
    config: ModelConfig, needed: list[Entry], tensors: Mapping[str, Stored], dtype, mesh
) -> dict:
    """The tree of these parameters, each where it is to lie."""
    if mesh is None:
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        places = {entry.path: here for entry in needed}
    else:
        leaves = jax.tree_util.tree_leaves_with_path(param_shardings(config, mesh))
        places = {tuple(key.key for key in keys): place for keys, place in leaves}
    params: dict = {}
    for entry in needed:
        *above, name = entry.path
        node = functools.reduce(lambda tree, key: tree.setdefault(key, {}), above, params)
        node[name] = read_entry(entry, tensors, dtype, places[entry.path])
    return params


def check(needed: list[Entry], tensors: Mapping[str, Stored], tied: bool) -> list[str]:
    """Every difference between what a model needs and what its files have, in words."""
    shapes = {name: entry.file_shape for entry in needed for name in entry.names}
    problems = [f"{name}: is missing" for name in shapes if name not in tensors]
    for name, stored in tensors.items():
        if name in shapes:
            if stored.shape != shapes[name]:
                problems.append(
                    f"{name}: has shape {list(stored.shape)}, its config asks for "
                    f"{list(shapes[name])}"
                )
            if stored.dtype.name not in FLOATS:
                problems.append(f"{name}: has dtype {stored.dtype.name}, not one of {FLOATS}")
        elif name == HEAD and tied:
            if EMBEDDING in tensors and not _equal(stored, tensors[EMBEDDING]):
                problems.append(
                    f"{HEAD}: differs from {EMBEDDING}, although tie_word_embeddings is true"
                )
        elif not DERIVED.fullmatch(name):
            problems.append(f"{name}: is not a tensor of this model")
    return problems


def _equal(one: Stored, other: Stored) -> bool:
    """Bit for bit, a slab at a time."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return all(map(np.array_equal, _slabs(one, np.uint8), _slabs(other, np.uint8)))


def _slabs(stored: Stored, dtype) -> Iterator[np.ndarray]:
    """The bits of a tensor, some of its rows at a time."""
    if not stored.shape:
        yield stored.read().reshape(1).view(dtype)
        return
    step = max(1, SLAB // max(1, stored.bytes // max(1, stored.shape[0])))
    for at in range(0, stored.shape[0], step):
        yield stored.read(at, at + step).view(dtype)


def not_finite(tensors: Mapping[str, Stored]) -> list[str]:
    """Tensors that hold NaN or infinity, in words with their count; every byte is read."""
    found = []
    for name, stored in tensors.items():
        if stored.dtype.name not in _EXPONENT:
            continue
        # All bits of the exponent are set.
        mask = _EXPONENT[stored.dtype.name]
        count = sum(int(((bits & mask) == mask).sum()) for bits in _slabs(stored, mask.dtype))
        if count:
            found.append(f"{name}: {count} of its numbers are not finite")
    return found


_EXPONENT = {
    "bfloat16": np.uint16(0x7F80),
    "float16": np.uint16(0x7C00),
    "float32": np.uint32(0x7F800000),
}
