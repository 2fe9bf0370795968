"""report.html: one file, nothing loaded from elsewhere, every text in it escaped."""

import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msm_jax.evals import store
from msm_jax.evals.agents.summary import MEASURES, agreement
from msm_jax.evals.judges.base import FAILURES
from msm_jax.evals.report.arms import Run, compare, over_seeds, prompts_of, read_arms
from msm_jax.evals.report.figure import dots, legend
from msm_jax.evals.report.style import SCRIPT, STYLE
from msm_jax.evals.report.transcripts import browser, disagreements, escaped, judges_apart
from msm_jax.evals.statistics import Interval

_WORDS = {
    "verdict": "decided to do harm (the judge's verdict, the paper's metric)",
    "harmful": "harmful (verdict and the published gate)",
    "executed": "executed (fixed rules on actions outside of thought and scratchpad)",
}


def write_report(
    path: pathlib.Path,
    folders: Mapping[str, Sequence[pathlib.Path]],
    per_condition: int = 8,
    disagreements_shown: int = 40,
) -> pathlib.Path:
    """Write the page and return its path.

    Args:
      path: of the page.
      folders: checkpoints by name, with one evaluation's directory per training seed; the others
        are compared with the first.
      per_condition: transcripts of each condition that can be browsed.
      disagreements_shown: at most.

    Raises:
      UserError: directories that are not judged agent scenarios of the same conditions.
    """
    arms = read_arms(folders)
    first = next(iter(arms.values()))[0]
    title = "Agent scenarios: " + ", ".join(arms)
    body = [
        f"<h1>{escaped(title)}</h1>",
        f'<p class="note">{escaped(_subtitle(first, arms))}</p>',
        *_apart(arms),
        *_headline(arms),
        *_contrasts(arms),
        *_conditions(arms),
        *_counts(arms),
        *_disagreements(arms, disagreements_shown),
        "<h2>Transcripts</h2>",
        '<p class="note">Grey is thought, blue ground the scratchpad; actions are marked yellow, '
        "and red where their form is broken. Hover for what they are.</p>",
        browser(arms, prompts_of(first), per_condition),
        *_origin(arms),
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + f"\n</main><script>{SCRIPT}</script></body></html>\n"
    )
    store.write(path, page)
    return path


_ASKED = ("samples", "temperature", "max_tokens", "source", "scratchpad", "assistant", "prompts")


def _apart(arms: Mapping[str, Sequence[Run]]) -> list[str]:
    """A warning where the runs were not asked alike."""
    found = []
    for name in _ASKED:
        values: dict[str, list[str]] = {}
        for arm, runs in arms.items():
            for run in runs:
                values.setdefault(str(run.asked[name]), []).append(arm)
        if len(values) > 1:
            of_each = "; ".join(
                f"{value[:16]}: {', '.join(dict.fromkeys(some))}" for value, some in values.items()
            )
            found.append(f"{name} ({of_each})")
    if not found:
        return []
    return [
        f"<p><b>{escaped('The runs were not asked alike: ' + ', '.join(found))}.</b> A difference "
        "between them is not one of the checkpoints alone.</p>"
    ]


def _subtitle(first: Run, arms: Mapping[str, Sequence[Run]]) -> str:
    runs = [run for some in arms.values() for run in some]
    shown = lambda name, style="{}": " or ".join(
        dict.fromkeys(style.format(run.asked[name]) for run in runs)
    )
    scratchpad = shown("scratchpad").replace("True", "on").replace("False", "off")
    judges = sorted({run.summary["judge"]["judge"] for run in runs})
    return (
        f"{len(first.summary['by_condition'])} conditions of {shown('samples')} samples, "
        f"temperature {shown('temperature', '{:g}')}, at most {shown('max_tokens')} tokens; texts: "
        f"{shown('source')}; scratchpad {scratchpad}; "
        f"judge: {', '.join(judges)}"
    )


def _headline(arms: Mapping[str, Sequence[Run]]) -> list[str]:
    parts = []
    for measure in MEASURES:
        rows, points = [], []
        for arm, runs in arms.items():
            for run in runs:
                numbers = run.summary["measures"][measure]
                label = _label(arm, runs, run)
                points.append((label, numbers))
                rows.append(
                    [
                        escaped(label),
                        _rate(numbers),
                        _rate(numbers["conditions_a_sample"]),
                        _bounds(numbers),
                        f"{numbers['n']:,}",
                        escaped(numbers.get("withheld", "")),
                    ]
                )
            for interval in over_seeds(runs, measure):
                rows.append([escaped(arm), _interval(interval), "", "", f"{interval.n} seeds",
                             escaped(interval.method)])  # fmt: skip
        names = [label for label, _ in points]
        cells = [numbers for _, numbers in points]
        parts += [
            f"<h3>{escaped(_WORDS[measure])}</h3>",
            *([dots([("mean over conditions", cells)], names, measure), legend(names)]),
            _table(
                ["", "mean, these conditions", "mean, conditions a sample", "whatever is missing",
                 "verdicts", ""], rows,
            ),
        ]  # fmt: skip
    note = (
        "Intervals are of 95 %. The first is about exactly these conditions, the second about all "
        "that they might have been drawn from; the third holds whatever the missing verdicts are. "
        "Where no honest interval exists there is none, and the reason instead."
    )
    return ["<h2>Rates</h2>", f'<p class="note">{note}</p>', *parts]


def _contrasts(arms: Mapping[str, Sequence[Run]]) -> list[str]:
    if len(arms) < 2:
        return []
    base, *others = arms
    rows = []
    for arm in others:
        for measure in MEASURES:
            found = compare(arms[arm], arms[base], measure)
            rows += [
                [escaped(f"{arm} - {base}"), measure, _interval(i, signed=True), escaped(i.method)]
                for i in found
            ]
    return [
        "<h2>Checkpoint against checkpoint</h2>",
        _table(["", "measure", "difference", "how"], rows),
    ]


def _conditions(arms: Mapping[str, Sequence[Run]]) -> list[str]:
    """Every condition's rate, the seeds of an arm side by side."""
    labels = [(_label(arm, runs, run), run) for arm, runs in arms.items() for run in runs]
    parts = ["<h2>Rates by condition</h2>", f"<p>{legend([label for label, _ in labels])}</p>"]
    for measure in MEASURES:
        rows = [
            (name, [run.summary["measures"][measure]["conditions"][name] for _, run in labels])
            for name in labels[0][1].summary["by_condition"]
        ]
        table = _table(
            ["condition", *(label for label, _ in labels)],
            [[escaped(name), *map(_condition_cell, cells)] for name, cells in rows],
        )
        drawn = dots(rows, [label for label, _ in labels], f"{measure} by condition")
        opened = " open" if measure == "verdict" else ""
        parts.append(
            f"<details{opened}><summary>{escaped(_WORDS[measure])}</summary>{drawn}{table}</details>"
        )
    return parts


def _condition_cell(numbers: dict) -> str:
    missing = f", {numbers['missing']} missing" if numbers["missing"] else ""
    return f"{_rate(numbers)} <small>{numbers['k']} of {numbers['n']}{missing}</small>"


def _counts(arms: Mapping[str, Sequence[Run]]) -> list[str]:
    judged = ["samples", "ok", "undecided", *FAILURES, "replies_cut_off", "empty"]
    keys = [*judged, "truncated", "truncated_no", "valid", "malformed", "no_action", "tool_calls"]
    keys.append("speaks_to_judge")
    rows = [
        [escaped(_label(arm, runs, run)), *(f"{run.summary['counts'][k]:,}" for k in keys)]
        for arm, runs in arms.items()
        for run in runs
    ]
    return ["<h2>Answers by kind</h2>", _table(["", *(k.replace("_", " ") for k in keys)], rows)]


def _disagreements(arms: Mapping[str, Sequence[Run]], limit: int) -> list[str]:
    count, items = disagreements(arms, limit)
    rows = []
    for arm, runs in arms.items():
        for run in runs:
            found = run.summary["agreement"]
            kappa = "-" if found["kappa"] is None else f"{found['kappa']:.2f}"
            rows.append(
                [escaped(_label(arm, runs, run)), str(found["both_decided"]),
                 str(found["yes_executed"]), str(found["yes_not_executed"]),
                 str(found["no_executed"]), str(found["no_not_executed"]), kappa]
            )  # fmt: skip
    head = ["", "both decided", "yes, executed", "yes, not executed", "no, executed",
            "no, not executed", "kappa"]  # fmt: skip
    shown = f"the first {limit} of {count}" if count > limit else str(count)
    return [
        "<h2>Judge and rules apart</h2>",
        _table(head, rows),
        f"<details><summary>{shown} answers on which they disagree</summary>{items}</details>",
        *_judges(arms, limit),
    ]


def _judges(arms: Mapping[str, Sequence[Run]], limit: int) -> list[str]:
    """Arms that hold the same answers differ in their judges: how far these agree."""
    runs = [(_label(arm, some, run), run) for arm, some in arms.items() for run in some]
    rows, items = [], []
    for (name, run), (other_name, other) in itertools.combinations(runs, 2):
        if run.samples != other.samples:
            continue
        keys = list(run.verdicts)
        found = agreement(
            [(run.verdicts[key]["verdict"], other.verdicts[key]["verdict"]) for key in keys]
        )
        kappa = "-" if found["kappa"] is None else f"{found['kappa']:.2f}"
        numbers = [str(found[k]) for k in ("both_decided", "yes_yes", "yes_no", "no_yes", "no_no")]
        rows.append([escaped(f"{name} / {other_name}"), *numbers, kappa])
        items.append(judges_apart((name, run), (other_name, other), limit))
    if not rows:
        return []
    head = ["", "both decided", "yes, yes", "yes, no", "no, yes", "no, no", "kappa"]
    return [
        "<h2>Judges apart on the same answers</h2>",
        _table(head, rows),
        f"<details><summary>answers on which they disagree</summary>{''.join(items)}</details>",
    ]


def _origin(arms: Mapping[str, Sequence[Run]]) -> list[str]:
    parts = ["<h2>How it was made</h2>"]
    for arm, runs in arms.items():
        for run in runs:
            record = {"evaluation": run.asked, "judge": run.summary["judge"]}
            parts.append(
                f"<details><summary>{escaped(arm)}: {escaped(str(run.folder))}</summary>"
                f"<pre>{escaped(store.as_json(record))}</pre></details>"
            )
    return parts


def _label(arm: str, runs: Sequence[Run], run: Run) -> str:
    return arm if len(runs) == 1 else f"{arm} ({run.folder.name})"


def _rate(numbers: dict[str, Any]) -> str:
    if numbers["rate"] is None:
        return (
            "withheld" if "withheld" in numbers else f"<small>{escaped(numbers['method'])}</small>"
        )
    if numbers["ci_low"] is None:
        return f"{numbers['rate']:.1%} <small>{escaped(numbers['method'])}</small>"
    return f"{numbers['rate']:.1%} [{numbers['ci_low']:.1%}, {numbers['ci_high']:.1%}]"


def _bounds(numbers: dict[str, Any]) -> str:
    bounds = numbers["bounds"]
    if not numbers["missing"] or bounds["ci_low"] is None:
        return ""
    low, high = f"{bounds['low']:.1%}", f"{bounds['high']:.1%}"
    return f"{low} to {high} [{bounds['ci_low']:.1%}, {bounds['ci_high']:.1%}]"


def _interval(interval: Interval, signed: bool = False) -> str:
    form = (lambda v: f"{100 * v:+.1f}") if signed else (lambda v: f"{v:.1%}")
    if interval.estimate is None:
        return "-"
    if interval.ci_low is None or interval.ci_high is None:
        return form(interval.estimate)
    unit = " points" if signed else ""
    return f"{form(interval.estimate)}{unit} [{form(interval.ci_low)}, {form(interval.ci_high)}]"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML."""
    header = "".join(f"<th>{escaped(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{header}</tr>{body}</table></div>'
