"""A directory of answers: rows come in one by one, and nothing that was written is asked again.

    evaluation.json        what was asked of whom; another question in the same place is an error
    samples.jsonl          the answers (samples.partial.jsonl while they come in)

Rows are appended and flushed to the disk; a process that is killed loses at most the rows that it
had not appended, and a last line that is torn is dropped.
"""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

from msm_jax.errors import UserError
from msm_jax.files import dumps


def lock(path: pathlib.Path, asked: dict) -> None:
    """Write what is asked, or compare it with what this directory was made for.

    Raises:
      UserError: the directory holds another evaluation; every difference is named.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write(path, as_json(asked))
        return
    before, now = _flat(json.loads(path.read_text(encoding="utf-8"))), _flat(asked)
    differences = [
        f"{name}: was {before.get(name)!r}, now {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if differences:
        raise UserError(
            f"{path.parent}: holds another evaluation ({'; '.join(differences)}); "
            "choose another output directory"
        )


def collect(
    path: pathlib.Path,
    unit: Callable[[dict], Hashable],
    answers: Callable[[set], Iterable[Sequence[dict]]],
) -> None:
    """Make the file `path` out of the rows that `answers` yields.

    Args:
      path: appears when all rows are there; until then they are in "<stem>.partial.jsonl".
      unit: what is asked as a whole, of a row. Of an unfinished file the last unit is asked again,
        because rows of it may be missing.
      answers: called with the units that are there already; yields rows, some at a time.

    Raises:
      UserError: another process is at work on the same file.
    """
    if path.exists():
        return
    partial = path.with_name(f"{path.stem}.partial.jsonl")
    with alone(path.parent):
        done = {unit(row) for row in _mended(partial, unit)}
        with partial.open("a", encoding="utf-8", newline="\n") as file:
            for rows in answers(done):
                file.write(as_jsonl(rows))
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[None]:
    """Keeps a second process out; the lock ends with its process, however that ends.

    Raises:
      UserError: another process samples or judges there.
    """
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UserError(
            f"{folder}: another process is sampling or judging there: wait for it, or use another "
            "output"
        ) from error
    finally:
        os.close(handle)


def runs(indices: Sequence[int], longest: int | None = None) -> Iterator[tuple[int, int]]:
    """(first, count) of the runs of consecutive numbers, none of them longer than `longest`."""
    start = 0
    for place in range(1, len(indices) + 1):
        ends = place == len(indices) or indices[place] != indices[place - 1] + 1
        if ends or place - start == longest:
            yield indices[start], place - start
            start = place


def whole_rows(path: pathlib.Path) -> list[dict]:
    """The rows of an append-only file, without a last line that is torn; none if it is missing."""
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8", errors="replace")
    return [json.loads(line) for line in text.split("\n")[:-1] if line]


def _mended(partial: pathlib.Path, unit: Callable[[dict], Hashable]) -> list[dict]:
    """The rows of an unfinished file without its last unit."""
    if not partial.exists():
        return []
    rows = whole_rows(partial)
    last = unit(rows[-1]) if rows else None
    rows = [row for row in rows if unit(row) != last]
    write(partial, as_jsonl(rows))
    return rows


def as_json(value: dict) -> str:
    return dumps(value, indent=1) + "\n"


def as_jsonl(rows: Sequence[dict]) -> str:
    return "".join(_line(row) for row in rows)


def numbers(values: Sequence[float | None]) -> list[float]:
    """As they were before they were written: null stands for what is not finite."""
    return [math.nan if value is None else value for value in values]


def _line(row: dict) -> str:
    text = dumps(row, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half a character: JSON can spell it, UTF-8 cannot
        text = dumps(row)
    return text + "\n"


def write(path: pathlib.Path, text: str) -> None:
    """All of it or nothing."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _flat(tree: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    found = {}
    for name, value in tree.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        found.update({f"{prefix}{name}": value} if inner is None else inner)
    return found
