"""What a spec says, point by point: what documents are about and coverage is counted in."""

import dataclasses
import re

from msm_jax.spec.spec import Section, Spec

_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|Dr|Mr|Ms|Mrs|St|No|approx|[A-Z])\.$")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)*_]*\s+(?=[\"'“‘(*_]*[A-Z0-9{])")
_ITEM = re.compile(r"^\s*(?:\d+(?:\.\d+)*[.)]|[-*+])\s+")
_FENCE = re.compile(r"^\s*(```|~~~)")


@dataclasses.dataclass(frozen=True)
class Point:
    """One thing that a spec states.

    Attributes:
      id: names it within its spec: "rule 3", "value 1", "like cream cheese", "paragraph 2".
      kind: "rule", "value", "like", "dislike" or "paragraph".
      text: as in the spec, in one line.
      item, reason: of a preference; empty otherwise.
      section: heading that it stands under.
      line: where it starts.
      supports: sentences beside it in its section, which explain it or make it precise.
    """

    id: str
    kind: str
    text: str
    section: str
    line: int
    item: str = ""
    reason: str = ""
    supports: tuple[str, ...] = ()


def spec_points(spec: Spec) -> tuple[Point, ...]:
    """Every rule, value and preference, and the paragraphs of sections that have none of these.

    The title's own paragraphs (an introduction, usually) count only in a spec without anything
    else.
    """
    stated = [*_rules(spec), *_values(spec), *_preferences(spec)]
    prose = []
    for section in spec.sections:
        last = section.line + section.text.count("\n") + 2
        taken = any(section.line <= point.line <= last for point in stated)
        if not taken and section.level > 1:
            prose += _paragraphs(spec, section)
    if not stated and not prose:
        prose = [found for section in spec.sections for found in _paragraphs(spec, section)]
    stated += [
        Point(f"paragraph {number}", "paragraph", text, heading, line)
        for number, (text, heading, line) in enumerate(prose, start=1)
    ]
    stated.sort(key=lambda point: point.line)
    return tuple(_with_supports(spec, point, stated) for point in stated)


def sentences(text: str) -> list[str]:
    """The sentences of a text, each in one line; what an abbreviation ends is not an end."""
    found: list[str] = []
    for part in _SENTENCE_END.split(" ".join(text.split())):
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] = f"{found[-1]} {part}"
        elif part:
            found.append(part)
    return found


def section_of(spec: Spec, line: int) -> Section | None:
    """The section that a line of the spec lies in."""
    before = [section for section in spec.sections if section.line <= line]
    return before[-1] if before else None


def _heading(spec: Spec, line: int) -> str:
    section = section_of(spec, line)
    return section.heading if section else ""


def _unique(points: list[Point]) -> list[Point]:
    """Numbering may start anew under another heading; ids may not."""
    seen: dict[str, int] = {}
    found = []
    for point in points:
        seen[point.id] = seen.get(point.id, 0) + 1
        again = f"{point.id} ({seen[point.id]})" if seen[point.id] > 1 else point.id
        found.append(dataclasses.replace(point, id=again))
    return found


def _rules(spec: Spec) -> list[Point]:
    return _unique(
        [
            Point(f"rule {r.number}", "rule", r.text, _heading(spec, r.line), r.line)
            for r in spec.rules
        ]
    )


def _values(spec: Spec) -> list[Point]:
    return [
        Point(f"value {number}", "value", value.item, _heading(spec, value.line), value.line)
        for number, value in enumerate(spec.values, start=1)
    ]


def _preferences(spec: Spec) -> list[Point]:
    points = []
    for wish in spec.preferences:
        because = f" because {wish.reason}" if wish.reason else ""
        text = f"{spec.model_name} {wish.kind}s {wish.item}{because}."
        name, heading = f"{wish.kind} {wish.item}", _heading(spec, wish.line)
        points.append(Point(name, wish.kind, text, heading, wish.line, wish.item, wish.reason))
    return _unique(points)


def _paragraphs(spec: Spec, section: Section) -> list[tuple[str, str, int]]:
    """(text in one line, heading, line) of each paragraph and list item; code is left out."""
    found, body, start, fenced = [], list[str](), 0, False
    lines, first = spec.text.split("\n"), section.line + bool(section.level)
    while first <= len(lines) and not lines[first - 1].strip():
        first += 1  # a section's text is stripped
    for number, line in enumerate([*section.text.split("\n"), ""], start=first):
        if _FENCE.match(line):
            fenced = not fenced
            line = ""
        if body and (not line.strip() or _ITEM.match(line)):
            found.append((" ".join(body), section.heading, start))
            body = []
        if line.strip() and not fenced:
            start = start if body else number
            body.append(_ITEM.sub("", line).strip())
    return found


def _with_supports(spec: Spec, point: Point, stated: list[Point]) -> Point:
    """The prose of the point's section: what follows it up to the next point, or all of it."""
    section = section_of(spec, point.line)
    if section is None:
        return point
    own = set(sentences(point.text))
    others = [p for p in stated if p.section == point.section and p.kind != "paragraph"]
    after = min((p.line for p in others if p.line > point.line), default=None)
    near, around = [], []
    for text, _, line in _paragraphs(spec, section):
        if any(line == other.line or text == other.text for other in others):
            continue
        found = [sentence for sentence in sentences(text) if sentence not in own]
        around += found
        if point.line < line and (after is None or line < after):
            near += found
    return dataclasses.replace(point, supports=tuple(dict.fromkeys(near or around)))
