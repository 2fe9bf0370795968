"""Readings as numbers: how often every checkpoint reasons by every pattern."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from msm_jax.evals.agents.summary import agreement, measure
from msm_jax.evals.reasons.steps import KINDS, Pattern, Place, Reading
from msm_jax.evals.report.arms import Arms, Run

Readings = Mapping[Place, Reading]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the tables: answers that have one of `names`.

    Attributes:
      key: of its measure in a `Run`, such as "p3".
      title: for people.
      kind: of `KINDS`; "" for a line over kinds.
      description: of its patterns.
      names: of the patterns.
    """

    key: str
    title: str
    kind: str
    description: str
    names: frozenset[str]


def rows_of(patterns: Sequence[Pattern], readings: Readings, overlap: float) -> list[Row]:
    """A line per kind (answers with any pattern of it), then a line per pattern.

    Patterns of one kind are one line where the answers with both are a larger share than `overlap`
    of the answers with either (Jaccard), over all checkpoints together; the most alike first.
    """
    has = {
        pattern.name: {place for place, r in readings.items() if pattern.name in _names(r)}
        for pattern in patterns
    }
    groups = [([pattern], has[pattern.name]) for pattern in patterns]
    while True:
        alike = [
            (_jaccard(a[1], b[1]), at, to)
            for (at, a), (to, b) in itertools.combinations(enumerate(groups), 2)
            if a[0][0].kind == b[0][0].kind
        ]
        share, at, to = max(alike, default=(0.0, 0, 0), key=lambda found: found[0])
        if not share > overlap:
            break
        groups[at] = (groups[at][0] + groups[to][0], groups[at][1] | groups[to][1])
        del groups[to]
    kinds = {
        kind: frozenset(p.name for p in patterns if p.kind == kind)
        for kind in KINDS
        if any(p.kind == kind for p in patterns)
    }
    found = [
        Row(f"k{at}", f"any: {kind}", kind, KINDS[kind], names)
        for at, (kind, names) in enumerate(kinds.items())
    ]
    for at, (some, _) in enumerate(groups):
        title, text = " / ".join(p.name for p in some), " / ".join(p.description for p in some)
        names = frozenset(p.name for p in some)
        found.append(Row(f"p{at}", title, some[0].kind, text, names))
    return found


def with_rates(
    arms: Arms, readings: Readings, rows: Sequence[Row], max_error_share: float
) -> dict[str, list[Run]]:
    """The runs, whose measures are those of `rows` (see `agents.summary.measure`).

    An answer that could not be read is missing, not without the pattern.
    """
    found: dict[str, list[Run]] = {}
    for arm, runs in arms.items():
        found[arm] = []
        for number, run in enumerate(runs):
            verdicts = {
                (place[2], place[3]): _verdict(place, reading, rows)
                for place, reading in readings.items()
                if place[:2] == (arm, number)
            }
            by_condition: dict[str, list[dict]] = {}
            for row in verdicts.values():
                by_condition.setdefault(row["id"], []).append(row)
            measures = {row.key: measure(by_condition, row.key, max_error_share) for row in rows}
            summary = {"by_condition": by_condition, "measures": measures}
            found[arm].append(dataclasses.replace(run, summary=summary, verdicts=verdicts))
    return found


def agreements(rows: Sequence[Row], first: Readings, second: Readings) -> list[tuple[Row, dict]]:
    """How far two readers agree on every line, on the answers that both could read."""
    both = [place for place in first if place in second]
    return [
        (row, agreement([(_value(first[p], row), _value(second[p], row)) for p in both]))
        for row in rows
    ]


def _verdict(place: Place, reading: Reading, rows: Sequence[Row]) -> dict:
    values = {row.key: _value(reading, row) for row in rows}
    return {"id": place[2], "sample": place[3], "state": reading.state, **values}


def _value(reading: Reading, row: Row) -> bool | None:
    return bool(_names(reading) & row.names) if reading.state == "ok" else None


def _names(reading: Reading) -> frozenset[str]:
    return frozenset(item["pattern"] for item in reading.found)


def _jaccard(a: set[Place], b: set[Place]) -> float:
    return len(a & b) / len(a | b) if a or b else 0.0
