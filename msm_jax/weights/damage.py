"""Messages about a checkpoint of a run: what is damaged, what differs, and what to do about it."""

import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from msm_jax.errors import UserError
from msm_jax.links import is_step
from msm_jax.outputs import unreadable
from msm_jax.weights.fingerprint import named_leaves
from msm_jax.weights.tensor_files import in_lines

COMMIT_MARKER = "commit_success.txt"  # Orbax writes it last; a directory without it is ignored
METADATA = "_CHECKPOINT_METADATA"  # Orbax's name of the file with our JSON
# How a model is run and not what it is: a run may go on with others.
RUNTIME_FIELDS = ("remat", "attention")
# Of TensorStore's messages: array and directory.
_PLACE = re.compile(r'"([^"]+?)/(?:zarr\.json|c[/\d]*)" in OCDBT database at local file "(.*?)/?"')


def steps(path: pathlib.Path) -> list[int]:
    """The steps of the committed checkpoints in a `directory`, in order."""
    found = path.iterdir() if path.is_dir() else ()
    return sorted(int(p.name) for p in found if is_step(p.name) and (p / COMMIT_MARKER).exists())


def damage_error(
    path: pathlib.Path, step: int, what: str, file: str = "", resuming: bool = False
) -> UserError:
    """That a checkpoint, or this file of it, is damaged, and what to do; when `resuming`,
    --config.fall_back can be used."""
    place = f"{path}/{step}/{file}" if file else f"{path}/{step}"
    return UserError(f"{place}: damaged: {what}; {way_out(path, step, resuming)}")


def way_out(path: pathlib.Path, step: int, resuming: bool = False) -> str:
    """What to do about a checkpoint that cannot be read."""
    if wrong := unreadable(path):
        return (
            f"checkpoints below a path with {wrong!r} cannot be read: rename that directory to "
            "letters, digits, '.', '-', '_', and try again"
        )
    others = [other for other in steps(path) if other != step]
    if not others:
        again = "begin anew in another --workdir" if resuming else "copy it again, or make it again"
        return f"{again}: there is no other checkpoint here"
    older = [other for other in others if other < step]
    first = f"use --config.fall_back=True to go on from step {older[-1]}, or " if older else ""
    return (
        f"{first if resuming else ''}delete that directory to go on from another checkpoint: "
        f"{others}"
    )


def shortened(names: Sequence[str]) -> str:
    """The first of them."""
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


def reason(folder: pathlib.Path, error: BaseException) -> str:
    """Why a checkpoint in this directory cannot be read: file, array and cause, as far as known."""
    for file in sorted((*folder.glob("*/_METADATA"), *folder.glob("*/array_metadatas/*"))):
        try:
            json.loads(file.read_bytes())
        except ValueError as wrong:
            return f"{file.relative_to(folder)}: not JSON ({wrong})"
    # TensorStore names array and file on the way to the cause, and then repeats its settings.
    text = str(causes(error)[-1]).strip().partition(" [tensorstore_spec")[0]
    text = (text.splitlines() or [""])[0][:2000].replace(f"{folder}/", "")
    place = _PLACE.search(text)
    if not place:
        if "tree structures do not match" in text:
            return "its arrays are not those of its model"
        if "the stored shape" in text:
            return text.partition(". ")[0]
        if "metadata contains unknown key" in text:
            return f"{METADATA}: {text}"
        kind = type(causes(error)[-1]).__name__
        return text if " " in text else f"its list of arrays cannot be read ({kind}: {text})"
    array, part = place[1].replace(".", "/"), place[2]
    file = re.findall(r'local file "(.*?)"', text)[-1]
    cause = text.rpartition('": ')[2]
    if "local file" in cause:
        cause = text.partition(":")[0]  # such as NOT_FOUND
    return f"{part}/{array}: cannot be read from {file}: {cause}"


def refuse_not_finite(place: str, params: dict) -> None:
    """UserError that names the arrays with NaN or infinity."""
    counts = named_leaves(jax.device_get(_count_not_finite(params)))
    if wrong := {name: int(count) for name, count in counts.items() if count}:
        lines = [f"{name}: {count} of its numbers are not finite" for name, count in wrong.items()]
        raise UserError(
            f"{place}: has weights that are not finite: it was made of damaged weights: make it "
            "again:\n  " + in_lines(lines)
        )


@jax.jit
def _count_not_finite(tree: dict) -> dict:
    return jax.tree.map(lambda leaf: jnp.sum(~jnp.isfinite(leaf), dtype=jnp.uint32), tree)


def causes(error: BaseException | None) -> list[BaseException]:
    """An exception and what led to it, the first cause last."""
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def differences(saved: dict, wanted: dict) -> list[str]:
    """A line for each fact that differs: its name, as saved, and as this run has it."""
    nothing, lines = "nothing", []
    before, now = _flat(saved), _flat(json.loads(json.dumps(wanted)))
    for name in dict.fromkeys([*now, *before]):
        pair = [flat.get(name, nothing) for flat in (before, now)]
        if pair[0] != pair[1]:
            hashed = " (hashes: its content differs)" if all(map(_is_hash, pair)) else ""
            lines.append(
                f"{name}: checkpoint {_short(pair[0])}, this run {_short(pair[1])}{hashed}"
            )
    return lines


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Values by dotted path, without what only says how a model is run."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        elif prefix != "model." or key not in RUNTIME_FIELDS:
            found[f"{prefix}{key}"] = value
    return found


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{16,}", value) is not None


def _short(value: Any) -> str:
    """A hash is shown by its first digits."""
    if _is_hash(value):
        return value[:12]
    return value if value == "nothing" else repr(value)
