"""Rows on disk by key, such as replies by the hash of their request: nothing is paid for twice.

A row that cannot be read ends no run. It is skipped, counted and named, and its request is sent
again; the rows around it stay what they are.
"""

import io
import json
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import IO, Any, TypeVar

from msm_jax.files import append, dumps, lock, open_own
from msm_jax.limits import ROW_BYTES

FILE = "responses.jsonl"
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
Row = TypeVar("Row")


class Journal:
    """An append-only JSONL file of objects with a "key"; the last row of a key counts.

    It is used within a `with` block, which may be entered again. Within the block no other process
    can enter the file, and a link to it is refused; threads may share it. Entering drops a last
    line that a kill cut off.

    Args:
      path: of the file, made if it is missing; None keeps the rows in memory.
      advice: what to do while another process uses the file.
      say: called at the end of the block with a sentence about rows that could not be read.

    Attributes:
      unreadable: how many rows there were that could not be read.
    """

    def __init__(
        self, path: str | os.PathLike | None, advice: str = "wait for it, or use another folder",
        say: Callable[[str], None] = lambda text: None,
    ):  # fmt: skip
        self.path = pathlib.Path(path) if path else None
        self._advice, self._depth, self._stack, self._say = advice, 0, ExitStack(), say
        self.unreadable, self._said, self._first = 0, 0, ""
        self._file: IO[bytes] = io.BytesIO()
        self._places: dict[str, int] = {}
        self._end = 0
        self._mutex = threading.RLock()

    def __enter__(self) -> "Journal":
        if not self._depth and self.path:
            busy = f"{self.path}: another process writes here: {self._advice}"
            with ExitStack() as stack:
                stack.enter_context(lock(f"{self.path}.lock", busy))
                self._file = stack.enter_context(open_own(self.path, "a+b"))
                self._read()
                self._stack = stack.pop_all()
        self._depth += 1
        return self

    def __exit__(self, *_) -> None:
        self._depth -= 1
        if self.unreadable > self._said and not self._depth:
            self._say(
                f"{self.path}: {self.unreadable} rows cannot be read and are skipped (the first: "
                f"{self._first}); replies that they held are asked for again"
            )
            self._said = self.unreadable
        if not self._depth:
            self._stack.close()

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._places))

    def get(
        self,
        key: str,
        read: Callable[[dict[str, Any]], Row] = dict,  # type: ignore[assignment]
    ) -> Row | None:
        """The row of a key as `read` gives it; None if there is none that can be read.

        Args:
          read: raises ValueError, LookupError, TypeError or AttributeError for a row that is not
            what it should be, which is counted and no longer in the journal.
        """
        with self._mutex:
            if key not in self._places:
                return None
            self._file.seek(self._places[key])
            try:
                return read(json.loads(self._file.readline()))
            except _UNREADABLE as error:
                self._skip(self._places.pop(key), error)
                return None

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

    def _read(self) -> None:
        """What was added to the file since it was last read."""
        self._file.seek(self._end)
        while line := self._file.readline(ROW_BYTES):
            size, last = len(line), line
            while not last.endswith(b"\n") and (last := self._file.readline(ROW_BYTES)):
                size, line = size + len(last), b""
            if not last.endswith(b"\n"):
                self._file.truncate(self._end)
                break
            try:
                if not line:
                    raise ValueError(f"more bytes than {ROW_BYTES}")
                key = json.loads(line)["key"]
                if not isinstance(key, str):
                    raise ValueError("its key is no text")
                self._places[key] = self._end
            except _UNREADABLE as error:
                self._skip(self._end, error)
            self._end += size

    def _skip(self, place: int, error: Exception) -> None:
        """Count the row that begins at a byte of the file."""
        self.unreadable += 1
        if self.unreadable == 1:
            at = self._file.tell()
            self._file.seek(0)
            number = self._file.read(place).count(b"\n") + 1
            self._file.seek(at)
            self._first = f"line {number}, {type(error).__name__}: {str(error)[:200]}"
