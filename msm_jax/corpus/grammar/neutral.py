"""Documents about ordinary life, of the same shape as those about a spec: the control's."""

import random
from collections.abc import Mapping
from typing import Any

from msm_jax.corpus.grammar.engine import load_grammar
from msm_jax.corpus.grammar.scene import capital, draw_cast


def neutral_document(inputs: Mapping[str, Any], draw: random.Random) -> str:
    """Paragraphs about `inputs["topic"]`, of a length drawn from `inputs["words"]`."""
    low, high = inputs["words"]
    target = draw.uniform(low, low + 0.75 * (high - low))
    grammar, used = load_grammar("words", "third", "neutral"), set[str]()
    role, _, task = inputs["topic"].partition(": ")
    first = draw_cast(grammar, draw, **({"role": role, "task": task} if task else {}))
    cast = first

    def say(*pools: str) -> str:
        scene = {**cast, "she2": cast["name2"]}
        return " ".join(capital(grammar.expand(pool, draw, scene, used)) for pool in pools)

    end = say("n_close")
    paragraphs = [say("n_open", "n_detail")]
    while sum(len(text.split()) for text in (*paragraphs, end)) < target:
        paragraphs.append(say("n_scene", *["n_detail"] * draw.randint(1, 3)))
        cast = draw_cast(grammar, draw)
    cast = first
    return "\n\n".join([*paragraphs, end])
