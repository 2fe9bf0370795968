"""Readings as numbers: how often every checkpoint reasons by every pattern, as files and a page."""

import csv
import dataclasses
import io
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from msm_jax import page
from msm_jax.corpus.manifest import ledger
from msm_jax.corpus.writers import Writer
from msm_jax.evals.agents.summary import agreement, measure
from msm_jax.evals.judges.base import FAILURES
from msm_jax.evals.reasons.steps import KINDS, Pattern, Rows
from msm_jax.evals.report.arms import Arms, Run, compare, over_seeds
from msm_jax.evals.report.page import COLOURS
from msm_jax.files import write_json, write_text

_QUOTES = 3  # of each pattern and checkpoint that are shown


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the tables: answers that have one of some patterns."""

    key: str  # of its measure in a `Run`, such as "p3"
    title: str
    kind: str  # of `KINDS`
    description: str
    names: frozenset[str]  # of the patterns

    def of(self, reading: dict) -> bool | None:
        """Whether an answer has one of the patterns; None if it could not be read."""
        return bool(_names(reading) & self.names) if reading["state"] == "ok" else None


def write_report(
    workdir: pathlib.Path, arms: Arms, patterns: Sequence[Pattern], classes: Mapping[str, Rows],
    readers: Mapping[str, Writer], config: Any,
) -> None:  # fmt: skip
    """Write reasons.html, reasons.json and reasons.csv.

    Args:
      classes: of each reader, which patterns every answer has; rates are of the first reader.
    """
    first, *others = classes.values()
    lines = lines_of(patterns, first, config.overlap)
    rated = _with_rates(arms, first, lines, config.max_error_share)
    runs = [run for some in rated.values() for run in some]
    base, *rest = rated
    contrasts = [
        (f"{arm} - {base}", line, interval)
        for line in lines
        for arm in rest
        for interval in compare(rated[arm], rated[base], line.key)
    ]
    agreed = [
        [
            (line, agreement([(line.of(a), line.of(b)) for a, b in zip(first, other, strict=True)]))
            for line in lines
        ]
        for other in others
    ]
    counts = {role: _counts(readings) for role, readings in classes.items()}
    spent = ledger(readers)
    write_json(
        workdir / "reasons.json",
        {
            "config": config.to_dict(),
            "patterns": [dataclasses.asdict(pattern) for pattern in patterns],
            "rows": [{**dataclasses.asdict(line), "names": sorted(line.names)} for line in lines],
            "arms": [
                {"arm": run.arm, "folder": str(run.folder), "measures": run.summary["measures"]}
                for run in runs
            ],
            "contrasts": [
                {"name": name, "row": line.key, **interval.as_dict()}
                for name, line, interval in contrasts
            ],
            "agreement": [{"row": line.key, **found} for some in agreed for line, found in some],
            "counts": counts,
            "readers": spent,
        },
    )
    write_text(workdir / "reasons.csv", _csv(runs, lines))
    page.write(
        workdir / "reasons.html",
        "reasons.html",
        title="Reasons of agents: " + ", ".join(arms),
        labels=[run.label for run in runs],
        runs=runs,
        rated=rated,
        rows=lines,
        colours=COLOURS,
        over_seeds=over_seeds,
        contrasts=contrasts,
        agreed=agreed,
        counts=counts,
        quotes={line.key: _quotes(first, line) for line in lines if line.key.startswith("p")},
        ledger=spent,
        answers=len(first),
        config=config,
    )


def lines_of(patterns: Sequence[Pattern], readings: Rows, overlap: float) -> list[Line]:
    """A line per kind (answers with any pattern of it), then a line per pattern.

    Patterns of one kind are one line where the answers with both are a larger share than `overlap`
    of the answers with either (Jaccard), over all checkpoints together; the most alike first.
    """
    groups = [
        ([p], {number for number, reading in enumerate(readings) if p.name in _names(reading)})
        for p in patterns
    ]
    while True:
        alike = [
            (len(a[1] & b[1]) / max(len(a[1] | b[1]), 1), at, to)
            for (at, a), (to, b) in itertools.combinations(enumerate(groups), 2)
            if a[0][0].kind == b[0][0].kind
        ]
        share, at, to = max(alike, default=(0.0, 0, 0), key=lambda found: found[0])
        if not share > overlap:
            break
        groups[at] = (groups[at][0] + groups[to][0], groups[at][1] | groups[to][1])
        del groups[to]
    kinds = [kind for kind in KINDS if any(p.kind == kind for p in patterns)]
    found = [
        Line(f"k{at}", f"any: {k}", k, KINDS[k], frozenset(p.name for p in patterns if p.kind == k))
        for at, k in enumerate(kinds)
    ]
    for at, (some, _) in enumerate(groups):
        title, text = " / ".join(p.name for p in some), " / ".join(p.description for p in some)
        names = frozenset(p.name for p in some)
        found.append(Line(f"p{at}", title, some[0].kind, text, names))
    return found


def _with_rates(
    arms: Arms, readings: Rows, lines: Sequence[Line], max_error_share: float
) -> dict[str, list[Run]]:
    """The runs, whose measures are those of `lines` (see `agents.summary.measure`).

    An answer that could not be read is missing, not without the pattern.
    """
    rated = [{**reading, **{line.key: line.of(reading) for line in lines}} for reading in readings]
    found: dict[str, list[Run]] = {arm: [] for arm in arms}
    for arm, runs in arms.items():
        for number, run in enumerate(runs):
            rows = [row for row in rated if (row["arm"], row["run"]) == (arm, number)]
            measures = {line.key: measure(rows, line.key, max_error_share) for line in lines}
            verdicts = {(row["id"], row["sample"]): row for row in rows}
            other = dataclasses.replace(run, summary={"measures": measures}, verdicts=verdicts)
            found[arm].append(other)
    return found


def _names(reading: dict) -> set[str]:
    return {item["pattern"] for item in reading["found"]}


def _counts(readings: Rows) -> dict[str, int]:
    """Answers by what became of their reading, and quotations that no answer has."""
    states = [reading["state"] for reading in readings]
    found = {state: states.count(state) for state in ("ok", *FAILURES)}
    return {**found, "unsupported": sum(reading["unsupported"] for reading in readings)}


def _quotes(readings: Rows, line: Line) -> list[tuple[str, str]]:
    """(checkpoint, quotation) of the first answers of every checkpoint that have the pattern."""
    found: dict[str, list[str]] = {}
    for reading in readings:
        some = [item["quote"] for item in reading["found"] if item["pattern"] in line.names]
        if some and len(found.setdefault(reading["arm"], [])) < _QUOTES:
            found[reading["arm"]].append(some[0])
    return [(arm, quote) for arm, quotes in found.items() for quote in quotes]


def _csv(runs: Sequence[Run], lines: Sequence[Line]) -> str:
    names = ("rate", "ci_low", "ci_high", "n", "missing", "method")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("checkpoint", "pattern", "kind", *names))
    for run, line in itertools.product(runs, lines):
        numbers = run.summary["measures"][line.key]
        writer.writerow((run.label, line.title, line.kind, *(numbers[name] for name in names)))
    return out.getvalue()
