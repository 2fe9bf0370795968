"""Files that are there whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msm_jax import strict_json
from msm_jax.errors import UserError


def write_text(path: pathlib.Path, text: str) -> None:
    """Written aside, then renamed."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: pathlib.Path, data: bytes) -> None:
    """Written aside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.partial")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def write_json(path: pathlib.Path, content: Any) -> None:
    """With sorted keys, so that equal contents are equal files."""
    write_text(
        path, strict_json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    )


def write_rows(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSONL. Line separators of Unicode are escaped: some readers take them for line ends."""
    lines = (strict_json.dumps(row, ensure_ascii=False) for row in rows)
    text = "".join(line.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029") + "\n"
                   for line in lines)  # fmt: skip
    write_text(path, text)


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps a second process out of a working directory until this one ends, however it ends."""
    import fcntl

    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{workdir}: another process generates here: wait for it, or use another --workdir"
            ) from error
        yield
