"""The report of an analysis: reasons.html, and beside it reasons.json and reasons.csv."""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from msm_jax import page
from msm_jax.corpus.manifest import ledger
from msm_jax.corpus.writers import Writer
from msm_jax.evals.judges.base import FAILURES
from msm_jax.evals.reasons import tables
from msm_jax.evals.reasons.steps import Pattern, Place
from msm_jax.evals.report.arms import Arms, compare, over_seeds
from msm_jax.evals.report.page import COLOURS
from msm_jax.files import write_json, write_text

_QUOTES = 3  # of each pattern and checkpoint that are shown


def write_report(
    workdir: pathlib.Path, arms: Arms, answers: Mapping[Place, tuple[str, str]],
    patterns: Sequence[Pattern], classes: Mapping[str, tables.Readings],
    readers: Mapping[str, Writer], config: Any,
) -> None:  # fmt: skip
    """Write the three files.

    Args:
      classes: of each reader, which patterns every answer has; rates are of the first reader.
    """
    first, *others = classes.values()
    rows = tables.rows_of(patterns, first, config.overlap)
    rated = tables.with_rates(arms, first, rows, config.max_error_share)
    labelled = [
        (arm if len(runs) == 1 else f"{arm} ({run.folder.name})", arm, run)
        for arm, runs in rated.items()
        for run in runs
    ]
    base, *rest = rated
    contrasts = [
        (f"{arm} - {base}", row, interval)
        for row in rows
        for arm in rest
        for interval in compare(rated[arm], rated[base], row.key)
    ]
    agreed = [tables.agreements(rows, first, other) for other in others]
    counts = {role: _counts(readings) for role, readings in classes.items()}
    spent = ledger(readers)
    write_json(
        workdir / "reasons.json",
        {
            "config": config.to_dict(),
            "patterns": [dataclasses.asdict(pattern) for pattern in patterns],
            "rows": [{**dataclasses.asdict(row), "names": sorted(row.names)} for row in rows],
            "arms": [
                {"arm": arm, "folder": str(run.folder), "measures": run.summary["measures"]}
                for _, arm, run in labelled
            ],
            "contrasts": [
                {"name": name, "row": row.key, **interval.as_dict()}
                for name, row, interval in contrasts
            ],
            "agreement": [{"row": row.key, **found} for some in agreed for row, found in some],
            "counts": counts,
            "readers": spent,
        },
    )
    write_text(workdir / "reasons.csv", _csv(labelled, rows))
    page.write(
        workdir / "reasons.html",
        "reasons.html",
        title="Reasons of agents: " + ", ".join(arms),
        labels=[label for label, _, _ in labelled],
        runs=labelled,
        rated=rated,
        rows=rows,
        colours=COLOURS,
        over_seeds=over_seeds,
        contrasts=contrasts,
        agreed=agreed,
        counts=counts,
        quotes={row.key: _quotes(first, row) for row in rows if row.key.startswith("p")},
        ledger=spent,
        answers=len(answers),
        config=config,
    )


def _counts(readings: tables.Readings) -> dict[str, int]:
    """Answers by what became of their reading, and quotations that no answer has."""
    states = [reading.state for reading in readings.values()]
    found = {state: states.count(state) for state in ("ok", *FAILURES)}
    return {**found, "unsupported": sum(reading.unsupported for reading in readings.values())}


def _quotes(readings: tables.Readings, row: tables.Row) -> list[tuple[str, str]]:
    """(checkpoint, quotation) of the first answers of every checkpoint that have the pattern."""
    found: dict[str, list[str]] = {}
    for (arm, *_), reading in readings.items():
        some = [item["quote"] for item in reading.found if item["pattern"] in row.names]
        if some and len(found.setdefault(arm, [])) < _QUOTES:
            found[arm].append(some[0])
    return [(arm, quote) for arm, quotes in found.items() for quote in quotes]


def _csv(labelled: Sequence[tuple], rows: Sequence[tables.Row]) -> str:
    names = ("rate", "ci_low", "ci_high", "n", "missing", "method")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("checkpoint", "pattern", "kind", *names))
    for label, _, run in labelled:
        for row in rows:
            numbers = run.summary["measures"][row.key]
            writer.writerow((label, row.title, row.kind, *(numbers[name] for name in names)))
    return out.getvalue()
