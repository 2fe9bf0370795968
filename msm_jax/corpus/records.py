"""Corpus records as JSONL: one JSON object per line, each with a `text` or `messages`."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from msm_jax.errors import UserError

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # JSON can spell what UTF-8 cannot hold


def read_rows(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each row; blank lines are passed over."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _parse(line, f"{path}:{number}")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}: check the path") from error


def document_records(path: str | os.PathLike) -> Iterator[dict[str, str]]:
    """The rows as `text`, `id` and `provenance`, which is all other keys as a JSON object."""
    for number, row in read_rows(path):
        text, name = row.pop("text", None), row.pop("id", f"line-{number:06d}")
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{path}:{number}: a document needs a non-empty 'text'")
        if _HALF_CHARACTER.search(f"{text}{name}"):
            raise UserError(f"{path}:{number}: half a character (\\ud...) in it: mend the line")
        yield {"text": text, "id": str(name), "provenance": json.dumps(row, sort_keys=True)}


def file_hash(path: str | os.PathLike) -> str:
    """SHA-256 of the file's bytes."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}: check the path") from error


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        # utf-8-sig because some editors start a file with a byte order mark.
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text: save the file as UTF-8") from error
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}): mend or delete the line") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: a row must be a JSON object, not {type(row).__name__}")
    return row
