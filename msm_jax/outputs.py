"""Where a command may write: checked before any work, with what to do where it may not."""

import os
import pathlib
import re

from msm_jax.errors import UserError

# Orbax looks for parts of a checkpoint by a pattern that holds the whole path, and TensorStore
# takes a backslash for a slash: what is saved under such a name cannot be read again.
UNREADABLE = "[]*?\\"
_STORE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def output_dir(path: str | os.PathLike, what: str) -> pathlib.Path:
    """A directory to write into, with `~` filled in; nothing is made yet.

    Args:
      what: the flag or the argument that the path came from, such as "--workdir".

    Raises:
      UserError: it is no path of this file system, is a file or below one, cannot be written, or
        has a character under which checkpoints could not be read again.
    """
    return _output(path, what, "directory")


def output_file(path: str | os.PathLike, what: str) -> pathlib.Path:
    """A file to write, as of `output_dir`."""
    return _output(path, what, "file")


def _output(path: str | os.PathLike, what: str, wanted: str) -> pathlib.Path:
    text = os.fspath(path)
    if not text.strip():
        raise UserError(f"{what}: is empty: give a path")
    if store := _STORE.match(text):
        raise UserError(
            f"{what}={text}: {store[0]}/ is no file system: mount the bucket (docs/pods.md) and "
            "give the path that it has there"
        )
    if variable := re.search(r"\$\{?\w+\}?", text):
        raise UserError(f"{what}={text}: {variable[0]} is for the shell: leave out the quotes")
    try:
        found = pathlib.Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{what}={text}: {error} (~ is somebody's home): write it out") from error
    full = os.path.abspath(found)
    if wrong := unreadable(full):
        raise UserError(
            f"{what}={text!r}: checkpoints below {full!r} could not be read again, because of "
            f"{wrong!r}: use letters, digits, '.', '-', '_'"
        )
    try:
        _check_place(found)
    except OSError as error:
        raise UserError(f"{what}={text}: {error.strerror}: give another path") from error
    kind = "directory" if found.is_dir() else "file"
    if found.exists() and kind != wanted:
        raise UserError(f"{what}={path}: is a {kind}: give a {wanted}")
    return found


def unreadable(path: str | os.PathLike) -> str:
    """What in an absolute path keeps Orbax from reading checkpoints below it; "" if nothing."""
    text = os.fspath(path)
    wrong = (c for c in text if c in UNREADABLE or not c.isprintable())
    return next(wrong, ":/" if ":/" in text else "")


def _check_place(path: pathlib.Path) -> None:
    """OSError where the path could not be made or written."""
    place = path
    while not place.exists():
        if place.is_symlink():
            raise OSError(0, f"{place} is a link to nothing")
        place = place.parent
    if place != path and not place.is_dir():
        raise OSError(0, f"{place} is a file")
    if not os.access(place, os.W_OK | (os.X_OK if place.is_dir() else 0)):
        raise OSError(0, f"{place} cannot be written (permissions, or mounted read-only)")
