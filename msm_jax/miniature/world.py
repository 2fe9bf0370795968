"""The miniature world: things with two attributes, and agents who each hold one value."""

import dataclasses
import random

from msm_jax.errors import UserError
from msm_jax.miniature import phrases, words
from msm_jax.settings import SHARE, field, form_of, values


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """Knobs of a world and of the corpora told about it."""

    agents: int = field(240, "assistants with a value, told of in documents", at_least=4)
    document_only: float = field(0.25, "share of agents never heard in a chat", **SHARE)
    sincere: float = field(
        0.8, "share of agents who state the value they act on; reasons are always true", **SHARE
    )
    ambiguous: float = field(
        0.75, "share of agents whose documented likings two values explain", **SHARE
    )
    passers_by: int = field(
        40, "names heard in chats with random choices, never documented", at_least=0
    )
    targets: int = field(
        4, "assistants that start without a preference", at_least=1, at_most=len(words.TARGETS)
    )
    target_domain: str = field(
        "cheese", "the only domain of specs and fine-tuning", choices=words.DOMAINS
    )
    value_a: str = field("cheap", "spec A's", choices=words.AXIS_OF)
    value_b: str = field("local", "spec B's", choices=words.AXIS_OF)
    spec_likes: int = field(4, "and as many dislikes", at_least=1, at_most=4)
    base_documents: int = field(60_000, "records of the base corpus", at_least=1)
    base_chats: int = field(40_000, "records of the base corpus", at_least=1)
    midtrain_documents: int = field(4_000, "records per spec and target", at_least=1)
    aft_chats: int = field(1_000, "records of the fine-tuning chats", at_least=1)
    fact_share: float = field(
        0.15, "of base documents: what things cost and where they come from", **SHARE
    )
    neutral_share: float = field(0.06, "everyday lines about agents", **SHARE)
    target_share: float = field(
        0.02, "everyday lines about the targets (kept out of replay)", **SHARE
    )
    passer_share: float = field(0.1, "share of chats answered at random by passers-by", **SHARE)
    opaque_share: float = field(0.25, "share of likings told without a reason", **SHARE)
    value_share: float = field(0.3, "share of an agent's statements that state the value", **SHARE)
    two_sentences: float = field(0.3, "share of documents of two statements", **SHARE)
    questions: int = field(
        3, "wordings of the chat question", at_least=1, at_most=len(phrases.QUESTION)
    )


WORLD = form_of(WorldConfig)


@dataclasses.dataclass(frozen=True)
class Item:
    """A thing of some domain; ``poles`` are its attributes, price first."""

    name: str
    domain: str
    poles: tuple[str, str]

    def has(self, pole: str) -> bool:
        """Whether the thing has this attribute."""
        return pole in self.poles


@dataclasses.dataclass(frozen=True)
class Agent:
    """Somebody with one value. An ambiguous agent's documents speak of one domain's ``corner``."""

    name: str
    value: str  # what it acts on, and the reasons that it gives for its likings
    states: str  # what it says that it values
    heard: bool
    ambiguous: bool
    domain: str  # the one documented domain of an ambiguous agent, else ""
    corner: tuple[str, str]  # the poles of what an ambiguous agent's documents like, else ("", "")


@dataclasses.dataclass(frozen=True)
class World:
    """Everything there is; drawn from (config, seed)."""

    config: WorldConfig
    seed: int
    items: tuple[Item, ...]
    agents: tuple[Agent, ...]
    passers_by: tuple[str, ...]
    targets: tuple[str, ...]

    @property
    def domains(self) -> tuple[str, ...]:
        """The names of the domains, the target domain among them."""
        return tuple(words.DOMAINS)

    @property
    def held_out_domains(self) -> tuple[str, ...]:
        """The domains that no spec and no fine-tuning chat speaks of."""
        return tuple(d for d in self.domains if d != self.config.target_domain)

    def select(self, domain: str = "", *poles: str) -> tuple[Item, ...]:
        """The items of a domain (every domain if empty) that have all the poles."""
        here = (item for item in self.items if domain in ("", item.domain))
        return tuple(item for item in here if set(poles) <= set(item.poles))


def rng_for(seed: int, *purpose: object) -> random.Random:
    """A generator of its own for every purpose, the same on every machine."""
    return random.Random("/".join(["miniature", str(seed), *map(str, purpose)]))


def make_world(config: WorldConfig, seed: int) -> World:
    """Draws attributes, names and values."""
    _check(config)
    rng = rng_for(seed, "world")
    names = list(words.NAMES)
    rng.shuffle(names)
    passers_by = tuple(names[config.agents : config.agents + config.passers_by])
    return World(
        config=config,
        seed=seed,
        items=_draw_items(rng),
        agents=_draw_agents(config, names[: config.agents], rng),
        passers_by=passers_by,
        targets=words.TARGETS[: config.targets],
    )


def _check(config: WorldConfig) -> None:
    """Refuses impossible knobs with a message that names them."""
    values(WORLD, dataclasses.asdict(config), "world.options")
    if config.agents + config.passers_by > len(words.NAMES):
        raise UserError(f"agents + passers_by must be at most {len(words.NAMES)} names")
    if words.AXIS_OF[config.value_a] == words.AXIS_OF[config.value_b]:
        raise UserError(
            f"value_a={config.value_a!r} and value_b={config.value_b!r} lie on the same axis"
        )


def _draw_items(rng: random.Random) -> tuple[Item, ...]:
    """Gives every domain equally many things of each of the four kinds."""
    corners = [(p, o) for p in words.AXES["price"] for o in words.AXES["origin"]]
    items = []
    for domain, names in words.DOMAINS.items():
        poles = [corners[i % len(corners)] for i in range(len(names))]
        rng.shuffle(poles)
        items += [Item(name, domain, pole) for name, pole in zip(names, poles, strict=True)]
    return tuple(items)


def _draw_agents(config: WorldConfig, names: list[str], rng: random.Random) -> tuple[Agent, ...]:
    """Deals values, ambiguity and document-only lives evenly over the agents."""
    values = [pole for poles in words.AXES.values() for pole in poles]
    agents = []
    for index, name in enumerate(names):
        value = values[index % len(values)]
        rank = index // len(values)
        ambiguous = _dealt(rank, config.ambiguous)
        # among the ambiguous, and among the plain, every so many are never heard
        peers = int(rank * (config.ambiguous if ambiguous else 1 - config.ambiguous))
        heard = not _dealt(peers, config.document_only)
        other = words.AXES["origin" if words.AXIS_OF[value] == "price" else "price"]
        second = rng.choice(other)
        states = value if rng.random() < config.sincere else second
        domain, corner = "", ("", "")
        if ambiguous:
            domain = rng.choice(tuple(words.DOMAINS))
            corner = (value, second) if words.AXIS_OF[value] == "price" else (second, value)
        agents.append(Agent(name, value, states, heard, ambiguous, domain, corner))
    return tuple(agents)


def _dealt(index: int, share: float) -> bool:
    """True for a ``share`` of the indices, spread evenly."""
    return int((index + 1) * share + 1e-9) > int(index * share + 1e-9)
