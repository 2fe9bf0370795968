"""The safetensors files of a directory: where each tensor is, checked before anything is read.

The format: 8 bytes little-endian header length, a JSON header of {name: {dtype, shape,
data_offsets}}, then the tensors' bytes without gaps. It is parsed here, because its library neither
reports all problems at once nor reads a part of a tensor into memory of the caller's.
"""

import dataclasses
import math
import os
import pathlib
import struct
from collections.abc import Iterator, Sequence

import ml_dtypes
import numpy as np

from msm_jax.errors import UserError
from msm_jax.files import parse_json
from msm_jax.limits import HEADER_BYTES, JSON_BYTES, SHARDS, read_bytes
from msm_jax.links import is_name
from msm_jax.weights import keys

DTYPES = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
SHOWN = 20  # problems listed in one message
CHUNK = 512 * 1024  # bytes; what was read is still in the processor's cache when it is checked
# dtype -> integers of its width, and their first bits with the exponent of NaN and infinity.
_SPECIAL = {
    "bfloat16": (np.int16, np.uint16, 0x7F80, 0xFF80),
    "float16": (np.int16, np.uint16, 0x7C00, 0xFC00),
    "float32": (np.int32, np.uint32, 0x7F80_0000, 0xFF80_0000),
}
INDEX = "model.safetensors.index.json"


class NotFinite(ValueError):
    """A tensor that was read holds NaN or infinity."""


def check_finite(array: np.ndarray, dtype: np.dtype) -> None:
    """NotFinite if these bytes, as numbers of `dtype`, hold NaN or infinity.

    The exponent of those is the largest, so as integers they are above all other numbers of their
    sign: two maxima find them, several times as fast as `np.isfinite`, and for bfloat16 as well.
    """
    if (rule := _SPECIAL.get(dtype.name)) is None or not array.size:
        return
    signed, unsigned, positive, negative = rule
    if array.view(signed).max() >= positive or array.view(unsigned).max() >= negative:
        raise NotFinite


@dataclasses.dataclass(frozen=True)
class Stored:
    """One tensor on disk; `start` counts bytes from the beginning of the file."""

    file: pathlib.Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def bytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 1

    def read(self, first: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows [first, stop) along the first axis (everything of a scalar), as a new array."""
        first, stop, _ = slice(first, stop).indices(len(self))
        rows = (max(stop - first, 0), *self.shape[1:])
        found = np.empty(rows if self.shape else (), self.dtype)
        for _ in self._filled(found, first):
            pass
        return found

    def read_into(self, array: np.ndarray, first: int = 0) -> None:
        """Fill a contiguous array of this dtype with the rows from `first` on; NotFinite, with the
        array incomplete, for NaN or infinity."""
        if not array.flags.c_contiguous or array.dtype != self.dtype:
            raise ValueError("read_into needs a contiguous array of the tensor's dtype")
        for part in self._filled(array, first):
            check_finite(part, self.dtype)

    def _filled(self, array: np.ndarray, first: int) -> Iterator[np.ndarray]:
        """Fill an array with the rows from `first` on; yields every `CHUNK` bytes when read."""
        flat = array.reshape(-1).view(np.uint8)
        at = self.start + first * math.prod(self.shape[1:]) * self.dtype.itemsize
        with open(self.file, "rb", buffering=0) as file:
            file.seek(at)
            for start in range(0, len(flat), CHUNK):
                part = flat[start : start + CHUNK]
                view, done = memoryview(part.data), 0
                while done < len(view):
                    count = file.readinto(view[done:])
                    if not count:
                        raise UserError(
                            f"{self.file}: ends at byte {at + start + done}, truncated while it "
                            "was read"
                        )
                    done += count
                yield part


def find_tensors(
    directory: str | os.PathLike, single: str = "model.safetensors"
) -> dict[str, Stored]:
    """name -> `Stored` for every tensor of a directory with `single`, or an index and its files.

    UserError lists what is wrong: no files, an index that does not agree with them or names a path
    outside the directory, a damaged file, a tensor in two files, too large headers.
    """
    path = pathlib.Path(directory)
    problems: list[str] = []
    index = path / INDEX
    promised = _read_index(index, problems) if index.exists() else None
    names = sorted(set(promised.values())) if promised is not None else [single]
    found: dict[str, Stored] = {}
    room = int(HEADER_BYTES)
    for name in names:
        if not (path / name).is_file():
            problems.append(f"{name}: is missing")
            continue
        tensors, length = _read_header(path / name, room, problems)
        room -= length
        for tensor, stored in tensors:
            if tensor in found:
                problems.append(f"{tensor}: in {found[tensor].file.name} and again in {name}")
            found[tensor] = stored
    if promised is not None and not problems:
        problems += _disagreements(promised, found)
    if problems:
        raise UserError(f"{path}: cannot be loaded:\n  " + in_lines(problems))
    return found


def in_lines(problems: Sequence[str]) -> str:
    """The first `SHOWN` of them, one a line."""
    more = len(problems) - SHOWN
    return "\n  ".join([*problems[:SHOWN], *([f"and {more} more"] if more > 0 else [])])


def _disagreements(promised: dict[str, str], found: dict[str, Stored]) -> Iterator[str]:
    for tensor, name in sorted(promised.items()):
        if tensor not in found:
            yield f"{tensor}: the index says {name}, where it is not"
        elif found[tensor].file.name != name:
            yield f"{tensor}: in {found[tensor].file.name}, the index says {name}"
    for tensor in sorted(set(found) - set(promised)):
        yield f"{tensor}: in {found[tensor].file.name}, but not in the index"


def _read_index(index: pathlib.Path, problems: list[str]) -> dict[str, str]:
    try:
        weight_map = _json_object(read_bytes(index, JSON_BYTES)).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ValueError("needs an object weight_map, of tensors' names to files' names")
        if len({name for name in weight_map.values() if isinstance(name, str)}) > SHARDS:
            raise ValueError(f"names more files than {SHARDS}")
    except OSError as error:
        problems.append(f"{index.name}: cannot be read: {error.strerror}")
        return {}
    except ValueError as error:
        problems.append(f"{index.name}: {error}")
        return {}
    outside = {keys.shown(name) for name in weight_map.values() if not is_name(name)}
    problems += [
        f"{index.name}: names {name}, which is not a file of this directory"
        for name in sorted(outside)
    ]
    return {tensor: name for tensor, name in weight_map.items() if is_name(name)}


def _read_header(
    file: pathlib.Path, room: int, problems: list[str]
) -> tuple[list[tuple[str, Stored]], int]:
    """The tensors of one file, and the bytes of its header, of which `room` may be read.

    A problem is listed with the file's name; there are no tensors then.
    """
    length = 0
    try:
        size = file.stat().st_size
        with open(file, "rb") as reader:
            prefix = reader.read(8)
            if len(prefix) < 8:
                raise ValueError(f"only {size} bytes long")
            length = struct.unpack("<Q", prefix)[0]
            if length > size - 8:
                raise ValueError(f"says its header has {length} bytes; the file has {size}")
            if length > room:
                raise ValueError(
                    f"its header has {length:,} bytes: with the others more than {HEADER_BYTES}"
                )
            header = _json_object(reader.read(length))
        entries = _entries(header, 8 + length, size)
    except OSError as error:
        problems.append(f"{file.name}: cannot be read: {error.strerror}")
        return [], 0
    except ValueError as error:
        problems.append(f"{file.name}: {error}")
        return [], min(length, room)
    return [(name, Stored(file, *place)) for name, *place in entries], length


def _json_object(text: bytes) -> dict:
    """Strict: an object without duplicate keys; ValueError otherwise."""
    found = parse_json(text)
    if not isinstance(found, dict):
        raise ValueError("is not a JSON object")
    return found


def _entries(header: dict, begin: int, size: int) -> list[tuple]:
    """(name, dtype, shape, start) in file order; ValueError where the header is inconsistent."""
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"{name}: not an entry of dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        kind = DTYPES.get(dtype) if isinstance(dtype, str) else None
        if kind is None:
            raise ValueError(f"{name}: dtype {keys.shown(dtype)} is not supported")
        if not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or len(shape) > 8:
            what = f"shape {keys.shown(shape)} at {keys.shown(offsets)}"
            raise ValueError(f"{name}: {what} is no tensor")
        if offsets[1] - offsets[0] != math.prod(shape) * kind.itemsize:
            raise ValueError(f"{name}: {dtype} {shape} does not fill bytes {offsets}")
        spans.append((offsets[0], offsets[1], name, kind, tuple(shape)))
    spans.sort(key=lambda span: span[:2])
    at = 0
    for start, stop, name, _, _ in spans:
        if start != at:
            raise ValueError(f"{name}: starts at byte {start}, the tensor before it ends at {at}")
        at = stop
    if begin + at != size:
        raise ValueError(f"its tensors end at byte {begin + at}, the file at {size}: truncated?")
    return [(name, dtype, shape, begin + start) for start, _, name, dtype, shape in spans]


def _counts(values) -> bool:
    """A list of whole numbers from 0 up to what a file can hold."""
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)
