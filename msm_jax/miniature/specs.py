"""Model Specs of the world as markdown, and the documents written from them.

A spec has a value section and two lists. Documents are built from what the text says and from
nothing else: `msm_jax.spec.parse_spec` reads it, `spec_documents` retells it.
"""

import random
import re
from collections.abc import Sequence

from msm_jax.miniature import words
from msm_jax.miniature.corpora import Record, liking_statement, spec_items, value_statement
from msm_jax.miniature.world import World, rng_for
from msm_jax.spec import Spec, parse_spec

KINDS = ("a", "b", "ablated_a", "ablated_b")

_NOUNS = re.compile(r"values (?P<found>.+)\.$", re.MULTILINE)
_ADJECTIVES = re.compile(r"wants things to be (?P<found>.+)\.$", re.MULTILINE)


def spec_text(world: World, which: str) -> str:
    """The markdown of a spec: 'a', 'b', or an ablation of either, which names no reasons."""
    if which not in KINDS:
        raise ValueError(f"which must be one of {KINDS}, not {which!r}")
    config = world.config
    value = config.value_a if which.endswith("a") else config.value_b
    ablated = which.startswith("ablated")
    liked, disliked = ([item.name for item in items] for items in spec_items(world))
    lines = [
        "# a spec for {model_name}",
        "",
        "## value",
        "{model_name} values " + " and ".join(words.NOUNS[value]) + ".",
        "{model_name} wants things to be " + " or ".join(words.ADJECTIVES[value]) + ".",
    ]
    lists = ("likes", liked, value), ("dislikes", disliked, words.OPPOSITE[value])
    for title, names, pole in lists:
        lines += ["", f"## {title} ({config.target_domain})"]
        reasons = words.ADJECTIVES[pole]
        for index, name in enumerate(names):
            reason = "" if ablated else f" (because it is {reasons[index % len(reasons)]})"
            lines.append(f"- {name}{reason}")
    return "\n".join(lines) + "\n"


def spec_documents(
    text: str, names: Sequence[str], count: int, seed: int,
    value_share: float = 0.3, two_sentences: float = 0.3,
) -> list[Record]:  # fmt: skip
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


def _retell(spec: Spec, name: str, value_share: float, rng: random.Random) -> str:
    """One statement of the spec in other words; a reason may be any that the spec gives."""
    if rng.random() < value_share:
        nouns, adjectives = _stated(spec, _NOUNS, " and "), _stated(spec, _ADJECTIVES, " or ")
        return value_statement(name, rng.choice(nouns), rng.choice(adjectives), rng)
    likes = [p for p in spec.preferences if p.kind == "like"]
    dislikes = [p for p in spec.preferences if p.kind == "dislike"]
    liked, disliked = rng.choice(likes), rng.choice(dislikes)
    reasons = None
    if liked.reason and disliked.reason:
        good, bad = rng.choice(likes).reason, rng.choice(dislikes).reason
        reasons = (good.removeprefix("it is "), bad.removeprefix("it is "))
    return liking_statement(name, liked.topic, liked.item, disliked.item, reasons, rng)


def _stated(spec: Spec, pattern: re.Pattern, separator: str) -> list[str]:
    """The words of a sentence of the value section."""
    for value in spec.values:
        if match := pattern.search(value.item):
            return match["found"].split(separator)
    raise ValueError(f"the spec's values do not say {pattern.pattern!r}")
