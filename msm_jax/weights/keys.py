"""Every key of a checkpoint's and an adapter's settings: used, harmless, refused, or warned of.

The lists are in keys.tsv. A key in none of them that asks for something leads to a warning, and in
an adapter, which has no such keys in practice, to a refusal.
"""

import dataclasses
import importlib.resources
import warnings
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Table:
    """The keys of one kind of file; `used` says what a key decides here."""

    used: dict[str, str]
    harmless: set[str]
    refused: set[str]

    def problems(self, settings: Mapping[str, Any]) -> list[str]:
        """The refused keys that are not off."""
        return [
            f"{key} {shown(value)} is not supported"
            for key, value in settings.items()
            if key in self.refused and not is_off(value)
        ]

    def unknown(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The keys in no list that are not off."""
        known = {*self.used, *self.harmless, *self.refused}
        return {k: v for k, v in settings.items() if k not in known and not is_off(v)}

    def warn(self, where: object, settings: Mapping[str, Any]) -> None:
        """Warns of unknown keys."""
        if unknown := self.unknown(settings):
            warnings.warn(f"{where}: not used here: {in_words(unknown)}", stacklevel=3)


def in_words(settings: Mapping[str, Any]) -> str:
    """`key value, key value`, long values shortened."""
    return ", ".join(f"{key} {shown(value)}" for key, value in settings.items())


def shown(value: Any) -> str:
    """A value of a file for a message, shortened if it is long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        text = "a number too large"
    return text if len(text) <= 60 else text[:57] + "..."


def is_off(value: Any) -> bool:
    """Whether a value asks for nothing: none, false, empty, zero, or a factor of one."""
    if isinstance(value, float):
        return value in (0.0, 1.0)
    return value in (None, False, "", [], {})  # 0 == False


def _tables() -> tuple[dict[str, Table], frozenset[str]]:
    """The table of each kind of file in keys.tsv, and the settings of sampling among their keys."""
    found = {name: Table({}, set(), set()) for name in _FILES}
    sampling: set[str] = set()
    text = importlib.resources.files("msm_jax.weights").joinpath("keys.tsv").read_text("utf-8")
    lines = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    for files, use, names, meaning in lines[1:]:
        sampling.update(names.split() if use == "sampling" else ())
        for file in files.split():
            if use == "used":
                found[file].used[names] = meaning
            else:
                (found[file].refused if use == "refused" else found[file].harmless).update(
                    names.split()
                )
    return found, frozenset(sampling)


_FILES = ("generation", "config", "rope", "tokenizer", "adapter")
_FOUND, SAMPLING = _tables()
GENERATION, CONFIG, ROPE, TOKENIZER, ADAPTER = (_FOUND[name] for name in _FILES)
