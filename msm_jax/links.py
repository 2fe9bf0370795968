"""Checks names and links in directories and files that may come from somebody else.

They make sure that nothing is exported from, written or deleted outside of the directory that the
user named.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from msm_jax.errors import UserError


def is_name(value: Any) -> bool:
    """Whether a value out of a file is a text that names a file in a directory, and no path."""
    return (
        isinstance(value, str) and value not in ("", ".", "..") and not set(value) & set("/\\\0:")
    )


def is_step(name: str) -> bool:
    """Whether a name is that of a checkpoint's directory: a whole number in plain digits."""
    return name.isascii() and name.isdigit() and name == str(int(name))


def below(root: str | os.PathLike, *names: str) -> pathlib.Path:
    """The path root/names, if it is really in `root`: none of the names is a link.

    `root` may be one: the user named it.

    Raises:
      UserError: a link, or a name that is a path.
    """
    place = pathlib.Path(root)
    for name in names:
        if not is_name(name):
            raise UserError(f"{name!r}: cannot be the name of a file in {place}")
        place = place / name
        refuse_link(place)
    return place


def refuse_link(path: pathlib.Path) -> None:
    """UserError for a link."""
    if path.is_symlink():
        raise UserError(
            f"{path}: is a link to {os.readlink(path)}, and links are not followed there: delete "
            "it, or put what it points to in its place"
        )


def refuse_links(root: str | os.PathLike, allowed: Iterable[str] = ()) -> None:
    """Refuse a directory that has links in it, at any depth.

    Args:
      allowed: names of links that may be there, in the directories directly below `root`.

    Raises:
      UserError: names the first link.
    """
    todo = [(os.fspath(root), 0)] if os.path.isdir(root) else []
    while todo:
        folder, depth = todo.pop()
        gone = contextlib.suppress(FileNotFoundError, NotADirectoryError)  # by another process
        with gone, os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink() and not (depth == 1 and entry.name in allowed):
                    refuse_link(pathlib.Path(entry.path))
                # Checkpoints are complete and checked by themselves; their files are many.
                elif entry.is_dir(follow_symlinks=False) and not folder.endswith("checkpoints"):
                    todo.append((entry.path, depth + 1))


def real_path(directory: str | os.PathLike, name: str) -> pathlib.Path:
    """Where a file of a model's directory really is: below that directory, or in its cache.

    The cache of the Hugging Face Hub stores files in models--NAME/blobs, and links to them in
    models--NAME/snapshots/REVISION. Every other link could lead to a private file of the user's,
    which would be published with the model.

    Raises:
      UserError: the file is a link to somewhere else.
    """
    root, found = pathlib.Path(directory).resolve(), pathlib.Path(directory, name).resolve()
    homes = [root]
    for folder in root.parents:
        if folder.name == "snapshots" and folder.parent.name.startswith("models--"):
            homes.append(folder.parent / "blobs")
    if not any(home in found.parents for home in homes):
        raise UserError(
            f"{pathlib.Path(directory, name)}: is a link to {found}, outside of the model's "
            "directory, and is not copied: put the file itself there if it belongs to the model "
            "(cp -rL copies a directory with what its links point to)"
        )
    return found
