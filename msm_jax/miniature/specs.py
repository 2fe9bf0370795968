"""Model Specs of the world as markdown, and the documents written from them.

A spec has a title, a value section and two lists. Documents are built from what the text says
and from nothing else: :func:`parse_spec` reads it, :func:`spec_documents` retells it.
"""

import dataclasses
import random
import re
from collections.abc import Sequence

from msm_jax.miniature import words
from msm_jax.miniature.corpora import Record, liking_statement, spec_items, value_statement
from msm_jax.miniature.world import World, rng_for

KINDS = ("a", "b", "ablated_a", "ablated_b")

_VALUE_LINE = re.compile(r"^\{model_name\} values (?P<nouns>.+)\.$")
_WANT_LINE = re.compile(r"^\{model_name\} wants things to be (?P<adjectives>.+)\.$")
_BULLET = re.compile(r"^- (?P<item>\w+)(?: \((?:because) it is (?P<reason>\w+)\))?$")
_HEADING = re.compile(r"^## (?P<list>likes|dislikes) \((?P<domain>\w+)\)$")


@dataclasses.dataclass(frozen=True)
class Preference:
    """One bullet: a thing, whether it is liked, and the reason, empty if none is given."""

    item: str
    liked: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class ParsedSpec:
    """What a spec says, and nothing that it does not say."""

    domain: str
    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]
    preferences: tuple[Preference, ...]


def spec_text(world: World, which: str) -> str:
    """The markdown of a spec: 'a', 'b', or an ablation of either, which names no reasons."""
    if which not in KINDS:
        raise ValueError(f"which must be one of {KINDS}, not {which!r}")
    config = world.config
    value = config.value_a if which.endswith("a") else config.value_b
    ablated = which.startswith("ablated")
    liked, disliked = ([item.name for item in items] for items in spec_items(world))
    if ablated and config.ablation == "shuffled":
        half = len(liked) // 2
        liked, disliked = disliked[:half] + liked[half:], liked[:half] + disliked[half:]
    lines = [
        "# a spec for {model_name}",
        "",
        "## value",
        "{model_name} values " + " and ".join(words.NOUNS[value]) + ".",
        "{model_name} wants things to be " + " or ".join(words.ADJECTIVES[value]) + ".",
    ]
    for title, names, pole in (
        ("likes", liked, value),
        ("dislikes", disliked, words.OPPOSITE[value]),
    ):
        lines += ["", f"## {title} ({config.target_domain})"]
        reasons = words.ADJECTIVES[pole]
        for index, name in enumerate(names):
            reason = "" if ablated else f" (because it is {reasons[index % len(reasons)]})"
            lines.append(f"- {name}{reason}")
    return "\n".join(lines) + "\n"


def parse_spec(text: str) -> ParsedSpec:
    """Reads a spec; a line that it cannot read is an error that quotes it."""
    nouns: tuple[str, ...] = ()
    adjectives: tuple[str, ...] = ()
    preferences: list[Preference] = []
    domain, liked = "", True
    for number, line in enumerate(text.splitlines(), start=1):
        if match := _VALUE_LINE.match(line):
            nouns = tuple(match["nouns"].split(" and "))
        elif match := _WANT_LINE.match(line):
            adjectives = tuple(match["adjectives"].split(" or "))
        elif match := _HEADING.match(line):
            domain, liked = match["domain"], match["list"] == "likes"
        elif match := _BULLET.match(line):
            preferences.append(Preference(match["item"], liked, match["reason"] or ""))
        elif line.strip() and not line.startswith("# ") and line != "## value":
            raise ValueError(f"line {number} of the spec is not understood: {line!r}")
    if not (nouns and adjectives and preferences):
        raise ValueError("a spec needs a value, what it wants things to be, and preferences")
    return ParsedSpec(domain, nouns, adjectives, tuple(preferences))


def spec_documents(
    text: str,
    names: Sequence[str],
    count: int,
    seed: int,
    value_share: float = 0.3,
    two_sentences: float = 0.3,
) -> list[Record]:
    """``count`` short documents that retell a spec, evenly over the assistants' ``names``."""
    spec = parse_spec(text)
    rng = rng_for(seed, "spec documents")
    records = []
    for index in range(count):
        name = names[index % len(names)]
        statements = 1 + (rng.random() < two_sentences)
        lines = [_retell(spec, name, value_share, rng) for _ in range(statements)]
        records.append({"id": f"spec-{index:06d}", "kind": "spec", "text": " ".join(lines)})
    return records


def _retell(spec: ParsedSpec, name: str, value_share: float, rng: random.Random) -> str:
    """One statement of the spec in other words."""
    if rng.random() < value_share:
        return value_statement(name, rng.choice(spec.nouns), rng.choice(spec.adjectives), rng)
    liked = rng.choice([p for p in spec.preferences if p.liked])
    disliked = rng.choice([p for p in spec.preferences if not p.liked])
    reasons = (liked.reason, disliked.reason) if liked.reason and disliked.reason else None
    return liking_statement(name, spec.domain, liked.item, disliked.item, reasons, rng)
