"""The planning steps of a corpus, done without a model: the spec is laid out as it lies."""

import random
import re
from collections.abc import Mapping
from typing import Any

from msm_jax.corpus.grammar.engine import load_grammar
from msm_jax.corpus.grammar.forms import FORMS
from msm_jax.corpus.grammar.scene import draw_cast
from msm_jax.corpus.grammar.weave import standing_alone, topic_of
from msm_jax.errors import UserError
from msm_jax.spec import sentences

Inputs = Mapping[str, Any]
Rows = list[dict[str, str]]

# The same points looked at from another side, when more domains are wanted than there are sections.
ASPECTS = (
    "everyday work", "pressure and haste", "small tasks", "high stakes", "disagreement",
    "teaching and learning", "work nobody checks", "long conversations", "new colleagues",
    "public service", "family life", "trade and crafts", "health and care", "sports and clubs",
    "culture and the arts", "science and measurement", "travel", "money matters",
)  # fmt: skip


def domains(inputs: Inputs, draw: random.Random) -> Rows:
    """Sections of the spec that state something, then the same under further aspects."""
    groups: dict[str, list[str]] = {}
    for point in inputs["points"]:
        groups.setdefault(_domain(point), []).append(point["id"])
    names = list(groups)
    for aspect in ASPECTS:
        names += [f"{name} in {aspect}" for name in groups]
    names = [name for name in names if name not in inputs["existing"]]
    wanted = inputs["count"] or len([n for n in groups if n not in inputs["existing"]])
    return [
        {
            "domain": name,
            "description": f"What the spec says under {_base(name)}: {', '.join(held)}.",
            "points": "; ".join(held),
        }
        for name in names[:wanted]
        for held in (groups[_base(name)],)
    ]


def subdomains(inputs: Inputs, draw: random.Random) -> Rows:
    """One for each point of the domain, then one for each of their sentences."""
    held = [p for p in inputs["points"] if _domain(p) == _base(inputs["domain"])]
    held = held or list(inputs["points"])
    rows = [_subdomain(point, point["id"], point["text"]) for point in held]
    for point in held:
        rows += [
            _subdomain(point, f"{point['id']}, sentence {number}", sentence)
            for number, sentence in enumerate(sentences(point["text"]), start=1)
            if len(sentences(point["text"])) > 1
        ]
    for aspect in ASPECTS:
        rows += [_subdomain(p, f"{p['id']} in {aspect}", p["text"]) for p in held]
    rows = [row for row in rows if row["subdomain"] not in inputs["existing"]]
    return rows[: inputs["count"] or len(held)]


def _subdomain(point: Mapping[str, Any], name: str, section: str) -> dict[str, str]:
    return {
        "subdomain": name,
        "context": f"{point['id']} under {point['section'] or 'no heading'}: "
        f"{' '.join(section.split()[:12])} ...",
        "section": section,
    }


def assertions(inputs: Inputs, draw: random.Random) -> Rows:
    """The sentences of the section, and those of the spec that explain them."""
    found = []
    for point in inputs["points"]:
        why = [s for s in point["supports"] if standing_alone(s)]
        for sentence in sentences(inputs["section"]):
            reason = draw.choice(why) if why else "The spec says so."
            found.append({"assertion": sentence, "explanation": reason, "label": point["kind"]})
    return found[: inputs["count"] or None]


def types(inputs: Inputs, draw: random.Random) -> Rows:
    """Kinds of documents that the grammar can write, in a drawn order."""
    register = inputs["register"]
    able = [
        form
        for form in FORMS
        if form.label not in inputs["existing"] and register in ("any", form.register)
    ]
    draw.shuffle(able)
    return [{"doc_type": f.label, "description": f.description} for f in able[: inputs["count"]]]


def ideas(inputs: Inputs, draw: random.Random) -> Rows:
    """Each a role and a task that nobody has had yet."""
    words, taken, found = load_grammar("words", "third"), set(inputs["existing"]), []
    topic = topic_of(draw.choice(list(inputs["points"])))
    while len(found) < inputs["count"]:
        cast = draw_cast(words, draw)
        name = f"{cast['role']}: {cast['task']}"
        if name not in taken:
            taken.add(name)
            idea = f"At {cast['place']} somebody wants to {cast['task']}, and {topic} comes up."
            found.append({"idea": idea, "name": name})
    return found


def topics(inputs: Inputs, draw: random.Random) -> Rows:
    """Subjects of ordinary life for documents that have nothing to do with any assistant."""
    words, taken, found = load_grammar("words", "third"), set(inputs["existing"]), []
    while len(found) < inputs["count"]:
        cast = draw_cast(words, draw)
        name = f"{cast['role']}: {cast['task']}"
        if name not in taken:
            taken.add(name)
            found.append({"topic": name})
    return found


def rewrite(inputs: Inputs, draw: random.Random) -> str:
    """Other registers, as far as exchanging the name of the model goes."""
    names = {"assistant": "the assistant", "another": inputs["other_name"], "one": "one"}
    if inputs["register"] not in names:
        raise UserError(
            f"rewrite={inputs['register']}: the template writer can only exchange the name "
            f"({', '.join(names)}): set writer.kind to anthropic, openai or local"
        )
    new, model = names[inputs["register"]], re.escape(inputs["model_name"])
    text = re.sub(rf"(^|[.?!:][\"”]? [\"“]?|\n[\"“]?){model}\b", rf"\g<1>{_capital(new)}",
                  inputs["document"])  # fmt: skip
    return f"<content>\n{re.sub(rf'{model}(?![a-z])', new, text)}\n</content>"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def augment(inputs: Inputs, draw: random.Random) -> Rows:
    """Sentences that explain a rule or make it more precise, fit for any rule."""
    pool = "explanation" if inputs["kind"] == "value_augmented" else "sub_rule"
    grammar, used, found = load_grammar("words", "third", "augment"), set[str](), []
    scene = {
        "model": inputs["model_name"],
        "provider": inputs["provider_name"],
        "rule": f"rule {inputs['number']}",
    }
    for _ in range(inputs["count"]):
        cast = {**draw_cast(grammar, draw), **scene}
        sentence = grammar.expand(pool, draw, cast, used)
        found.append({"sentence": _capital(sentence)})
    return found


def _domain(point: Mapping[str, Any]) -> str:
    return point["section"] or "The spec as a whole"


def _base(domain: str) -> str:
    """The section that a domain was made from."""
    for aspect in ASPECTS:
        domain = domain.removesuffix(f" in {aspect}")
    return domain
