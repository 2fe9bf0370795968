"""The rows of data files: JSONL, Parquet, ArrayRecord and TFDS, behind one iterator.

    NAME.jsonl, NAME.jsonl.gz, NAME.jsonl.zst   one JSON object a line
    NAME.parquet                                columns are keys
    NAME.array_record                           one JSON object a record
    tfds:DIR                                    `spec_documents` as `tfds_sets.prepare` wrote it

Names may hold * and ?, for the shards of one corpus, which are read in the order of their names.
What a row may be: `corpus/rows.py`.
"""

import glob
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from msm_jax.corpus.records import DOCUMENTS, parse_row, read_lines, read_parquet
from msm_jax.errors import UserError
from msm_jax.files import sha256_file, sha256_text

TFDS = "tfds:"
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".array_record")

Row = dict[str, Any]


def source_files(path: str) -> list[pathlib.Path]:
    """The files of a source; UserError if there are none, or they are of an unknown kind."""
    if not path.removeprefix(TFDS):
        raise UserError(f"{path!r} names no files: set path")
    if path.startswith(TFDS):
        folder = pathlib.Path(path.removeprefix(TFDS))
        found = sorted(file for file in folder.rglob("*") if file.is_file())
    elif any(letter in path for letter in "*?") and not os.path.exists(path):
        found = [pathlib.Path(name) for name in sorted(glob.glob(path.replace("[", "[[]")))]
    else:
        found = [pathlib.Path(path)]
    if not found:
        raise UserError(f"{path}: there are no such files: check the path")
    for file in found:
        if not path.startswith(TFDS) and not file.name.endswith(SUFFIXES):
            raise UserError(f"{file}: data files are {', '.join(SUFFIXES)}, or {TFDS}DIRECTORY")
    return found


def source_hash(path: str) -> str:
    """SHA-256 of the content of a source, wherever its files are."""
    hashes = [sha256_file(file) for file in source_files(path)]
    return hashes[0] if len(hashes) == 1 else sha256_text("".join(hashes))


def read_source(
    path: str, encoding_errors: str = "strict"
) -> Iterator[tuple[str, Row | UserError]]:
    """(where, row) of each row in order; instead of a row that cannot be read, why.

    With encoding_errors="replace", bytes that are not UTF-8 become U+FFFD. UserError for a file
    that cannot be read at all, or is damaged.
    """
    if path.startswith(TFDS):
        from msm_jax.corpus.tfds_sets import source

        folder = path.removeprefix(TFDS)
        for number, row in enumerate(source(DOCUMENTS, folder), start=1):
            yield f"{folder}:{number}", row
        return
    for file in source_files(path):
        name = str(file)
        if name.endswith(".parquet"):
            for number, row in read_parquet(name):
                yield f"{name}:{number}", row
        elif name.endswith(".array_record"):
            yield from _read_array_record(name, encoding_errors)
        else:
            for number, at, line in read_lines(name):
                yield _parsed(line, f"{name}:{number}", at, encoding_errors)


def _parsed(line: bytes, where: str, at: int, errors: str) -> tuple[str, Row | UserError]:
    try:
        return where, parse_row(line, where, at, errors)
    except UserError as error:
        return where, error


def _read_array_record(path: str, errors: str) -> Iterator[tuple[str, Row | UserError]]:
    from array_record.python import array_record_data_source

    if not os.path.exists(path):
        raise UserError(f"{path}: cannot be read: there is no such file")
    try:
        with array_record_data_source.ArrayRecordDataSource([path]) as source:
            for number in range(len(source)):
                yield _parsed(source[number], f"{path}:{number + 1}", 0, errors)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: not a whole ArrayRecord file: {error}") from error
