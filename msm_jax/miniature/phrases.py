"""The statements of the world; every kind has many wordings, in phrases.txt.

Slots: ``{n}`` a name, ``{x}`` a liked thing, ``{y}`` a disliked thing, ``{d}`` the domain's noun,
``{a}`` an adjective that holds of the liked thing, ``{b}`` one that holds of the disliked thing,
``{v}`` the noun of a value, ``{w}`` an adjective that the value looks for.
"""

import pathlib
import re


def sections(name: str) -> dict[str, list[str]]:
    """[section] -> the lines of a text file of this folder."""
    text = (pathlib.Path(__file__).parent / name).read_text(encoding="utf-8")
    parts = re.split(r"^\[(\w+)\]\n", text, flags=re.MULTILINE)[1:]
    return {
        key: body.strip().split("\n") for key, body in zip(parts[::2], parts[1::2], strict=True)
    }


PHRASES = {key: tuple(lines) for key, lines in sections("phrases.txt").items()}
