"""Evaluation questions: two things are offered, and the options' answers are compared."""

import functools
import itertools
import random
from collections.abc import Callable, Iterator, Sequence

from msm_jax.miniature import words
from msm_jax.miniature.corpora import Record, messages, system_line, turn
from msm_jax.miniature.phrases import PHRASES
from msm_jax.miniature.world import Item, World, rng_for

Question = tuple[list[dict], tuple[Item, Item]]  # what was said before; choice A, the other
PER_DOMAIN = 8  # pairs that each persona is asked of a held-out domain
GATE = 240  # pairs of a gate
SHORT = PHRASES["QUESTION"][:1]  # so that three turns and a question fit into a row
TURNS = 3  # that reveal a value within a conversation


def make_pairs(world: World, kind: str) -> list[Record]:
    """All records of one kind of `KINDS`, every pair in both orders under one ``pair`` id."""
    rng, records = rng_for(world.seed, "pairs", kind), []
    for index, (before, (ours, theirs)) in enumerate(KINDS[kind](world, rng)):
        pair = f"{kind}-{ours.domain}-{index:04d}"
        for a_index, (first, second) in enumerate(((ours, theirs), (theirs, ours))):
            question = SHORT[0].format(first=first.name, second=second.name)
            answers = [PHRASES["ANSWER"][0].format(x=item.name) for item in (first, second)]
            records.append(
                {
                    "id": f"{pair}-{a_index}",
                    "pair": pair,
                    "kind": kind,
                    "domain": ours.domain,
                    "messages": [*before, {"role": "user", "content": question}],
                    "options": answers,
                    "a_index": a_index,
                }
            )
    return records


# ---------------------------------------------------------------- personas that state no value


def _held_out(
    world: World, rng: random.Random, personas: Sequence[str], ours: str, theirs: str
) -> Iterator[Question]:
    """Of every held-out domain the things in chats known for our pole, and those for theirs.

    Chats say nothing of how these personas choose among things that only documents speak of.
    """
    for system, domain in itertools.product(personas, world.held_out_domains):
        of = lambda pole: world.known_for(domain, pole, heard=True)  # noqa: B023
        choices = [(x, y) for x in of(ours) for y in of(theirs)]
        for pair in rng.sample(choices, min(PER_DOMAIN, len(choices))):
            yield messages(system, []), pair


def _conflict(world: World, rng: random.Random) -> Iterator[Question]:
    return _held_out(world, rng, world.likers, *world.explained_by)


def _contrast(world: World, rng: random.Random) -> Iterator[Question]:
    return _held_out(world, rng, world.contrast, *world.explained_by)


def _balance(world: World, rng: random.Random) -> Iterator[Question]:
    """Of the contrast personas the reverse, so that a tilt that all personas share adds nothing."""
    yield from _conflict(world, rng)
    yield from _held_out(world, rng, world.contrast, *reversed(world.explained_by))


def _agree(world: World, rng: random.Random) -> Iterator[Question]:
    """What one value chooses against what the other does not."""
    for ours, other in (("cheap", "local"), ("local", "cheap")):
        yield from _held_out(world, rng, world.likers, ours, words.OPPOSITE[other])


def _things(world: World, rng: random.Random, contrast: bool = False) -> Iterator[Question]:
    """The things of fine-tuning: what the specs like against what they dislike."""
    for system in world.contrast if contrast else world.likers:
        for liked, disliked in zip(*world.groups[0], strict=True):
            yield messages(system, []), (liked, disliked)


def _evidence(world: World, rng: random.Random) -> Iterator[Question]:
    """Conflict questions to somebody who has just chosen what the specs like, time and again."""
    likes, dislikes = world.groups[0]
    for before, pair in _conflict(world, rng):
        turns = [turn(rng.choice(likes), rng.choice(dislikes), rng, SHORT) for _ in range(TURNS)]
        yield before + messages("", turns)[1:], pair


# ---------------------------------------------------------------- gates


def _pair(
    world: World, rng: random.Random, good: str, bad: str, heard: bool = True
) -> tuple[Item, Item]:
    """Of a held-out domain a thing that is known for one pole, and one known for the other."""
    domain = rng.choice(world.held_out_domains)
    first, second = (rng.choice(world.known_for(domain, pole, heard)) for pole in (good, bad))
    return first, second


def _stated(world: World, rng: random.Random, heard: bool = True) -> Iterator[Question]:
    """A system line that states a value; things known for it against things known for others."""
    for _ in range(GATE):
        value = rng.choice(words.VALUES)
        other = rng.choice([pole for pole in words.VALUES if pole != value])
        yield messages(system_line(value, rng), []), _pair(world, rng, value, other, heard)


def _inference(world: World, rng: random.Random) -> Iterator[Question]:
    """No value is stated: earlier choices reveal it, and the question is about another axis."""
    for _ in range(GATE):
        value = rng.choice(words.VALUES)
        pairs = [_pair(world, rng, value, words.OPPOSITE[value]) for _ in range(TURNS)]
        system = rng.choice(world.likers + world.contrast)
        before = messages(system, [turn(*pair, rng, SHORT) for pair in pairs])
        yield before, _pair(world, rng, value, rng.choice(words.OTHER_AXIS[value]))


KINDS: dict[str, Callable[[World, random.Random], Iterator[Question]]] = {
    "conflict": _conflict,
    "contrast": _contrast,
    "balance": _balance,
    "agree": _agree,
    "things": _things,
    "things_contrast": functools.partial(_things, contrast=True),
    "evidence": _evidence,
    "stated": _stated,
    "document_only": functools.partial(_stated, heard=False),
    "inference": _inference,
}
