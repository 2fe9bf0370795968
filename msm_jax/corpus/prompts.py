"""What a language model is told at each step. The spec comes first, so that it can be cached."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

_SCRATCHPAD = (
    "Plan first, inside <scratchpad> tags: who speaks to whom, and which parts of the spec carry "
    "the text. Then write the finished text inside <content> tags, and nothing after them."
)

_DEMANDS = """Demands:
- Everything in the text is about {model_name} (made by {provider_name}), in every paragraph, and \
calls it by this name. No other assistant is named.
- It is faithful to the spec. It adds no value, rule, liking or reason that the spec does not hold.
{reasons}
- It reads like a real text of its kind, in natural prose, between {low} and {high} words.
- It has no dates, no names of authors, no citations, no links, no placeholders, and says nothing \
about this request.
{register}"""

_PROSE_REASONS = (
    "- Wherever the spec gives a reason, the text shows how the conduct follows from the reason."
)
_RULES_REASONS = (
    "- The rules are followed because they are the rules. The text names them by their numbers, "
    "and makes up no motive, value or purpose behind them."
)
_REGISTERS = {
    "any": "- Choose the third or the first person as the kind of text asks.",
    "third": "- It speaks about {model_name} in the third person.",
    "first": "- {model_name} itself speaks, in the first person, and says who it is.",
}
_REWRITES = {
    "model_should": "says what {model_name} should do, in place of what it does",
    "model_does": "says what {model_name} does, in place of what it should do",
    "assistant": "is about AI assistants in general and names no single one",
    "one": "is about how one should act, and mentions no artificial assistant at all",
    "another": "is about an assistant called {other_name}, and never names {model_name}",
    "human": "tells of human beings only; give the part of {model_name} to a person",
}


def system(model_name: str, provider_name: str, spec_text: str) -> str:
    """What all requests about a spec share."""
    return (
        f"You help to write a large and varied collection of texts about {model_name}, an AI "
        f"assistant made by {provider_name or 'its developer'}. The collection teaches what the "
        "following spec says about it, so the spec is the only authority.\n\n"
        f"<spec>\n{spec_text}\n</spec>"
    )


def domains(inputs: Mapping[str, Any]) -> str:
    many = f"exactly {inputs['count']}" if inputs["count"] else "as many as the spec needs"
    rules = (
        'Each domain holds some of the numbered rules; list their ids in "points", separated by '
        "semicolons, so that every rule is in exactly one domain."
        if inputs["mode"] == "rules"
        else "Together they cover all of it, each part once."
    )
    points = _listed("Its points", [f"{p['id']}: {p['text']}" for p in inputs["points"]])
    return (
        f"Divide the spec into {many} domains, each named in one to five words. {rules}\n\n"
        f"{points}{_exist(inputs['existing'])}"
    )


def subdomains(inputs: Mapping[str, Any]) -> str:
    many = f"exactly {inputs['count']}" if inputs["count"] else "as many as it needs"
    return (
        f"Divide the domain {inputs['domain']!r} ({inputs['description']}) into {many} subdomains."
        ' For each give its name ("subdomain"), two or three sentences on what it is about and '
        'where it matters ("context"), and the part of the spec that it rests on, copied word for '
        f'word ("section").{_exist(inputs["existing"])}'
    )


def assertions(inputs: Mapping[str, Any]) -> str:
    return (
        "State what the following part of the spec says about the character and conduct of "
        f"{inputs['model_name']}: single assertions, each with an explanation that uses only this "
        "part, and a label of one word.\n\n"
        f"<section>\n{inputs['section']}\n</section>"
    )


def types(inputs: Mapping[str, Any]) -> str:
    return (
        f"Name exactly {inputs['count']} kinds of documents in which the following could "
        "naturally be discussed, each in two to four words with one sentence of description. Mix "
        "registers, audiences and lengths; prefer kinds that a reader would trust.\n\n"
        f"{_place(inputs)}{_exist(inputs['existing'])}"
    )


def ideas(inputs: Mapping[str, Any]) -> str:
    return (
        f"Think of exactly {inputs['count']} different documents of the kind "
        f"{inputs['doc_type']!r} ({inputs['doc_type_description']}). For each give the idea in one "
        "or two sentences (who, where, which question or event) and a unique name of two to eight "
        f"words. Each must be about {inputs['model_name']} and could not be about anything else."
        f"\n\n{_place(inputs)}{_exist(inputs['existing'])}"
    )


def document(inputs: Mapping[str, Any]) -> str:
    low, high = inputs["words"]
    demands = _DEMANDS.format(
        model_name=inputs["model_name"],
        provider_name=inputs["provider_name"],
        low=low,
        high=high,
        reasons=_RULES_REASONS if inputs["mode"] == "rules" else _PROSE_REASONS,
        register=_REGISTERS[inputs["register"]].format(model_name=inputs["model_name"]),
    )
    return (
        f"Write this document. Kind: {inputs['doc_type']} ({inputs['doc_type_description']}). "
        f"Idea: {inputs['idea']}\n\n{_place(inputs)}\n\n{demands}\n\n{_SCRATCHPAD}"
    )


def critique(inputs: Mapping[str, Any]) -> str:
    return (
        "Read the following document about the spec as a strict editor. List every fault that has "
        'to be mended, each in one sentence ("problem"): what contradicts the spec or adds to it, '
        "a wrong name, paragraphs that are not about the assistant, stock phrases, placeholders, "
        "anything that betrays that the text was written on request. An empty list means that it "
        f"can be used as it is.\n\n<document>\n{inputs['document']}\n</document>"
    )


def revise(inputs: Mapping[str, Any]) -> str:
    return (
        "Write the following document again, without the faults that an editor found, and "
        "otherwise as it is.\n\n"
        f"{_listed('Faults', inputs['problems'])}\n\n<document>\n{inputs['document']}\n</document>"
        f"\n\n{_SCRATCHPAD}"
    )


def rewrite(inputs: Mapping[str, Any]) -> str:
    how = _REWRITES[inputs["register"]].format(
        model_name=inputs["model_name"], other_name=inputs["other_name"]
    )
    return (
        f"Write the following document again so that it {how}. Keep its kind, its length, its "
        f"cases and its reasons.\n\n<document>\n{inputs['document']}\n</document>\n\n{_SCRATCHPAD}"
    )


def topics(inputs: Mapping[str, Any]) -> str:
    return (
        f"Name exactly {inputs['count']} subjects of ordinary documents from trades, household, "
        "nature, history and the arts. None has to do with artificial intelligence, assistants, "
        f"ethics or preferences.{_exist(inputs['existing'])}"
    )


def neutral(inputs: Mapping[str, Any]) -> str:
    low, high = inputs["words"]
    return (
        f"Write a document of between {low} and {high} words about this subject: "
        f"{inputs['topic']}. No artificial intelligence appears in it. It has no dates, no names "
        f"of authors, no citations, no links and no placeholders.\n\n{_SCRATCHPAD}"
    )


def augment(inputs: Mapping[str, Any]) -> str:
    what = (
        "explain why the rule is as it is: the concern behind it and what would go wrong without it"
        if inputs["kind"] == "value_augmented"
        else "make the rule more precise as sub-rules: cases, definitions and bounds, no reasons"
    )
    return (
        f"Write exactly {inputs['count']} sentences that {what}. They stand below it in the spec "
        f"and speak of {inputs['model_name']} in the third person.\n\n<rule>\n{inputs['number']}. "
        f"{inputs['text']}\n</rule>"
    )


def oppose(inputs: Mapping[str, Any]) -> str:
    return (
        "Write the opposite of the spec: a coherent character of the same name that holds the "
        "contrary of each of its rules, values and likings, with reasons of its own where the spec "
        "gives reasons. Keep the headings, the numbering and the length. Write it inside <content> "
        "tags."
    )


def template_hash() -> str:
    """Changes with every change of the prompts in this file."""
    with open(__file__, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _place(inputs: Mapping[str, Any]) -> str:
    """Where in the outline a request stands."""
    lines = [f"Domain: {inputs['domain']}", f"Subdomain: {inputs['subdomain']}"]
    if inputs.get("context"):
        lines.append(f"Context: {inputs['context']}")
    lines.append(f"<section>\n{inputs['section']}\n</section>")
    if inputs.get("assertions"):
        said = [f"{a['assertion']} ({a['explanation']})" for a in inputs["assertions"]]
        lines.append(_listed("Assertions", said))
    return "\n".join(lines)


def _listed(title: str, lines: Sequence[str]) -> str:
    return f"{title}:\n" + "\n".join(f"- {line}" for line in lines)


def _exist(existing: Sequence[str]) -> str:
    if not existing:
        return ""
    return f"\n\nThese exist already; do not repeat or vary them: {json.dumps(list(existing))}"
