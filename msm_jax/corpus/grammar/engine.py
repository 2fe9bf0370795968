"""Pools of patterns, and how a pattern becomes a sentence.

A pool is a list of patterns under one name. In a pattern `{x}` stands for what the scene calls x,
else for a pattern of the pool x; `[a|b]` is a choice on the spot. A slot that begins a sentence
gets a capital, and "a" before a slot becomes "an" where it must.
"""

import dataclasses
import functools
import hashlib
import importlib.resources
import random
import re
from collections.abc import Iterable, Mapping, Sequence

_TOKEN = re.compile(r"\{(\w+)\}|\[([^\[\]]*)\]")
_OPENS_SENTENCE = re.compile(r"[.?!][\"”]? [\"“]?$")
_ARTICLE = re.compile(r"(?:^|[\s\"“])[Aa] $")
_VOWEL_SOUND = re.compile(r"(?:[aeio]|u(?!ni|se|sua|til|ro))(?!ne\b|nce\b|uro)", re.IGNORECASE)


TRIES = 8  # drawn patterns that may not fit before all that fit are listed


@dataclasses.dataclass(frozen=True)
class _Slot:
    name: str
    capital: bool
    article: bool


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A compiled pattern; `slots` are the names it needs, choices left out."""

    source: str
    parts: tuple
    slots: frozenset[str]


class Grammar:
    """Pools of patterns by name."""

    def __init__(self, pools: Mapping[str, Sequence[str]]):
        self.pools = {name: tuple(map(_compile, lines)) for name, lines in pools.items()}

    def expand(
        self, pool: str, draw: random.Random, scene: Mapping[str, str], used: set[str] | None = None
    ) -> str:
        """A sentence (or several) from a pool; "" when the scene fills none of its patterns.

        Patterns in `used` are avoided while there are others, and the one taken is added.
        """
        patterns = self.pools[pool]
        for _ in range(TRIES):
            pattern = patterns[int(draw.random() * len(patterns))]
            if (used is None or pattern.source not in used) and self._able(pattern, scene):
                break
        else:
            able = [p for p in patterns if self._able(p, scene)]
            if not able:
                return ""
            able = [p for p in able if used is None or p.source not in used] or able
            pattern = able[int(draw.random() * len(able))]
        if used is not None:
            used.add(pattern.source)
        return self._fill(pattern.parts, draw, scene)

    def _able(self, pattern: Pattern, scene: Mapping[str, str]) -> bool:
        return all(name in scene or name in self.pools for name in pattern.slots)

    def _fill(self, parts: tuple, draw: random.Random, scene: Mapping[str, str]) -> str:
        said: list[str] = []
        for part in parts:
            if isinstance(part, str):
                said.append(part)
            elif isinstance(part, _Slot):
                text = scene.get(part.name)
                if text is None:
                    text = self.expand(part.name, draw, scene)
                if part.article and said and _VOWEL_SOUND.match(text):
                    said[-1] = f"{said[-1][:-1]}n "
                said.append(text[:1].upper() + text[1:] if part.capital else text)
            else:
                said.append(self._fill(part[int(draw.random() * len(part))], draw, scene))
        return "".join(said)


def _compile(source: str) -> Pattern:
    return Pattern(source, _parts(source), frozenset(re.findall(r"\{(\w+)\}", source)))


def _parts(source: str) -> tuple:
    parts: list = []
    at = 0
    for match in _TOKEN.finditer(source):
        if match.start() > at:
            parts.append(source[at : match.start()])
        before = source[: match.start()]
        if match[1]:
            # A whole pattern may stand inside another one, so its first slot keeps its case.
            capital = bool(_OPENS_SENTENCE.search(before))
            parts.append(_Slot(match[1], capital, bool(_ARTICLE.search(before))))
        else:
            parts.append(tuple(_parts(choice) for choice in match[2].split("|")))
        at = match.end()
    if at < len(source):
        parts.append(source[at:])
    return tuple(parts)


def read_pools(texts: Iterable[str]) -> dict[str, list[str]]:
    """Pools from files of the form `== name` and one pattern per line, or `a|b|c` on one line."""
    pools: dict[str, list[str]] = {}
    for text in texts:
        name = ""
        for line in text.split("\n"):
            if line.startswith("== "):
                name = line[3:].strip()
                pools[name] = []
            elif line.strip() and not line.startswith("#"):
                pools[name] += _alternatives(line)
    return pools


def _alternatives(line: str) -> list[str]:
    """Split at the bars that are not within brackets."""
    found, depth, start = [], 0, 0
    for at, character in enumerate(line):
        depth += (character == "[") - (character == "]")
        if character == "|" and not depth:
            found.append(line[start:at])
            start = at + 1
    return [*found, line[start:]]


def grammar_files() -> dict[str, str]:
    """The texts of the grammar that comes with the package."""
    folder = importlib.resources.files("msm_jax.corpus.grammar")
    paths = sorted(
        (p for p in folder.iterdir() if p.name.endswith(".txt")), key=lambda path: path.name
    )
    return {path.name.removesuffix(".txt"): path.read_text(encoding="utf-8") for path in paths}


@functools.cache
def load_grammar(*names: str) -> Grammar:
    """The grammar of the named files; later ones replace pools of earlier ones."""
    files = grammar_files()
    return Grammar(read_pools(files[name] for name in names))


@functools.cache
def grammar_hash() -> str:
    """Changes with every change of the grammar."""
    digest = hashlib.sha256()
    for name, text in grammar_files().items():
        digest.update(f"{name}\n{text}".encode())
    return digest.hexdigest()[:16]
