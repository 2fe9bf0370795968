"""A Hugging Face checkpoint into parameters: every tensor is accounted for, or refused."""

import functools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from msm_jax.errors import UserError
from msm_jax.model import ModelConfig, abstract_params, param_shardings
from msm_jax.model.eightbit import to_eight_bits
from msm_jax.weights.hf_config import read_config
from msm_jax.weights.names import DERIVED, Entry, entries
from msm_jax.weights.streaming import SLAB, read_entry
from msm_jax.weights.tensor_files import NotFinite, Stored, find_tensors, in_lines

FLOATS = ("bfloat16", "float16", "float32")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def load_checkpoint(
    directory: str | os.PathLike, dtype: str | None = None, mesh: jax.sharding.Mesh | None = None
) -> tuple[ModelConfig, dict]:
    """The model of a directory with config.json and *.safetensors, as transformers writes it.

    Args:
      dtype: of weights and activations, "float32" or "bfloat16"; "int8" or "float8" for bfloat16
        with the projections' weights in 8 bits, which are rounded as they are read; None: as the
        embedding is stored, and float32 for float16.
      mesh: shards the weights as `param_shardings` says; None: all on the first device.

    UserError lists, before anything is read, all tensors that are missing, unknown, there twice, or
    of a wrong shape or dtype.
    """
    config, tensors = find_checkpoint(directory, dtype)
    return config, read_params(config, list(entries(config)), tensors, config.plain_dtype, mesh)


def find_checkpoint(
    directory: str | os.PathLike, dtype: str | None = None
) -> tuple[ModelConfig, dict[str, Stored]]:
    """The model and its tensors on disk, unread; arguments and errors as `load_checkpoint`."""
    path = pathlib.Path(directory)
    config = read_config(path)  # before the weights: an unsupported model is refused first
    tensors = find_tensors(path)
    if dtype is None:
        stored = tensors[EMBEDDING].dtype.name if EMBEDDING in tensors else "float32"
        dtype = "bfloat16" if stored == "bfloat16" else "float32"
    problems = check(list(entries(config)), tensors, config.tied_embeddings)
    if problems:
        raise UserError(
            f"{path}: its tensors are not those of its config.json:\n  " + in_lines(problems)
        )
    return config.stored_as(dtype), tensors


def read_params(
    config: ModelConfig,
    needed: Sequence[Entry],
    tensors: Mapping[str, Stored],
    dtype: str,
    mesh: jax.sharding.Mesh | None,
) -> dict:
    """The tree of these parameters, sharded as `param_shardings` says.

    They are read in `dtype`; where the config has weights in 8 bits, these are rounded one
    parameter at a time. UserError that names tensors with NaN or infinity.
    """
    places, shapes = param_shardings(config, mesh), abstract_params(config)
    params: dict = {}
    for entry in needed:
        *above, name = entry.path
        node = functools.reduce(lambda tree, key: tree.setdefault(key, {}), above, params)
        place = functools.reduce(dict.__getitem__, entry.path, places)
        try:
            node[name] = read_entry(entry, tensors, dtype, place)
        except NotFinite as error:
            raise _not_finite_error(tensors) from error
        scale = functools.reduce(dict.__getitem__, above, shapes).get("w_scale")
        if name == "w" and scale is not None:
            node |= to_eight_bits(node[name], config.param_dtype, scale.ndim)
    return params


def _not_finite_error(tensors: Mapping[str, Stored]) -> UserError:
    place = next(iter(tensors.values())).file.parent
    return UserError(
        f"{place}: has weights that are not finite: its files are damaged, or its training "
        f"diverged: get it again, or use another one; `python -m msm_jax.convert --source={place} "
        "--check` describes the rest of it:\n  " + in_lines(not_finite(tensors))
    )


def check(needed: Sequence[Entry], tensors: Mapping[str, Stored], tied: bool) -> list[str]:
    """Every difference between the tensors that a model needs and those in its files."""
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
    """Bit for bit."""
    same = (one.shape, one.dtype) == (other.shape, other.dtype)
    return same and all(
        a.tobytes() == b.tobytes() for a, b in zip(_slabs(one), _slabs(other), strict=True)
    )


def _slabs(stored: Stored) -> Iterator[np.ndarray]:
    """A tensor, some of its rows at a time."""
    step = max(1, SLAB * len(stored) // max(1, stored.bytes))
    for start in range(0, len(stored), step):
        yield stored.read(start, start + step)


def not_finite(tensors: Mapping[str, Stored]) -> list[str]:
    """The tensors that hold NaN or infinity, with their counts; every byte is read."""
    found = []
    for name, stored in tensors.items():
        slabs = _slabs(stored) if stored.dtype.name in FLOATS else ()
        if count := sum(int(np.count_nonzero(~np.isfinite(slab))) for slab in slabs):
            found.append(f"{name}: {count} of its numbers are not finite")
    return found
