"""Replies of judges on disk: a question is paid for once.

An append-only file of {"key", "reply"}: what a killed run had received is there for the next one,
a torn last line is dropped. Errors are not kept.
"""

import os
import pathlib
import threading

from msm_jax import strict_json
from msm_jax.evals import store


class Cache:
    """Keys to replies. Threads may share it.

    The file is read when the first reply is asked for, inside the lock of `evaluation.judge`. Two
    processes with directories of their own may append to one file (--judge_cache); a question that
    both have open is then paid for by both.
    """

    def __init__(self, path: pathlib.Path | None):
        """`path` None keeps nothing on disk."""
        self._path, self._lock = path, threading.Lock()
        self._replies: dict[str, dict] | None = None if path else {}

    def get(self, key: str) -> dict | None:
        with self._lock:
            return self._read().get(key)

    def _read(self) -> dict[str, dict]:
        """All replies; the lock is held."""
        if self._replies is None:
            assert self._path is not None
            self._path.parent.mkdir(parents=True, exist_ok=True)
            rows = store.whole_rows(self._path)
            self._replies = {row["key"]: row["reply"] for row in rows}
            if self._path.exists() and not self._path.read_bytes().endswith(b"\n"):
                store.write(self._path, store.as_jsonl(rows))
        return self._replies

    def put(self, key: str, reply: dict) -> None:
        """Keep a reply; on the disk when this returns."""
        with self._lock:
            self._read()[key] = reply
            if self._path is not None:
                with self._path.open("a", encoding="utf-8", newline="\n") as file:
                    file.write(strict_json.dumps({"key": key, "reply": reply}) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
