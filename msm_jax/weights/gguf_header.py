"""The head of a GGUF file, checked before the `gguf` package reads it.

The package believes every count and length in the file: a wrong one makes it loop or allocate
without end. The format: magic, version, number of tensors and of metadata values; then each value
as name, type and content; then each tensor as name, shape, type and place. Integers are
little-endian, a text is its length and its bytes (ggml's docs/gguf.md).
"""

import math
import mmap
import os
import struct

from msm_jax.errors import UserError
from msm_jax.limits import DIMENSION, GGUF_ENTRIES, TOKENIZER_BYTES, open_regular

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_STRING, _ARRAY = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes, by type
_MOST_AXES = 4  # GGML_MAX_DIMS


class _Reader:
    """Walks over the bytes of a file; ValueError where they end."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at, self.entries = data, 0, 0

    def skip(self, count: int) -> None:
        """Go on by so many bytes."""
        self.at += count
        if self.at > len(self.data):
            raise ValueError("it ends within its metadata")
        if self.at > TOKENIZER_BYTES:
            raise ValueError(f"its metadata have more bytes than {TOKENIZER_BYTES}")

    def number(self, form: str) -> int:
        """An integer of this `struct` format."""
        start = self.at
        self.skip(struct.calcsize(form))
        return struct.unpack_from(form, self.data, start)[0]

    def text(self) -> None:
        """Go on over a text."""
        self.skip(self.number("<Q"))

    def count(self, number: int) -> int:
        """So many more entries."""
        self.entries += number
        if self.entries > GGUF_ENTRIES:
            raise ValueError(f"it has more metadata values and tensors than {GGUF_ENTRIES}")
        return number

    def value(self) -> None:
        """Go on over a type and what is of that type."""
        kind, number = self.number("<I"), 1
        if kind == _ARRAY:
            kind, number = self.number("<I"), self.count(self.number("<Q"))
        if kind == _STRING:
            for _ in range(number):
                self.text()
        elif kind in _SIZES:
            self.skip(number * _SIZES[kind])
        else:
            raise ValueError(f"metadata of type {kind} are not known")

    def tensor(self) -> None:
        """Go on over the description of a tensor."""
        self.text()
        axes = self.number("<I")
        if axes > _MOST_AXES:
            raise ValueError(f"a tensor has {axes} axes, more than {_MOST_AXES}")
        shape = [self.number("<Q") for _ in range(axes)]
        if any(size > DIMENSION for size in shape) or math.prod(shape) >= 2**62:
            raise ValueError(f"a tensor has shape {shape}, which no file can hold")
        self.skip(4 + 8)  # its type and place


def check_header(path: str | os.PathLike) -> None:
    """Walk over the metadata and the descriptions of the tensors.

    UserError for a count or length that the file cannot have, or that is above a limit.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size < 24:
            raise UserError(f"{path}: is not a complete GGUF file (it is too short)")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                _walk(_Reader(data))
            except ValueError as error:
                raise UserError(f"{path}: is not a complete GGUF file ({error})") from error


def _walk(reader: _Reader) -> None:
    if reader.data[:4] != _MAGIC:
        raise ValueError("it does not begin with GGUF")
    reader.skip(4)
    if (version := reader.number("<I")) not in _VERSIONS:
        raise ValueError(f"its version is {version}, or it is big-endian; known are {_VERSIONS}")
    tensors, values = reader.count(reader.number("<Q")), reader.count(reader.number("<Q"))
    for _ in range(values):
        reader.text()
        reader.value()
    for _ in range(tensors):
        reader.tensor()
