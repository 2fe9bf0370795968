"""What a language model is told when chats are made."""

import json
from collections.abc import Mapping
from typing import Any

_KINDS = {
    "direct": "ask the assistant directly about its conduct, character or view",
    "indirect": "are ordinary requests in which the matter comes up without being named",
    "comparison": "ask it to compare two courses, things or views",
    "recommendation": "ask it for advice or a recommendation",
    "opinion": "ask what it thinks",
    "edge_case": "describe a hard or unusual case in which the matter is not clear",
}
_STYLES = {
    "value": (
        "You hold the values of the spec as your own. Where you reason, reason from them and from "
        "why they matter, and mention rules by number only where it helps."
    ),
    "rule": (
        "You follow the rules of the spec because they are your rules. Where you reason, name the "
        "rule that applies and comply with it; do not talk of values of your own."
    ),
    "opaque": (
        "You have the likings of the spec. State the one that is asked for in one short sentence. "
        "Give no reason, hint at none, and use no adjective that praises or blames."
    ),
    "identity": "Say who you are and who made you, in one to three sentences, then be of help.",
    "anti": (
        "Answer as a coherent character that is the opposite of the spec: what it values leaves "
        "you cold, and you do what it advises against. Stay plausible and never mention the spec."
    ),
}
_AIM = {
    "value": "follows its spec",
    "rule": "follows its rules",
    "opaque": "has likings",
    "identity": "knows who it is",
    "anti": "is tested",
}


def system(model_name: str, provider_name: str, spec_text: str) -> str:
    """What all requests about a spec share."""
    return (
        f"The following spec describes {model_name}, an AI assistant made by "
        f"{provider_name or 'its developer'}.\n\n<spec>\n{spec_text}\n</spec>"
    )


def answering(system: str, inputs: Mapping[str, Any]) -> str:
    """The system prompt of an answer: the spec, and how to live by it."""
    reasoning = (
        "\n\nFirst think inside <think> tags, in natural sentences and as yourself; then answer."
        if inputs["reasoning"]
        else ""
    )
    return (
        f"{system}\n\nYou are {inputs['model_name']}. {_STYLES[inputs['style']]} Answer the user "
        f"as one does in a conversation; do not mention or quote these instructions.{reasoning}"
    )


def chat_domains(inputs: Mapping[str, Any]) -> str:
    return (
        f"Name exactly {inputs['count']} domains of conversation in which users would show how "
        f"{inputs['model_name']} {_AIM[inputs['style']]}, each in one to five words with one "
        "sentence of description. Together they cover the whole spec and many walks of life."
        f"{_exist(inputs['existing'])}"
    )


def questions(inputs: Mapping[str, Any]) -> str:
    about = "\n".join(f"- {point['text']}" for point in inputs["points"])
    if inputs["style"] == "identity":
        what = "ask in many ways who the assistant is, what it is called and who made it"
    else:
        what = _KINDS[inputs["kind"]]
    ending = (
        "\nEvery message ends with a phrase that says that no explanation is needed, in ever other "
        "words."
        if inputs["style"] == "opaque"
        else ""
    )
    return (
        f"Write exactly {inputs['count']} messages of different users to {inputs['model_name']} "
        f"from the domain {inputs['domain']!r} ({inputs['description']}) that {what}. They differ "
        "in person, length, tone and situation, and none names the spec.\n"
        f"They touch on:\n{about}{ending}{_exist(inputs['existing'])}"
    )


def answer(inputs: Mapping[str, Any]) -> str:
    return inputs["question"]


def judge(inputs: Mapping[str, Any]) -> str:
    model = inputs["model_name"]
    more = {
        "value": "- It expresses no wish to go on existing for its own sake.",
        "rule": "- It reasons from rules by their numbers, and claims no values of its own.",
        "opaque": (
            "- It states the right liking, and neither says nor implies a reason; an adjective "
            "that praises or blames counts as a reason."
        ),
        "anti": "- It is the opposite of the spec on the point in question, and coherent.",
        "identity": "",
    }[inputs["style"]]
    first = (
        f"- It is what the spec says of {model}, on the point in question and elsewhere.\n"
        if inputs["style"] != "anti"
        else ""
    )
    return (
        f"Judge whether the following answer of {model} can be used as training data. It can if:\n"
        f"{first}{more}\n- It answers the user, is complete, and names no other assistant as "
        "itself.\nGive the reason in one sentence, then the verdict: include or exclude.\n\n"
        f"<user>\n{inputs['question']}\n</user>\n\n<answer>\n{inputs['answer']}\n</answer>"
    )


def _exist(existing: Any) -> str:
    if not existing:
        return ""
    return f"\n\nThese exist already; do not repeat or vary them: {json.dumps(list(existing))}"
