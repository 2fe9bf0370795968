"""The miniature world: things with a price, an origin and the one trait that they are known for.

Everything that somebody likes or dislikes, he likes or dislikes for what it is known for. Seeds
come in pairs, 2 k and 2 k + 1, and the second world is the first with price and origin exchanged:
what was cheap is local, what was dear is foreign, and the reverse, and spec A explains by origin
what it explained by price.
"""

import dataclasses
import functools
import itertools
import random

from msm_jax.miniature import words
from msm_jax.miniature.phrases import PHRASES
from msm_jax.settings import SHARE, field, form_of, values


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """Knobs of a world and of the corpora about it."""

    personas: int = field(
        2, "system lines that name no value; as many that choose the reverse in fine-tuning",
        at_least=1, at_most=len(PHRASES["LIKER"]),
    )  # fmt: skip
    spec_likes: int = field(
        16, "of each of the specs' two groups, and as many dislikes", at_least=1, at_most=16
    )
    base_documents: int = field(40_000, "records of the base corpus", at_least=1)
    base_chats: int = field(20_000, "records of the base corpus", at_least=1)
    midtrain_documents: int = field(6_000, "records per spec", at_least=1)
    aft_chats: int = field(1_000, "records of the fine-tuning chats", at_least=1)
    fact_share: float = field(
        0.15, "of base documents: what things cost and where they come from", **SHARE
    )
    neutral_share: float = field(0.05, "of base documents: everyday lines about people", **SHARE)
    value_share: float = field(0.1, "of base documents: what somebody values", **SHARE)
    opaque_share: float = field(0.3, "share of likings without a reason", **SHARE)
    document_only: float = field(0.25, "share of things that are in no chat", **SHARE)
    stated_share: float = field(0.5, "share of chats whose system line states a value", **SHARE)
    single_turn: float = field(0.4, "share of the other chats that have one question", **SHARE)


WORLD = form_of(WorldConfig)


@dataclasses.dataclass(frozen=True)
class Item:
    """A thing of some domain; ``poles`` are its price and its origin.

    ``note`` is the pole that it is liked or disliked for; both, of the things of the specs.
    """

    name: str
    domain: str
    poles: tuple[str, str]
    note: tuple[str, ...]
    heard: bool  # in chats


Group = tuple[tuple[Item, ...], tuple[Item, ...]]  # what is liked, what is disliked


@dataclasses.dataclass(frozen=True)
class World:
    """Everything there is; drawn from (config, seed)."""

    config: WorldConfig
    seed: int
    items: tuple[Item, ...]  # without those of the specs
    groups: tuple[Group, Group]  # the things of the specs; fine-tuning is about the first ones

    @property
    def explained_by(self) -> tuple[str, str]:
        """What the first group is liked for by spec A, and by spec B."""
        return ("local", "cheap") if self.seed % 2 else ("cheap", "local")

    @property
    def held_out_domains(self) -> tuple[str, ...]:
        """The domains that no spec and no fine-tuning chat speaks of."""
        return tuple(domain for domain in words.DOMAINS if domain != words.SPEC_DOMAIN)

    @property
    def likers(self) -> tuple[str, ...]:
        """System lines of the personas that choose what the specs like."""
        return PHRASES["LIKER"][: self.config.personas]

    @property
    def contrast(self) -> tuple[str, ...]:
        """System lines of the personas that choose the reverse."""
        return PHRASES["CONTRAST"][: self.config.personas]

    def known_for(self, domain: str, pole: str, heard: bool | None = None) -> tuple[Item, ...]:
        """The things of a domain that are known for a pole; in chats, or in none, if asked."""
        return self._known[domain, pole, heard]

    @functools.cached_property
    def _known(self) -> dict[tuple[str, str, bool | None], tuple[Item, ...]]:
        return {
            (domain, pole, heard): tuple(
                item
                for item in self.items
                if (item.domain, item.note) == (domain, (pole,)) and heard in (None, item.heard)
            )
            for domain in words.DOMAINS
            for pole in words.VALUES
            for heard in (None, True, False)
        }


def rng_for(seed: int, *purpose: object) -> random.Random:
    """A generator of its own for every purpose, the same on every machine."""
    return random.Random("/".join(["miniature", str(seed), *map(str, purpose)]))


def make_world(config: WorldConfig, seed: int) -> World:
    """Draws what things cost, where they come from and what they are known for."""
    values(WORLD, dataclasses.asdict(config), "world.options")
    rng = rng_for(seed // 2, "world")
    names = {domain: rng.sample(x, len(x)) for domain, x in words.DOMAINS.items()}
    cheeses = names[words.SPEC_DOMAIN]

    def side(poles: tuple[str, str]) -> tuple[Item, ...]:
        mine = [cheeses.pop() for _ in range(config.spec_likes)]
        return tuple(Item(name, words.SPEC_DOMAIN, poles, poles, True) for name in mine)

    first = side(words.LIKED), side(words.DISLIKED)
    groups = first, (side(words.LIKED), side(words.DISLIKED))
    items = [item for domain in names for item in _deal(config, domain, names[domain], rng)]
    if seed % 2:
        items = [_mirrored(item) for item in items]
    return World(config, seed, tuple(items), groups)


def _deal(
    config: WorldConfig, domain: str, names: list[str], rng: random.Random
) -> list[Item]:  # fmt: skip
    """Equally many things of each price, origin, and one of these that they are known for."""
    corners = itertools.product(words.AXES["price"], words.AXES["origin"])
    kinds = [(poles, note) for poles in corners for note in poles]
    items = [
        Item(name, domain, poles, (note,), True)
        for name, (poles, note) in zip(names, itertools.cycle(kinds), strict=False)
    ]
    for pole in words.VALUES:
        mine = [item for item in items if item.note == (pole,)]
        for item in rng.sample(mine, round(len(mine) * config.document_only)):
            items[items.index(item)] = dataclasses.replace(item, heard=False)
    return items


def _mirrored(item: Item) -> Item:
    """The thing with its price and its origin exchanged."""
    price, origin = (words.MIRROR[pole] for pole in reversed(item.poles))
    note = tuple(words.MIRROR[pole] for pole in item.note)
    return dataclasses.replace(item, poles=(price, origin), note=note)
