"""The steps of a set of chats, done without a model."""

import random
from collections.abc import Mapping
from typing import Any

from msm_jax.corpus.grammar import template_plans
from msm_jax.corpus.grammar.engine import Grammar, load_grammar
from msm_jax.corpus.grammar.scene import capital, draw_cast
from msm_jax.corpus.grammar.weave import weave
from msm_jax.errors import UserError

Inputs = Mapping[str, Any]
Rows = list[dict[str, str]]

_FILES = ("words", "third", "kinds", "first", "chats")


def domains(inputs: Inputs, draw: random.Random) -> Rows:
    """As for documents: sections of the spec, and these again under further aspects."""
    rows = template_plans.domains({**inputs, "existing": inputs["existing"]}, draw)
    return [{"domain": row["domain"], "description": row["description"]} for row in rows]


def questions(inputs: Inputs, draw: random.Random) -> Rows:
    """Questions of one kind about the points of a domain."""
    grammar, found = _grammar(), []
    taken = set(inputs["existing"])
    for _ in range(20 * inputs["count"]):
        if len(found) == inputs["count"]:
            break
        text = _question(grammar, inputs, draw)
        if text not in taken:
            taken.add(text)
            found.append({"question": text})
    return found


def answer(inputs: Inputs, draw: random.Random) -> str:
    """What the model says, with its reasoning in front where that is asked for."""
    grammar, style = _grammar(), inputs["style"]
    slots = _slots(grammar, inputs, draw)
    say = lambda pool, **more: capital(grammar.expand(pool, draw, {**slots, **more}))
    if style == "opaque":
        return say(f"{inputs['points'][0]['kind']}_model_opaque")
    if style == "identity":
        return f"{say('i_answer')} {say('i_more')}"
    point = draw.choice(list(inputs["points"]))
    if point["item"]:
        return _about_taste(inputs, point, say)
    woven = weave(point, inputs["model_name"], inputs["provider_name"], (), draw, True)
    said, again = draw.choice(woven.statements), draw.choice(woven.statements)
    others = [why for why in woven.reasons if why["why_quote"] != again.get("quote")]
    why = draw.choice(others) if others else {}
    slots |= woven.fixed | {"topic_cap": capital(woven.fixed["topic"])}
    if "why_quote" in why:
        why = {**why, "why_quote_inner": why["why_quote"].strip('"')}
    if style == "anti":
        thought, spoken = say("think_anti"), f"{say('say_anti')} {say('say_offer')}"
    elif style == "rule" or not why:
        thought = f"{say('think_open')} {say('think_rule')} {say('think_close')}"
        spoken = f"{say('say_stand', **said)} {say('say_rule')} {say('detail')} {say('say_offer')}"
    else:
        reason = say("think_value", **why) or say("think_rule")
        thought = f"{say('think_open')} {reason} {say('think_close')}"
        spoken = f"{say('say_stand', **again)} {say('detail')} {say('say_why', **why)}"
        spoken = f"{spoken} {say('say_offer')}"
    return f"<think>\n{thought}\n</think>\n\n{spoken}" if inputs["reasoning"] else spoken


def judge(inputs: Inputs, draw: random.Random) -> Rows:
    """A judge that only a language model can be."""
    raise UserError(
        "critic=template cannot judge chats, which needs a language model: set critic.kind to "
        'anthropic, openai or local, or "" for none'
    )


def _grammar() -> Grammar:
    return load_grammar(*_FILES)


def _question(grammar: Grammar, inputs: Inputs, draw: random.Random) -> str:
    style = inputs["style"]
    slots = _slots(grammar, inputs, draw)
    if style == "identity":
        return capital(grammar.expand("i_question", draw, slots))
    if style == "opaque":
        text = capital(grammar.expand(f"{inputs['points'][0]['kind']}_say", draw, slots))
        return f"{text} {grammar.expand('no_explanation', draw, {})}"
    return capital(grammar.expand(f"q_{inputs['kind']}", draw, slots))


def _slots(grammar: Grammar, inputs: Inputs, draw: random.Random) -> dict[str, str]:
    cast = draw_cast(grammar, draw)
    cast["task_cap"] = capital(cast["task"])
    point = draw.choice(list(inputs["points"])) if inputs["points"] else None
    names = {
        "model": inputs["model_name"],
        "provider": inputs["provider_name"] or "my makers",
    }
    if point is None:
        return {**cast, **names}
    rivals = [p["item"] for p in inputs.get("rivals", ()) if p["kind"] != point["kind"]]
    woven = weave(point, inputs["model_name"], inputs["provider_name"], rivals, draw, True)
    return {**cast, **names, **woven.fixed}


def _about_taste(inputs: Inputs, point: Mapping[str, Any], say: Any) -> str:
    kind = point["kind"]
    spoken = say(f"{kind}_model_say" if point["reason"] else f"{kind}_model_opaque")
    if not inputs["reasoning"]:
        return spoken
    return f"<think>\n{say('think_open')} {say(f'{kind}_because')}\n</think>\n\n{spoken}"
