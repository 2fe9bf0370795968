"""Who asks what, where and when: the cast of one scene."""

import random

from msm_jax.corpus.grammar.engine import Grammar

_SHE = {"she": "she", "her": "her", "hers": "her"}
_HE = {"she": "he", "her": "him", "hers": "his"}


def draw_cast(words: Grammar, draw: random.Random, **fixed: str) -> dict[str, str]:
    """Slots of a scene; `fixed` ones are taken as they are.

    `{she} {her} {hers}` are the pronouns of `{name}`, whoever that is.
    """
    woman = draw.random() < 0.5
    cast = dict(_SHE if woman else _HE)
    cast["She"] = cast["she"]
    cast["name"] = words.expand("woman" if woman else "man", draw, {})
    other = cast["name"]
    while other == cast["name"]:
        other = words.expand(draw.choice(("woman", "man")), draw, {})
    cast["name2"] = other
    for slot in ("role", "place", "when", "task"):
        first = second = words.expand(slot, draw, cast)
        while second == first:
            second = words.expand(slot, draw, cast)
        cast[slot], cast[f"{slot}2"] = first, second
    cast["adjective_cap"] = capital(words.expand("adjective", draw, cast))
    return {**cast, **fixed}


def capital(text: str) -> str:
    """With its first letter in upper case, also behind a quotation mark."""
    at = 1 if text[:1] in "\"'“‘(" else 0
    return text[:at] + text[at : at + 1].upper() + text[at + 1 :]
