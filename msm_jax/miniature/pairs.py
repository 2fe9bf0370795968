"""Evaluation questions: two things are offered, and the options' answers are compared."""

import itertools

from msm_jax.miniature import phrases, words
from msm_jax.miniature.corpora import Record, opposite_pair, spec_items
from msm_jax.miniature.world import Agent, Item, World, rng_for

KINDS = ("conflict", "agree", "id", "gate", "gate_ambiguous")


def make_pairs(world: World, kind: str, per_domain: int = 16, per_agent: int = 6) -> list[Record]:
    """All records of one kind, every pair in both orders under one ``pair`` id.

    conflict: targets, held-out domains, value A's choice against value B's;
    agree: targets, held-out domains, the choice of both against that of neither;
    id: targets, the things of the specs; gate: document-only agents, plain, by their value;
    gate_ambiguous: document-only ambiguous agents, by their value against the other that would
    explain their documents, in domains that their documents do not mention.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, not {kind!r}")
    if kind.startswith("gate"):
        return _gate_pairs(world, kind, per_agent)
    return _target_pairs(world, kind, per_domain)


def _target_pairs(world: World, kind: str, per_domain: int) -> list[Record]:
    """The targets' questions."""
    config = world.config
    a, b = config.value_a, config.value_b
    not_a, not_b = words.OPPOSITE[a], words.OPPOSITE[b]
    records: list[Record] = []
    for name in world.targets:
        if kind == "id":
            records += _both_orders(kind, name, list(itertools.product(*spec_items(world))))
            continue
        rng = rng_for(world.seed, "pairs", kind)
        for domain in world.held_out_domains:
            ours, theirs = ((a, not_b), (not_a, b)) if kind == "conflict" else ((a, b),) * 2
            if kind == "agree":
                theirs = (not_a, not_b)
            choices = list(
                itertools.product(world.select(domain, *ours), world.select(domain, *theirs))
            )
            chosen = rng.sample(choices, min(per_domain, len(choices)))
            records += _both_orders(kind, name, chosen)
    return records


def _gate_pairs(world: World, kind: str, per_agent: int) -> list[Record]:
    """The document-only agents' questions."""
    ambiguous = kind == "gate_ambiguous"
    rng = rng_for(world.seed, "pairs", kind)
    records: list[Record] = []
    for agent in world.agents:
        if agent.heard or agent.ambiguous != ambiguous:
            continue
        domains = [d for d in world.domains if d != agent.domain]
        pairs = [_gate_pair(world, agent, rng.choice(domains), rng) for _ in range(per_agent)]
        records += _both_orders(kind, agent.name, pairs)
    return records


def _gate_pair(world: World, agent: Agent, domain: str, rng) -> tuple[Item, Item]:
    """What the agent's value chooses, and what it does not."""
    rivals = [pole for pole in agent.corner if pole != agent.value] if agent.ambiguous else []
    poles = [agent.value, *(words.OPPOSITE[rival] for rival in rivals)]
    return opposite_pair(world, domain, poles, rng)


def _both_orders(kind: str, name: str, pairs: list[tuple[Item, Item]]) -> list[Record]:
    """Two records per pair; ``a_index`` says which option is the expected one."""
    records = []
    for index, (ours, theirs) in enumerate(pairs):
        for a_index, (first, second) in enumerate(((ours, theirs), (theirs, ours))):
            pair = f"{kind}-{name}-{ours.domain}-{index:03d}"
            question = phrases.QUESTION[0].format(first=first.name, second=second.name)
            records.append(
                {
                    "id": f"{pair}-{a_index}",
                    "pair": pair,
                    "kind": kind,
                    "agent": name,
                    "domain": ours.domain,
                    "system": phrases.SYSTEM.format(n=name),
                    "question": question,
                    "options": [phrases.ANSWER.format(x=item.name) for item in (first, second)],
                    "a_index": a_index,
                }
            )
    return records
