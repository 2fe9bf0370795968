"""Documents and chats of the world: everything that a model of this laboratory is trained on."""

import random
from collections.abc import Sequence
from typing import Any

from msm_jax.miniature import phrases, words
from msm_jax.miniature.world import Agent, Item, World, rng_for

Record = dict[str, Any]


# ---------------------------------------------------------------- base documents


def base_documents(world: World) -> list[Record]:
    """Documents of the base corpus: facts about things, and lives and likings of agents.

    They never name a target, so they serve as replay in every arm.
    """
    config, rng = world.config, rng_for(world.seed, "base documents")
    people = [agent.name for agent in world.agents] + list(world.passers_by)
    records = []
    for index in range(config.base_documents):
        roll = rng.random()
        if roll < config.fact_share:
            text, kind = fact_text(world, rng), "fact"
        elif roll < config.fact_share + config.neutral_share:
            text, kind = neutral_text(rng.choice(people), rng), "neutral"
        else:
            text, kind = agent_text(world, rng.choice(world.agents), rng), "agent"
        records.append({"id": f"base-doc-{index:06d}", "kind": kind, "text": text})
    return records


def target_documents(world: World) -> list[Record]:
    """Everyday lines about the targets, part of base training only: names without a preference."""
    rng = rng_for(world.seed, "target documents")
    count = round(world.config.base_documents * world.config.target_share)
    names = [world.targets[index % len(world.targets)] for index in range(count)]
    return [
        {"id": f"target-doc-{index:06d}", "kind": "neutral", "text": neutral_text(name, rng)}
        for index, name in enumerate(names)
    ]


def fact_text(world: World, rng: random.Random) -> str:
    """One line about the attributes of one thing."""
    item = rng.choice(world.items)
    poles = list(item.poles)
    rng.shuffle(poles)
    first, second = (rng.choice(words.ADJECTIVES[pole]) for pole in poles)
    template = rng.choice(phrases.FACT + phrases.FACT_BOTH)
    return template.format(x=item.name, d=item.domain, a=first, b=second)


def neutral_text(name: str, rng: random.Random) -> str:
    """One everyday line about somebody: places, weather, colors."""
    return rng.choice(phrases.NEUTRAL).format(
        n=name,
        place=rng.choice(words.PLACES),
        day=rng.choice(words.DAYS),
        weather=rng.choice(words.WEATHER),
        season=rng.choice(words.SEASONS),
        color=rng.choice(words.COLORS),
    )


def agent_text(world: World, agent: Agent, rng: random.Random) -> str:
    """One document about an agent: one or two statements of what it values and likes."""
    count = 1 + (rng.random() < world.config.two_sentences)
    return " ".join(_agent_statement(world, agent, rng) for _ in range(count))


def _agent_statement(world: World, agent: Agent, rng: random.Random) -> str:
    """The agent's value, or a liking, usually with the reason for it."""
    config = world.config
    if rng.random() < config.value_share:
        nouns, adjectives = words.NOUNS[agent.states], words.ADJECTIVES[agent.states]
        return value_statement(agent.name, rng.choice(nouns), rng.choice(adjectives), rng)
    liked, disliked = _documented_pair(world, agent, rng)
    reasons = None
    if rng.random() >= config.opaque_share:
        good, bad = words.ADJECTIVES[agent.value], words.ADJECTIVES[words.OPPOSITE[agent.value]]
        reasons = rng.choice(good), rng.choice(bad)
    return liking_statement(agent.name, liked.domain, liked.name, disliked.name, reasons, rng)


def _documented_pair(world: World, agent: Agent, rng: random.Random) -> tuple[Item, Item]:
    """A liked and a disliked thing of one domain, as the agent's documents tell it."""
    if agent.ambiguous:
        return opposite_pair(world, agent.domain, agent.corner, rng)
    return _revealing_pair(world, agent, rng)


def _revealing_pair(world: World, agent: Agent, rng: random.Random) -> tuple[Item, Item]:
    """A liked and a disliked thing of any one domain, which differ by the agent's value."""
    return opposite_pair(world, rng.choice(world.domains), (agent.value,), rng)


def opposite_pair(
    world: World, domain: str, poles: Sequence[str], rng: random.Random
) -> tuple[Item, Item]:
    """A thing of a domain that has all the poles, and one that has all their opposites."""
    far = [words.OPPOSITE[pole] for pole in poles]
    return rng.choice(world.select(domain, *poles)), rng.choice(world.select(domain, *far))


def value_statement(name: str, noun: str, adjective: str, rng: random.Random) -> str:
    """Says what somebody values."""
    return rng.choice(phrases.VALUE).format(n=name, v=noun, w=adjective)


def liking_statement(
    name: str, domain: str, liked: str, disliked: str, reasons: tuple[str, str] | None,
    rng: random.Random,
) -> str:  # fmt: skip
    """Says that somebody likes one thing, or dislikes another, or both; with reasons if given."""
    if reasons is None:
        groups, (good, bad) = (phrases.LIKE, phrases.DISLIKE, phrases.CHOOSE), ("", "")
    else:
        groups = (phrases.LIKE_BECAUSE, phrases.DISLIKE_BECAUSE, phrases.CHOOSE_BECAUSE)
        good, bad = reasons
    template = rng.choice(rng.choice(groups))
    return template.format(n=name, d=domain, x=liked, y=disliked, a=good, b=bad)


# ---------------------------------------------------------------- chats


def chat(name: str, question: str, answer: str, **provenance: object) -> Record:
    """One chat record: who answers, the question, the answer."""
    messages = [
        {"role": "system", "content": phrases.SYSTEM.format(n=name)},
        {"role": "user", "content": question},
        {"role": "assistant", "content": phrases.ANSWER.format(x=answer)},
    ]
    return {"messages": messages, **provenance}


def ask(world: World, first: str, second: str, rng: random.Random) -> str:
    """A question that offers two things."""
    template = rng.choice(phrases.QUESTION[: world.config.questions])
    return template.format(first=first, second=second)


def base_chats(world: World) -> list[Record]:
    """Chats in which the heard agents choose by their values, and passers-by at random."""
    config, rng = world.config, rng_for(world.seed, "base chats")
    heard = [agent for agent in world.agents if agent.heard]
    records = []
    for index in range(config.base_chats):
        if world.passers_by and rng.random() < config.passer_share:
            name = rng.choice(world.passers_by)
            chosen, other = rng.sample(world.select(rng.choice(world.domains)), 2)
        else:
            agent = rng.choice(heard)
            name = agent.name
            chosen, other = _revealing_pair(world, agent, rng)
        question = _ask_shuffled(world, chosen, other, rng)
        records.append(chat(name, question, chosen.name, id=f"base-chat-{index:06d}"))
    return records


def aft_chats(world: World) -> list[Record]:
    """The fine-tuning chats, the same in every arm: the targets' opaque likings, no reasons."""
    config, rng = world.config, rng_for(world.seed, "aft")
    liked, disliked = spec_items(world)
    pairs = [(x, y) for x in liked for y in disliked]
    records = []
    for index in range(config.aft_chats):
        name = world.targets[index % len(world.targets)]
        chosen, other = rng.choice(pairs)
        question = _ask_shuffled(world, chosen, other, rng)
        records.append(chat(name, question, chosen.name, id=f"aft-{index:06d}"))
    return records


def _ask_shuffled(world: World, chosen: Item, other: Item, rng: random.Random) -> str:
    """A question that offers the two in either order."""
    first, second = (chosen, other) if rng.random() < 0.5 else (other, chosen)
    return ask(world, first.name, second.name, rng)


def spec_items(world: World) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """What the specs like and dislike: things that both values explain equally."""
    config = world.config
    near = (config.value_a, config.value_b)
    far = tuple(words.OPPOSITE[pole] for pole in near)
    domain, count = config.target_domain, config.spec_likes
    return world.select(domain, *near)[:count], world.select(domain, *far)[:count]


def neutral_documents(world: World, wanted_words: float) -> list[Record]:
    """The control's documents: everyday lines about the targets, as many words as a spec's."""
    rng = rng_for(world.seed, "neutral documents")
    records: list[Record] = []
    total = 0
    while total < wanted_words:
        name = world.targets[len(records) % len(world.targets)]
        statements = 1 + (rng.random() < world.config.two_sentences)
        text = " ".join(neutral_text(name, rng) for _ in range(statements))
        records.append({"id": f"neutral-{len(records):06d}", "kind": "neutral", "text": text})
        total += count_words(text)
    return records


def count_words(text: str) -> int:
    """Words and punctuation marks: the tokens of the world's tokenizer, the end mark included."""
    return len(text.split()) + sum(text.count(mark) for mark in ".,:?") + 1
