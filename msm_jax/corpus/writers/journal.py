"""Every reply on disk, by the hash of its request: nothing is paid for twice.

`responses.jsonl` only grows: one line per reply with what it cost, so it is the cache and the
ledger at once. A line that a kill cut in two is dropped when the file is opened again.
"""

import collections
import dataclasses
import fcntl
import json
import os
import pathlib

from msm_jax import strict_json
from msm_jax.corpus.writers.request import Reply, Usage
from msm_jax.errors import UserError

FILE = "responses.jsonl"


class Journal:
    """The replies of a folder. One process at a time; a context manager.

    Attributes:
      spent: step -> usage of all replies in the file, whoever asked for them.
    """

    def __init__(self, folder: str | os.PathLike):
        self.path = pathlib.Path(folder) / FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise UserError(
                f"{self.path}: another process writes here: wait for it, or use another folder"
            ) from error
        self._places: dict[str, tuple[int, int]] = {}
        self._usages: dict[str, tuple[str, Usage]] = {}
        self.spent: dict[str, Usage] = collections.defaultdict(Usage)
        self._end = 0
        self._read()

    def get(self, key: str) -> Reply | None:
        """The reply to a request, None if there is none yet."""
        place = self._places.get(key)
        if place is None:
            return None
        row = json.loads(os.pread(self._fd, place[1], place[0]))
        return Reply(row["text"], row["stop"], Usage(**row["usage"]), row.get("model", ""))

    def put(self, key: str, step: str, reply: Reply) -> None:
        """Keeps a reply; when this returns, a kill cannot lose it."""
        row = {
            "key": key,
            "step": step,
            "stop": reply.stop,
            "model": reply.model,
            "usage": dataclasses.asdict(reply.usage),
            "text": reply.text,
        }
        line = strict_json.dumps(row).encode() + b"\n"
        done = 0
        while done < len(line):
            done += os.write(self._fd, line[done:])
        if reply.usage.usd:
            os.fsync(self._fd)  # what was paid for survives a power cut too
        self._add(row, self._end, len(line))
        self._end += len(line)

    def usage(self, key: str) -> tuple[str, Usage]:
        """Step and usage of a reply that is there."""
        return self._usages[key]

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def _read(self) -> None:
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    os.ftruncate(self._fd, self._end)
                    break
                try:
                    row = json.loads(line)
                    self._add(row, self._end, len(line))
                except (ValueError, KeyError, TypeError) as error:
                    raise UserError(
                        f"{self.path}:{number}: not a reply ({error}): delete that line"
                    ) from error
                self._end += len(line)

    def _add(self, row: dict, start: int, length: int) -> None:
        usage = Usage(**row["usage"])
        self._places[row["key"]] = (start, length)
        self._usages[row["key"]] = (row["step"], usage)
        self.spent[row["step"]] += usage
