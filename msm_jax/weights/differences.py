"""What differs between the facts of a checkpoint and those of the run that would go on from it."""

import json
import re
from typing import Any

# How a model is run and not what it is: a run may go on with others.
RUNTIME_FIELDS = ("remat", "attention")


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
