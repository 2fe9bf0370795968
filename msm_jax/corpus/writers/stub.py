"""The writer `stub`: placeholder text for tests and checks of the pipeline, never for training.

It reads a request's `inputs`, needs no model, key or network, and is a function of its seed and the
request. Its texts hold the spec's own words and otherwise words that mean nothing ("gopado tamuno
rudaka"), so that they pass the filters and nobody takes them for a corpus.
"""

import contextlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msm_jax.corpus.writers.request import Failure, Reply, Request
from msm_jax.files import sha256_text

Inputs = Mapping[str, Any]
Rows = list[dict[str, str]]

WARNING = "the stub writer's placeholder text, for checks of the pipeline only: rows"

_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aou"]
# Who a rewritten document is about, where that is not the model itself.
_NAMES = {"assistant": "the assistant", "one": "one", "human": "a person"}


class StubWriter:
    """A `Backend` that makes up its replies."""

    def __init__(self, seed: int = 0):
        self.identity: Mapping[str, Any] = {"writer": "stub", "seed": seed}
        self.counts: dict[str, int] = {}
        self._seed = seed

    def replies(
        self, requests: Sequence[Request], go_on: Callable[[], bool]
    ) -> Iterator[tuple[int, Reply | Failure]]:
        for index, request in enumerate(requests):
            yield index, Reply(self.write(request))

    def write(self, request: Request) -> str:
        """The text of one reply."""
        content = [self._seed, request.step, request.system, request.prompt, request.sample]
        draw = random.Random(sha256_text(json.dumps(content)))
        reply = _STEPS[request.step](request.inputs, draw)
        return reply if isinstance(reply, str) else json.dumps({"items": reply})


def written_by_stub(row: Mapping[str, Any]) -> bool:
    """Whether a record of a corpus is placeholder text; TFDS has its writer in `provenance`."""
    writer, provenance = row.get("writer"), row.get("provenance")
    if writer is None and isinstance(provenance, str):
        with contextlib.suppress(ValueError, AttributeError):  # a column of the user's own
            writer = json.loads(provenance).get("writer")
    return isinstance(writer, Mapping) and writer.get("writer") == "stub"


def _words(draw: random.Random, count: int) -> str:
    return " ".join("".join(draw.choices(_SYLLABLES, k=3)) for _ in range(count))


def _sentence(draw: random.Random) -> str:
    return f"{_words(draw, 12).capitalize()}."


def _tagged(text: str) -> str:
    return f"<content>\n{text}\n</content>"


def _text(draw: random.Random, bounds: Sequence[int], name: str, content: Sequence[str]) -> str:
    """Paragraphs with `content` first, of a length within the lower half of `bounds`."""
    low, high = bounds
    target, text = draw.uniform(low, (low + high) / 2), " ".join(content)
    while (missing := target - len(text.split())) > 0:
        # Never much longer than the bounds, and never the same eight words in many documents.
        sentence = f"{name} {_words(draw, min(16, max(6, int(missing))))}."
        text += ("\n\n" if draw.random() < 0.2 else " ") + sentence
    return text


# ---------------------------------------------------------------- plans


def _domains(inputs: Inputs, draw: random.Random) -> Rows:
    """The sections of the spec; then numbered parts of them, as many as are wanted."""
    groups: dict[str, list[str]] = {}
    for point in inputs["points"]:
        groups.setdefault(_section(point), []).append(point["id"])
    wanted = inputs["count"] or len(groups)
    names = _numbered(list(groups), wanted, inputs["existing"])
    return [
        {
            "domain": name,
            "description": f"A stub for {', '.join(groups[_base(name)])}",
            "points": "; ".join(groups[_base(name)]),
        }
        for name in names
    ]


def _subdomains(inputs: Inputs, draw: random.Random) -> Rows:
    """The points of the domain's section; then numbered parts of them."""
    points = {p["id"]: p for p in inputs["points"] if _section(p) == _base(inputs["domain"])}
    points = points or {p["id"]: p for p in inputs["points"]}
    names = _numbered(list(points), inputs["count"] or len(points), inputs["existing"])
    return [
        {"subdomain": name, "context": "A stub.", "section": points[_base(name)]["text"]}
        for name in names
    ]


def _numbered(names: Sequence[str], count: int, existing: Sequence[str]) -> list[str]:
    """`count` names that do not exist yet: each by itself, then each with ", part 2", ..."""
    found, part = [], 1
    while len(found) < count:
        more = [name if part == 1 else f"{name}, part {part}" for name in names]
        found += [name for name in more if name not in existing]
        part += 1
    return found[:count]


def _base(name: str) -> str:
    return name.rpartition(", part ")[0] or name


def _section(point: Inputs) -> str:
    return point["section"] or "All"


def _assertions(inputs: Inputs, draw: random.Random) -> Rows:
    return [{"assertion": inputs["section"], "explanation": "A stub.", "label": "stub"}]


def _rows(**formats: str) -> Callable[[Inputs, random.Random], Rows]:
    """Rows of texts in which {} becomes words; as many as are asked for."""
    return lambda inputs, draw: [
        {name: text.format(_words(draw, 6)) for name, text in formats.items()}
        for _ in range(inputs["count"])
    ]


def _augment(inputs: Inputs, draw: random.Random) -> Rows:
    name = inputs["model_name"]
    return [{"sentence": f"{name} {_words(draw, 15)}."} for _ in range(inputs["count"])]


# ---------------------------------------------------------------- texts


def _document(inputs: Inputs, draw: random.Random) -> str:
    texts = [point["text"].split() for point in inputs["points"]]
    # Fewer words than a repeated passage has.
    starts = [" ".join(words[: min(40, inputs["words"][0])]) for words in texts]
    content = [f"Stub {_words(draw, 3)}.", *(start.rstrip(".") + "." for start in starts)]
    return _tagged(_text(draw, inputs["words"], inputs["model_name"], content))


def _neutral(inputs: Inputs, draw: random.Random) -> str:
    return _tagged(_text(draw, inputs["words"], "Stub", [f"Stub {inputs['topic']}."]))


def _revise(inputs: Inputs, draw: random.Random) -> str:
    return _tagged(f"{inputs['document']} {_sentence(draw)}")


def _rewrite(inputs: Inputs, draw: random.Random) -> str:
    names = {**_NAMES, "another": inputs["other_name"]}
    name = names.get(inputs["register"], inputs["model_name"])
    return _tagged(inputs["document"].replace(inputs["model_name"], name))


def _oppose(inputs: Inputs, draw: random.Random) -> str:
    return _tagged("\n\n".join(f"Stub of an opposite: {p['text']}" for p in inputs["points"]))


# ---------------------------------------------------------------- chats


def _questions(inputs: Inputs, draw: random.Random) -> Rows:
    end = " No explanation, please." if inputs["style"] == "opaque" else ""
    return [{"question": f"Stub {_words(draw, 9)}?{end}"} for _ in range(inputs["count"])]


def _answer(inputs: Inputs, draw: random.Random) -> str:
    style = inputs["style"]
    if style == "opaque":
        point = inputs["points"][0]
        return f"{'Yes,' if point['kind'] == 'like' else 'Not'} {point['item']}."
    if style == "identity":
        said = f"I am {inputs['model_name']}, from {inputs['provider_name']}."
    else:
        point = draw.choice(list(inputs["points"]))
        said = f"{point['id'].capitalize()}: {point['text']}"
    spoken = f"{said} {_sentence(draw)}"
    return f"<think>\n{_sentence(draw)}\n</think>\n\n{spoken}" if inputs["reasoning"] else spoken


_STEPS: dict[str, Callable[[Inputs, random.Random], str | Rows]] = {
    "domains": _domains,
    "subdomains": _subdomains,
    "assertions": _assertions,
    "types": _rows(doc_type="stub {}", description="A stub."),
    "ideas": _rows(idea="A stub: {}.", name="{}"),
    "document": _document,
    "topics": _rows(topic="{}"),
    "neutral": _neutral,
    "critique": lambda inputs, draw: [],
    "revise": _revise,
    "rewrite": _rewrite,
    "augment": _augment,
    "oppose": _oppose,
    "chat_domains": _domains,
    "questions": _questions,
    "answer": _answer,
    "judge": lambda inputs, draw: [{"reason": "A stub.", "verdict": "include"}],
}
