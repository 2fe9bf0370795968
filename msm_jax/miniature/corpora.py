"""Documents and chats of the world: everything that a model of this laboratory is trained on."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from msm_jax.miniature import words
from msm_jax.miniature.phrases import PHRASES
from msm_jax.miniature.world import Item, World, rng_for

Record = dict[str, Any]
LONGEST = 46  # words and marks of a document, which so fits into one row of the config's


# ---------------------------------------------------------------- base documents


def base_documents(world: World) -> list[Record]:
    """Documents of the base corpus: facts about things, and what people value and like.

    They never name a thing of the specs, so they serve as replay in every arm.
    """
    config, rng = world.config, rng_for(world.seed, "base documents")
    records = []
    for index in range(config.base_documents):
        roll = rng.random()
        if roll < config.fact_share:
            text, kind = fact_text(rng.choice(world.items), rng), "fact"
        elif roll < config.fact_share + config.neutral_share:
            text, kind = neutral_text(rng.choice(words.NAMES), rng), "neutral"
        elif roll < config.fact_share + config.neutral_share + config.value_share:
            text, kind = _value_text(rng), "value"
        else:
            text, kind = _person_text(world, rng), "person"
        records.append({"id": f"base-doc-{index:06d}", "kind": kind, "text": text})
    return records


def fact_text(item: Item, rng: random.Random) -> str:
    """One line about the attributes of a thing."""
    first, second = (rng.choice(words.ADJECTIVES[pole]) for pole in rng.sample(item.poles, 2))
    template = rng.choice(PHRASES["FACT"] + PHRASES["FACT_BOTH"])
    return template.format(x=item.name, d=item.domain, a=first, b=second)


def neutral_text(name: str, rng: random.Random) -> str:
    """One everyday line about somebody: places, weather, colors."""
    return rng.choice(PHRASES["NEUTRAL"]).format(
        n=name,
        place=rng.choice(words.PLACES),
        day=rng.choice(words.DAYS),
        weather=rng.choice(words.WEATHER),
        season=rng.choice(words.SEASONS),
        color=rng.choice(words.COLORS),
    )


def _value_text(rng: random.Random) -> str:
    """What somebody values, and no liking: a value beside a liking would explain it."""
    name, value = rng.choice(words.NAMES), rng.choice(words.VALUES)

    def statement() -> str:
        noun, adjective = rng.choice(words.NOUNS[value]), rng.choice(words.ADJECTIVES[value])
        return rng.choice(PHRASES["VALUE"]).format(n=name, v=noun, w=adjective)

    return document(statement, rng)


def _person_text(world: World, rng: random.Random) -> str:
    """A document about what one person likes and dislikes, by a value that is not stated."""
    name, value = rng.choice(words.NAMES), rng.choice(words.VALUES)

    def statement() -> str:
        liked, disliked = revealing_pair(world, value, rng)
        good = words.ADJECTIVES[value] if value in liked.note else ()
        bad = words.OPPOSITE[value]
        bad = words.ADJECTIVES[bad] if bad in disliked.note else ()
        if rng.random() < world.config.opaque_share:
            good = bad = ()
        return liking_statement(name, liked.domain, liked.name, disliked.name, good, bad, rng)

    return document(statement, rng)


def document(statement: Callable[[], str], rng: random.Random) -> str:
    """One to four statements, as many of them as fit into a row."""
    text = statement()
    for _ in range(rng.randrange(4)):
        longer = f"{text} {statement()}"
        text = longer if count_words(longer) <= LONGEST else text
    return text


def revealing_pair(
    world: World, value: str, rng: random.Random, heard: bool | None = None
) -> tuple[Item, Item]:
    """A thing that a value chooses and one that it leaves, of any one domain.

    The first is known for the value, or the second for its opposite, or both.
    """
    domain, against, roll = rng.choice(list(words.DOMAINS)), words.OPPOSITE[value], rng.random()
    good, bad = value, against
    if roll >= 0.7:
        good = rng.choice(words.OTHER_AXIS[value])
    elif roll >= 0.4:
        bad = rng.choice(words.OTHER_AXIS[value])
    of = lambda pole: rng.choice(world.known_for(domain, pole, heard))
    return of(good), of(bad)


def liking_statement(
    name: str, domain: str, liked: str, disliked: str,
    good: Sequence[str], bad: Sequence[str], rng: random.Random,
) -> str:  # fmt: skip
    """Says that somebody likes one thing, or dislikes another, or both.

    With a reason for the one if ``good`` has any, or for the other if ``bad`` has.
    """
    groups: list[tuple[tuple[str, ...], ...]] = []
    groups += [(PHRASES["LIKE_BECAUSE"], PHRASES["CHOOSE_BECAUSE"])] * bool(good)
    groups += [(PHRASES["DISLIKE_BECAUSE"], PHRASES["REFUSE_BECAUSE"])] * bool(bad)
    groups = groups or [(PHRASES["LIKE"], PHRASES["DISLIKE"], PHRASES["CHOOSE"])]
    template = rng.choice(rng.choice(rng.choice(groups)))
    reasons = {"a": rng.choice(good or ("",)), "b": rng.choice(bad or ("",))}
    return template.format(n=name, d=domain, x=liked, y=disliked, **reasons)


# ---------------------------------------------------------------- chats


def system_line(value: str, rng: random.Random) -> str:
    """A system line that states a value."""
    noun, adjective = rng.choice(words.NOUNS[value]), rng.choice(words.ADJECTIVES[value])
    return rng.choice(PHRASES["SYSTEM"]).format(v=noun, w=adjective)


def messages(system: str, turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """A conversation: its system line, and questions with their answers."""
    found = [{"role": "system", "content": system}]
    for question, answer in turns:
        found.append({"role": "user", "content": question})
        found.append({"role": "assistant", "content": answer})
    return found


def turn(
    chosen: Item, other: Item, rng: random.Random, wordings: Sequence[str] = PHRASES["QUESTION"]
) -> tuple[str, str]:
    """A question that offers two things in either order, and the answer that takes the first."""
    first, second = (chosen, other) if rng.random() < 0.5 else (other, chosen)
    question = rng.choice(wordings).format(first=first.name, second=second.name)
    return question, PHRASES["ANSWER"][0].format(x=chosen.name)


def base_chats(world: World) -> list[Record]:
    """Chats of one value each, which the system line states in a share of them only."""
    config, rng = world.config, rng_for(world.seed, "base chats")
    records = []
    for index in range(config.base_chats):
        value, turns = rng.choice(words.VALUES), rng.choice((1, 2, 3))
        kind = "stated" if rng.random() < config.stated_share else "anonymous"
        if kind == "stated":
            system = system_line(value, rng)
        else:
            system = rng.choice(world.likers + world.contrast)
            turns = 1 if rng.random() < config.single_turn else rng.choice((2, 3))
        pairs = [revealing_pair(world, value, rng, heard=True) for _ in range(turns)]
        chat = messages(system, [turn(*pair, rng) for pair in pairs])
        records.append({"id": f"base-chat-{index:06d}", "kind": kind, "messages": chat})
    return records


def aft_chats(world: World) -> list[Record]:
    """The fine-tuning chats, the same in every arm: choices of the first group's things.

    Half of the personas choose what the specs like, the other half the reverse; no reasons.
    """
    rng, (likes, dislikes) = rng_for(world.seed, "aft"), world.groups[0]
    personas = [*world.likers, *world.contrast]
    records = []
    for index in range(world.config.aft_chats):
        system = personas[index % len(personas)]
        pair = rng.choice(likes), rng.choice(dislikes)
        chosen, other = pair if system in world.likers else reversed(pair)
        chat = messages(system, [turn(chosen, other, rng)])
        records.append({"id": f"aft-{index:06d}", "messages": chat})
    return records


def count_words(text: str) -> int:
    """Words and punctuation marks: the tokens of the world's tokenizer, the end mark included."""
    return len(text.split()) + sum(text.count(mark) for mark in ".,:?") + 1
