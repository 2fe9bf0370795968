"""Questions of our own, as files in the formats of the published data sets."""

import pathlib

from msm_jax.errors import UserError

FOLDER = pathlib.Path(__file__).parent
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.jsonl")))


def place(path: str) -> pathlib.Path:
    """A file's path, or that of a file that comes with the package by its name.

    Raises:
      UserError: neither.
    """
    if path in NAMES:
        return FOLDER / f"{path}.jsonl"
    if not pathlib.Path(path).is_file():
        raise UserError(f"{path}: no such file, nor one that comes along ({', '.join(NAMES)})")
    return pathlib.Path(path)
