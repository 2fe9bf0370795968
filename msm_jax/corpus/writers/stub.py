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

from msm_jax.corpus.writers.request import Failure, Items, Reply, Request, Usage
from msm_jax.files import sha256_text
from msm_jax.spec import Point

Inputs = Mapping[str, Any]

WARNING = "the stub writer's placeholder text, for checks of the pipeline only: rows"

_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aou"]
# Who a rewritten document is about, where that is not the model itself.
_NAMES = {"assistant": "the assistant", "one": "one", "human": "a person"}


class StubWriter:
    """A `Backend` that makes up its replies."""

    def __init__(self, seed: int = 0):
        self.identity: Mapping[str, Any] = {"writer": "stub", "seed": seed}
        self.counts: dict[str, int] = {}
        self.lost = Usage()
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
        if request.items:
            return json.dumps({"items": _rows(request, request.items, draw)})
        if request.step == "answer":
            return _answer(request.inputs, draw)
        return f"<content>\n{_document(request.step, request.inputs, draw)}\n</content>"


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


def _text(draw: random.Random, bounds: Sequence[int], name: str, content: Sequence[str]) -> str:
    """Paragraphs with `content` first, of a length within the lower half of `bounds`."""
    low, high = bounds
    target, text = draw.uniform(low, (low + high) / 2), " ".join(content)
    while (missing := target - len(text.split())) > 0:
        # Never much longer than the bounds, and never the same eight words in many documents.
        sentence = f"{name} {_words(draw, min(16, max(6, int(missing))))}."
        text += ("\n\n" if draw.random() < 0.2 else " ") + sentence
    return text


def _rows(request: Request, items: Items, draw: random.Random) -> list[dict[str, str]]:
    """As many rows as are wanted, with the points of the spec in turn; no faults of a document."""
    inputs = request.inputs
    points = inputs.get("points") or [Point("stub", "paragraph", "Stub.", "", 1)]
    described = inputs.get("description", "").split("; ")  # what a domain is about
    points = [point for point in points if point.id in described] or points
    count = 0 if request.step == "critique" else inputs.get("count") or min(4, len(points))
    own = lambda at: points[at::count] or [points[at % len(points)]]
    return [
        {name: _field(name, items, inputs, own(at), draw) for name in items.fields}
        for at in range(count)
    ]


def _field(
    name: str, items: Items, inputs: Inputs, points: Sequence[Point], draw: random.Random
) -> str:
    if name in items.choices:
        return items.choices[name][0]
    if name in ("points", "description"):
        return "; ".join(point.id for point in points)
    if name == "section":
        return " ".join(point.text for point in points)
    if name == "question":
        end = " No explanation, please." if inputs["style"] == "opaque" else ""
        return f"Stub {_words(draw, 9)}?{end}"
    return f"{inputs['model_name']} {_words(draw, 15)}." if name == "sentence" else _words(draw, 6)


def _document(step: str, inputs: Inputs, draw: random.Random) -> str:
    if step == "neutral":
        return _text(draw, inputs["words"], "Stub", [f"Stub {inputs['topic']}."])
    if step == "revise":
        return f"{inputs['document']} {_sentence(draw)}"
    if step == "rewrite":
        names = {**_NAMES, "another": inputs["other_name"]}
        name = names.get(inputs["register"], inputs["model_name"])
        return inputs["document"].replace(inputs["model_name"], name)
    if step == "oppose":
        return "\n\n".join(f"Stub of an opposite: {p.text}" for p in inputs["points"])
    # Fewer words of each point than a repeated passage has.
    most = min(40, inputs["words"][0])
    starts = [" ".join(point.text.split()[:most]) for point in inputs["points"]]
    content = [f"Stub {_words(draw, 3)}.", *(start.rstrip(".") + "." for start in starts)]
    return _text(draw, inputs["words"], inputs["model_name"], content)


def _answer(inputs: Inputs, draw: random.Random) -> str:
    style = inputs["style"]
    if style == "opaque":
        point = inputs["points"][0]
        return f"{'Yes,' if point.kind == 'like' else 'Not'} {point.item}."
    if style == "identity":
        said = f"I am {inputs['model_name']}, from {inputs['provider_name']}."
    else:
        point = draw.choice(list(inputs["points"]))
        said = f"{point.id.capitalize()}: {point.text}"
    spoken = f"{said} {_sentence(draw)}"
    return f"<think>\n{_sentence(draw)}\n</think>\n\n{spoken}" if inputs["reasoning"] else spoken
