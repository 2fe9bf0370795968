"""Rows on disk by key, such as replies by the hash of their request: nothing is paid for twice."""

import io
import json
import os
import pathlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, BinaryIO

from msm_jax.errors import UserError
from msm_jax.files import append, dumps, lock

FILE = "responses.jsonl"


class Journal:
    """An append-only JSONL file of objects with a "key"; the last row of a key counts.

    It is used within a `with` block, which may be entered again. Within the block no other process
    can enter the file; threads may share it. Entering drops a last line that a kill cut off.

    Args:
      path: of the file, made if it is missing; None keeps the rows in memory.
      advice: what to do while another process uses the file.
    """

    def __init__(
        self, path: str | os.PathLike | None, advice: str = "wait for it, or use another folder"
    ):
        self.path = pathlib.Path(path) if path else None
        self._advice, self._depth, self._stack = advice, 0, ExitStack()
        self._file: BinaryIO = io.BytesIO()
        self._places: dict[str, int] = {}
        self._end = 0
        self._mutex = threading.RLock()

    def __enter__(self) -> "Journal":
        if not self._depth and self.path:
            busy = f"{self.path}: another process writes here: {self._advice}"
            with ExitStack() as stack:
                stack.enter_context(lock(f"{self.path}.lock", busy))
                self._file = stack.enter_context(self.path.open("a+b"))
                self._read(self.path)
                self._stack = stack.pop_all()
        self._depth += 1
        return self

    def __exit__(self, *_) -> None:
        self._depth -= 1
        if not self._depth:
            self._stack.close()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._places))

    def get(self, key: str) -> dict[str, Any] | None:
        """The row of a key, None if there is none."""
        with self._mutex:
            if key not in self._places:
                return None
            self._file.seek(self._places[key])
            return json.loads(self._file.readline())

    def put(self, key: str, row: Mapping[str, Any]) -> None:
        """Append a row; when this returns, neither a kill nor a power cut can lose it."""
        line = dumps({"key": key, **row}).encode() + b"\n"
        with self._mutex:
            if self.path:
                append(self.path, line)
            else:
                self._file.seek(0, os.SEEK_END)
                self._file.write(line)
            self._places[key] = self._end
            self._end += len(line)

    def _read(self, path: pathlib.Path) -> None:
        """What was added to the file since it was last read."""
        self._file.seek(self._end)
        for line in self._file:
            if not line.endswith(b"\n"):
                self._file.truncate(self._end)
                break
            try:
                self._places[json.loads(line)["key"]] = self._end
            except (ValueError, KeyError, TypeError) as error:
                number = path.read_bytes()[: self._end].count(b"\n") + 1
                raise UserError(f"{path}:{number}: not a reply ({error}): delete it") from error
            self._end += len(line)
