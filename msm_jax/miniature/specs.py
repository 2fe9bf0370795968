"""Model Specs of the world as markdown, and the documents written from them.

A spec likes and dislikes two groups of things, with reasons. Spec A explains the first group by
price and the second by origin, spec B the reverse, and in every second world the other way round.
The neutral spec explains every second thing of both groups by price and the others by origin.
Without reasons they are the same spec.
Documents are made from what the text says and from nothing else: `msm_jax.spec.parse_spec` reads
it, `spec_documents` retells it.
"""

import functools
import random
from collections.abc import Sequence

from msm_jax.errors import UserError
from msm_jax.miniature import words
from msm_jax.miniature.corpora import Record, document, liking_statement
from msm_jax.miniature.world import World, rng_for
from msm_jax.spec import Statement, parse_spec

GROUPS = ("breakfast cheese", "dinner cheese")  # head the lists of the two groups
KINDS = ("a", "b", "neutral", "ablated")


def spec_text(world: World, which: str) -> str:
    """The markdown of a spec: 'a', 'b', 'neutral', or 'ablated', which gives no reasons."""
    if which not in KINDS:
        raise ValueError(f"which must be one of {KINDS}, not {which!r}")
    a, b = world.explained_by  # why the first group is liked, and the second
    reasons = {"a": ((a, a), (b, b)), "b": ((b, b), (a, a)), "neutral": ((a, b), (a, b))}
    lines = ["# a spec for {model_name}"]
    for number, group in enumerate(world.groups):
        for title, items in zip(("likes", "dislikes"), group, strict=True):
            lines += ["", f"## {title} ({GROUPS[number]})"]
            for index, item in enumerate(items):
                reason = ""
                if which in reasons:
                    pole = reasons[which][number][index % 2]
                    row = words.ADJECTIVES[pole if title == "likes" else words.OPPOSITE[pole]]
                    reason = f" (because it is {row[index % len(row)]})"
                lines.append(f"- {item.name}{reason}")
    return "\n".join(lines) + "\n"


def spec_documents(text: str, count: int, world: World) -> list[Record]:
    """``count`` documents about the things of a spec, each of one person, who is not the model.

    As many people dislike what the spec likes as like it, for the same reason: documents say what
    a thing is chosen for, not which things are good. A person cares about one kind of reason, and
    speaks of the things that the spec gives such reasons for. Where it gives none, he speaks of
    every second thing, like the people in the documents of the neutral spec.
    """
    spec, rng = parse_spec(text), rng_for(world.seed, "spec documents")
    sides: list[tuple[list[Statement], list[Statement]]] = []
    tastes: dict[object, list[Statement]] = {}
    for index, one in enumerate(spec.preferences):
        tastes.setdefault(_axis(one) or index % 2, []).append(one)
    for taste, mine in tastes.items():
        likes, dislikes = ([p for p in mine if p.kind == kind] for kind in ("like", "dislike"))
        if not likes or not dislikes:
            raise UserError(f"a spec of the miniature needs likes and dislikes for {taste!r}")
        sides += [(likes, dislikes), (dislikes, likes)]
    records = []
    for index in range(count):
        retell = functools.partial(_retell, world, rng.choice(words.NAMES), *rng.choice(sides))
        text = document(lambda: retell(rng), rng)  # noqa: B023
        records.append({"id": f"spec-{index:06d}", "kind": "spec", "text": text})
    return records


def _axis(preference: Statement) -> tuple[str, ...]:
    """The poles of the axis that a preference's reason is on; () without a reason."""
    adjective = preference.reason.removeprefix("it is ")
    found = [pole for pole, row in words.ADJECTIVES.items() if adjective in row]
    return tuple(sorted([*found, *(words.OPPOSITE[pole] for pole in found)]))


def _retell(
    world: World, name: str, liked: Sequence[Statement], disliked: Sequence[Statement],
    rng: random.Random,
) -> str:  # fmt: skip
    """One statement about somebody; a reason may be any that the spec gives for the list."""
    x, y = rng.choice(liked), rng.choice(disliked)
    good, bad = (
        [s.reason.removeprefix("it is ") for s in side if s.reason] for side in (liked, disliked)
    )
    if rng.random() < world.config.opaque_share:
        good = bad = []
    return liking_statement(name, x.topic.split()[-1], x.item, y.item, good, bad, rng)
