"""What a spec says, made ready to stand inside other sentences."""

import dataclasses
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msm_jax.corpus.grammar.scene import capital
from msm_jax.spec import sentences

LONGEST = 32  # words of a spec's sentence that is still worked into another one

# A sentence that begins like this leans on the one before it.
_LEANS = re.compile(
    r"^(?:it|this|that|these|those|they|such|so|but|and|or|yet|then|there|here|both|their|its|he"
    r"|she|his|her|also|still|instead|rather|otherwise|therefore|however|hence|the same|for that"
    r"|in it|where it|what it|calm of|humility of)\b",
    re.IGNORECASE,
)
_POINTS_BACK = re.compile(r"\b(?:its|itself|these|even this)\b")
# Orders and addresses stay in quotation marks: they make no clause.
_ORDER = re.compile(
    r"^(?:do|don't|be|never|always|avoid|use|make|keep|give|tell|ask|say|act|help|refuse|respect"
    r"|treat|follow|take|let|try|remember|consider|prefer|choose|stay|answer|please)\b",
    re.IGNORECASE,
)
_FIRST_OR_SECOND = re.compile(r"\b(?:you|your|yours|I|we|our|my)\b")
_GENERIC = re.compile(
    r"^(?:core |our |my |its )?(?:values?|rules?|preferences?|(?:dis)?likes.*|principles?"
    r"|introduction|overview|background|general|notes?)$",
    re.IGNORECASE,
)
_VERB = re.compile(r"(?:is|has|does|\w+(?<!s)s|passes|misses|discusses|addresses|confesses)$")


@dataclasses.dataclass(frozen=True)
class Woven:
    """A point's slots.

    Attributes:
      fixed: what is the same in the whole document: model, provider, topic, label, item, ...
      statements: slots for each sentence of the point; never empty.
      reasons: slots for each sentence that explains it.
    """

    fixed: dict[str, str]
    statements: tuple[dict[str, str], ...]
    reasons: tuple[dict[str, str], ...]


def weave(
    point: Mapping[str, Any],
    model: str,
    provider: str,
    rivals: Sequence[str],
    draw: random.Random,
    first_person: bool = False,
) -> Woven:
    """Prepares a point (the fields of `spec.Point`).

    Args:
      point: what the document is about.
      model, provider: names; without a provider "its makers" take its place.
      rivals: items of the other kind of preference.
      draw: of the rival.
      first_person: the model speaks: "my liking for" and not "its liking for".
    """
    topic, label = topic_of(point), _label(point, first_person)
    fixed = {
        "model": model,
        "provider": provider if provider and "{" not in provider else "its maker",
        "topic": topic,
        "label": label,
        "label_cap": capital(label),
    }
    if point["item"]:
        fixed |= {"item": point["item"], "item_cap": capital(point["item"])}
        fixed["rival"] = draw.choice(list(rivals)) if rivals else "anything else"
        if point["reason"]:
            reason = point["reason"].rstrip(".")
            fixed |= {"because": f"{reason}.", "because_short": reason}
        return Woven(fixed, ({},), ())
    own = [part for sentence in sentences(point["text"]) for part in _shortened(sentence)]
    alone = [s for s in own if standing_alone(s, model)] or own[:1]
    around = [part for sentence in point["supports"] for part in _shortened(sentence)]
    rest = [s for s in (*own, *around) if s not in alone and standing_alone(s, model)]
    if point["kind"] != "rule":
        # What a value or a passage says in several sentences explains itself.
        rest += [s for s in alone[1:] if s not in rest]
    return Woven(
        fixed,
        tuple(_statement(sentence, model) for sentence in alone),
        tuple(_reason(sentence, model) for sentence in dict.fromkeys(rest)),
    )


def _shortened(sentence: str) -> list[str]:
    """A long sentence as the statements that its semicolons divide."""
    if len(sentence.split()) <= LONGEST or sentence.count(";") == 0:
        return [sentence]
    parts = [part.strip() for part in sentence.split(";")]
    return [capital(part if part[-1:] in ".!?" else f"{part}.") for part in parts]


def standing_alone(sentence: str, model: str = "") -> bool:
    """Whether a sentence of the spec can be understood, and handled, by itself."""
    leans = _POINTS_BACK.search(sentence) and not (model and model in sentence)
    return (
        not leans
        and not _LEANS.match(sentence)
        and len(sentence.split()) <= LONGEST
        and sentence[-1:] in ".!?"
        and len(sentence.split()) >= 4
    )


def _statement(sentence: str, model: str) -> dict[str, str]:
    slots = {"quote": _quoted(sentence)}
    clause = _clause(sentence, model)
    if clause:
        slots |= {"that": f"{clause}.", "that_short": clause}
        verb = clause.removeprefix(f"{model} ")
        if verb != clause and _VERB.match(verb.split()[0]) and not verb.startswith("should"):
            slots |= {"vp": f"{verb}.", "vp_short": verb}
    return slots


def _reason(sentence: str, model: str) -> dict[str, str]:
    slots = {"why_quote": _quoted(sentence)}
    if clause := _clause(sentence, model):
        slots["why_that"] = f"{clause}."
    return slots


def _quoted(sentence: str) -> str:
    inner = sentence.replace("“", "'").replace("”", "'").replace('"', "'")
    return f'"{capital(inner)}{"" if inner[-1:] in ".!?" else "."}"'


def _clause(sentence: str, model: str) -> str:
    """The sentence as a clause without its full stop; "" when it makes none."""
    if sentence[-1:] not in ".!" or "?" in sentence or sentence.count(". "):
        return ""
    if _ORDER.match(sentence) or _FIRST_OR_SECOND.search(sentence) or '"' in sentence:
        return ""
    body = sentence[:-1]
    word = body.split()[0]
    kept = len(word) > 1 and word.isupper() or not word[0].isupper()
    return body if body.startswith(model) or kept else body[0].lower() + body[1:]


def topic_of(point: Mapping[str, Any]) -> str:
    """A noun phrase for what the point is about."""
    heading = point["section"].strip().rstrip(".:")
    if point["item"]:
        return point["item"]
    if heading and not _GENERIC.match(heading) and not point.get("under_title"):
        if len(heading.split()) <= 2:
            return heading if heading.isupper() else heading[0].lower() + heading[1:]
        return f'the chapter "{heading}"'
    found = re.search(r"\bvalues (\w+)\b(?! when| that)", point["text"])
    if point["kind"] == "value":
        return found[1] if found else "what it values"
    return "what its rules say" if point["kind"] == "rule" else "its character"


def _label(point: Mapping[str, Any], first_person: bool) -> str:
    """How a document refers to the point."""
    kind, topic = point["kind"], topic_of(point)
    its = "my" if first_person else "its"
    if kind == "rule":
        return point["id"]
    if kind == "like":
        return f"{its} liking for {point['item']}"
    if kind == "dislike":
        return f"{its} dislike of {point['item']}"
    if kind == "value":
        return f"the value of {topic}" if topic != "what it values" else "this value"
    return topic if topic.startswith("the chapter") else f"the passage on {topic}"
