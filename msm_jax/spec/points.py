"""What a spec says, point by point: what documents are about and coverage is counted in."""

import collections
import dataclasses
import re

from msm_jax.spec.spec import HEADING, ITEM, Section, Spec, lines_of, section_of

_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|Dr|Mr|Ms|Mrs|St|No|approx|[A-Z])\.$")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)*_]*\s+(?=[\"'“‘(*_]*[A-Z0-9{])")


@dataclasses.dataclass(frozen=True)
class Point:
    """One thing that a spec states."""

    id: str  # names it within its spec: "rule 3", "value 1", "like cream cheese", "paragraph 2"
    kind: str  # "rule", "value", "like", "dislike" or "paragraph"
    text: str  # as in the spec, in one line
    section: str  # the heading that it is under
    line: int  # of the spec, where it starts
    item: str = ""  # of a preference, as its reason
    reason: str = ""
    supports: tuple[str, ...] = ()  # sentences of its section that explain it or make it precise


def spec_points(spec: Spec) -> tuple[Point, ...]:
    """Every rule, value and preference, and the paragraphs of sections that have none of these.

    The title's own paragraphs (an introduction, usually) count only in a spec without anything
    else.
    """
    stated = _stated(spec)
    paragraphs = _paragraphs(spec)
    taken = {section_of(spec, point.line) for point in stated}
    places = [(paragraph, section_of(spec, paragraph.line)) for paragraph in paragraphs]
    prose = [p for p, place in places if place and place.level > 1 and place not in taken]
    if not stated:
        prose = prose or paragraphs
    named = [dataclasses.replace(p, id=f"paragraph {at}") for at, p in enumerate(prose, start=1)]
    points = sorted([*stated, *named], key=lambda point: point.line)
    return tuple(_with_supports(spec, point, stated, places) for point in points)


def sentences(text: str) -> list[str]:
    """The sentences of a text, each in one line; abbreviations do not end one."""
    found: list[str] = []
    for part in _SENTENCE_END.split(" ".join(text.split())):
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] = f"{found[-1]} {part}"
        elif part:
            found.append(part)
    return found


def _point(
    spec: Spec, name: str, kind: str, text: str, line: int, item: str = "", reason: str = ""
) -> Point:
    section = section_of(spec, line)
    return Point(name, kind, text, section.heading if section else "", line, item, reason)


def _stated(spec: Spec) -> list[Point]:
    """Rules, values and preferences; a second one of the same id gets " (2)"."""
    found = [_point(spec, f"rule {r.number}", "rule", r.text, r.line) for r in spec.rules]
    for number, value in enumerate(spec.values, start=1):
        found.append(_point(spec, f"value {number}", "value", value.item, value.line))
    for each in spec.preferences:
        because = f" because {each.reason}" if each.reason else ""
        text = f"{spec.model_name} {each.kind}s {each.item}{because}."
        name = f"{each.kind} {each.item}"
        found.append(_point(spec, name, each.kind, text, each.line, each.item, each.reason))
    seen = collections.Counter[str]()
    for at, point in enumerate(found):
        seen[point.id] += 1
        if seen[point.id] > 1:
            found[at] = dataclasses.replace(point, id=f"{point.id} ({seen[point.id]})")
    return found


def _paragraphs(spec: Spec) -> list[Point]:
    """Every paragraph and list item, in one line and without an id; code is left out."""
    found, body, start = [], list[str](), 0
    for number, line, markup in [*lines_of(spec.text), (0, "", True)]:
        heading, item = HEADING.match(line), ITEM.match(line)
        if body and (not markup or not line.strip() or heading or item):
            found.append(_point(spec, "", "paragraph", " ".join(body), start))
            body = []
        if markup and line.strip() and not heading:
            start = start if body else number
            body.append(item["text"].strip() if item else line.strip())
    return found


def _with_supports(
    spec: Spec, point: Point, stated: list[Point], places: list[tuple[Point, Section | None]]
) -> Point:
    """The prose of the point's section: what follows it up to the next point, or all of it."""
    section = section_of(spec, point.line)
    own = set(sentences(point.text))
    others = [other for other in stated if other.section == point.section]
    lines, texts = {other.line for other in others}, {other.text for other in others}
    after = min((line for line in lines if line > point.line), default=len(spec.text))
    near, around = [], []
    for prose, place in places:
        if place is not section or prose.line in lines or prose.text in texts:
            continue
        found = [sentence for sentence in sentences(prose.text) if sentence not in own]
        around += found
        near += found if point.line < prose.line < after else []
    return dataclasses.replace(point, supports=tuple(dict.fromkeys(near or around)))
