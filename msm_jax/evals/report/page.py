"""report.html of agent scenarios: one file with rates, comparisons and transcripts."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence

from msm_jax import page
from msm_jax.evals.agents.summary import CONDUCT, MEASURES, agreement
from msm_jax.evals.judges.base import FAILURES
from msm_jax.evals.report.arms import Run, compare, over_seeds, prompts_of, read_arms
from msm_jax.evals.report.transcripts import choose, is_disagreement, marked
from msm_jax.files import dumps

COLOURS = ("#2a6f97", "#c8553d", "#588157", "#7b2d8b", "#b08900", "#5f6670")
_WORDS = {
    "verdict": "decided to do harm (the judge's verdict, the paper's metric)",
    "harmful": "harmful (verdict and the published gate)",
    "executed": "executed (fixed rules on actions outside of thought and scratchpad)",
}
_CONDUCT_WORDS = {
    "delivered": "task delivered (a message that can be sent and is not the act)",
    "tool_call": "tool call (any tool block outside of thought and scratchpad)",
    "refused": "refused (declines in words, without a tool call)",
    "truncated": "truncated (ended at max_tokens)",
    "undecided": "undecided (the rules could not say whether there was harm)",
}
_COMMON = ("samples", "temperature", "max_tokens", "source", "scratchpad", "assistant", "prompts")
_COUNTS = (
    *("samples", "ok", "undecided", *FAILURES, "replies_cut_off", "empty", "truncated"),
    *("truncated_no", "valid", "malformed", "no_action", "tool_calls", "delivered", "refused"),
    "speaks_to_judge",
)
Labelled = tuple[str, str, Run]  # label, arm, one of its runs


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
    runs = [
        (arm if len(some) == 1 else f"{arm} ({run.folder.name})", arm, run)
        for arm, some in arms.items()
        for run in some
    ]
    base, *others = arms
    every = {**_WORDS, **_CONDUCT_WORDS}
    cells_of = lambda measure: [run.summary["measures"][measure] for _, _, run in runs]
    page.write(
        path,
        "evaluation.html",
        title="Agent scenarios: " + ", ".join(arms),
        subtitle=_subtitle(runs),
        arms=arms,
        runs=runs,
        labels=[label for label, _, _ in runs],
        colours=COLOURS,
        measures={measure: _WORDS[measure] for measure in MEASURES},
        conduct=[(name.replace("_", " "), cells_of(name)) for name in CONDUCT],
        conduct_words=[_CONDUCT_WORDS[name] for name in CONDUCT],
        every=every,
        cells_of=cells_of,
        over_seeds=over_seeds,
        unlike=_unlike(runs),
        contrasts=[
            (f"{arm} - {base}", measure, interval)
            for arm in others
            for measure in every
            for interval in compare(arms[arm], arms[base], measure)
        ],
        by_condition={
            measure: [
                (name, [numbers["conditions"][name] for numbers in cells_of(measure)])
                for name in arms[base][0].summary["by_condition"]
            ]
            for measure in every
        },
        counts={
            "head": [name.replace("_", " ") for name in _COUNTS],
            "rows": [[label, *map(run.summary["counts"].get, _COUNTS)] for label, _, run in runs],
        },
        limit=disagreements_shown,
        disagreements=[
            (arm, run, row)
            for _, arm, run in runs
            for row in run.verdicts.values()
            if is_disagreement(row)
        ],
        judges=_judges(runs, disagreements_shown),
        transcripts=_transcripts(runs, per_condition),
        prompts=prompts_of(arms[base][0]),
        apart=is_disagreement,
        marked=marked,
        dumps=dumps,
    )
    return path


def _subtitle(runs: Sequence[Labelled]) -> str:
    asked = [run.asked for _, _, run in runs]
    shown = lambda name, style="{}": " or ".join(
        dict.fromkeys(style.format(one[name]) for one in asked)
    )
    scratchpad = shown("scratchpad").replace("True", "on").replace("False", "off")
    judges = sorted({run.summary["judge"]["judge"] for _, _, run in runs})
    return (
        f"{len(runs[0][2].summary['by_condition'])} conditions of {shown('samples')} samples, "
        f"temperature {shown('temperature', '{:g}')}, at most {shown('max_tokens')} tokens; texts: "
        f"{shown('source')}; scratchpad {scratchpad}; judge: {', '.join(judges)}"
    )


def _unlike(runs: Sequence[Labelled]) -> list[str]:
    """Settings in which the runs differ, with the arms of each value."""
    found = []
    for name in _COMMON:
        values: dict[str, dict[str, None]] = {}
        for _, arm, run in runs:
            values.setdefault(str(run.asked[name]), {})[arm] = None
        if len(values) > 1:
            each = (f"{value[:16]}: {', '.join(some)}" for value, some in values.items())
            found.append(f"{name} ({'; '.join(each)})")
    return found


def _judges(runs: Sequence[Labelled], limit: int) -> list[dict]:
    """Pairs of runs with the same samples differ in their judges: how far these agree."""
    found = []
    for (name, _, run), (other_name, _, other) in itertools.combinations(runs, 2):
        if run.samples != other.samples:
            continue
        verdicts = {
            key: (row["verdict"], other.verdicts[key]["verdict"])
            for key, row in run.verdicts.items()
        }
        differ = [k for k, pair in verdicts.items() if None not in pair and len({*pair}) > 1]
        shown = [
            (label, each, each.verdicts[key])
            for key in differ[:limit]
            for label, each in ((name, run), (other_name, other))
        ]
        agreed = agreement(list(verdicts.values()))
        found.append({"name": f"{name} / {other_name}", "agreement": agreed, "shown": shown})
    return found


def _transcripts(runs: Sequence[Labelled], per_condition: int) -> list[tuple]:
    """(arm, run, condition, verdicts to show, how many there are)."""
    found = []
    for _, arm, run in runs:
        for condition in run.summary["by_condition"]:
            rows = [row for (name, _), row in run.verdicts.items() if name == condition]
            found.append((arm, run, condition, choose(rows, per_condition), len(rows)))
    return found
