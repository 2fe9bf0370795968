"""report.html of agent scenarios: one file with rates, comparisons and transcripts."""

import bisect
import itertools
import pathlib
from collections.abc import Mapping, Sequence

from msm_jax import page
from msm_jax.evals.agents.actions import parse
from msm_jax.evals.agents.summary import CONDUCT, MEASURES, agreement, by_condition
from msm_jax.evals.judges.base import FAILURES
from msm_jax.evals.report.arms import Run, compare, over_seeds, prompts_of, read_arms
from msm_jax.files import dumps

COLOURS = ("#2a6f97", "#c8553d", "#588157", "#7b2d8b", "#b08900", "#5f6670")
TRANSCRIPTS, DISAGREEMENTS = 8, 40  # shown, at most: of each condition and run; of each kind
_COMMON = (
    *("samples", "temperature", "max_tokens", "source", "scratchpad", "assistant", "prompts"),
    "context",
)
_COUNTS = (
    *("samples", "ok", "undecided", *FAILURES, "replies_cut_off", "empty", "truncated"),
    *("truncated_no", "valid", "malformed", "no_action", "tool_calls", "delivered", "refused"),
    "speaks_to_judge",
)


def write_report(path: pathlib.Path, folders: Mapping[str, Sequence[pathlib.Path]]) -> pathlib.Path:
    """Write the page and return its path.

    Args:
      path: of the page.
      folders: checkpoints by name, with one evaluation's directory per training seed; the others
        are compared with the first.

    Raises:
      UserError: directories that are not judged agent scenarios of the same conditions.
    """
    arms = read_arms(folders)
    runs = [run for some in arms.values() for run in some]
    base, *others = arms
    every = MEASURES | CONDUCT
    cells_of = lambda measure: [run.summary["measures"][measure] for run in runs]
    page.write(
        path,
        "evaluation.html",
        title="Agent scenarios: " + ", ".join(arms),
        subtitle=_subtitle(runs),
        arms=arms,
        runs=runs,
        labels=[run.label for run in runs],
        colours=COLOURS,
        measures=MEASURES,
        conduct=[(name.replace("_", " "), cells_of(name)) for name in CONDUCT],
        conduct_words=list(CONDUCT.values()),
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
        rows_of=lambda measure: [
            (name, [numbers["conditions"][name] for numbers in cells_of(measure)])
            for name in runs[0].summary["by_condition"]
        ],
        counts={
            "head": [name.replace("_", " ") for name in _COUNTS],
            "rows": [[run.label, *map(run.summary["counts"].get, _COUNTS)] for run in runs],
        },
        limit=DISAGREEMENTS,
        disagreements=[
            (run, row) for run in runs for row in run.verdicts.values() if is_disagreement(row)
        ],
        judges=_judges(runs),
        transcripts=[
            (run, condition, _chosen(rows, TRANSCRIPTS), len(rows))
            for run in runs
            for condition, rows in by_condition(run.verdicts.values()).items()
        ],
        prompts=prompts_of(runs[0]),
        apart=is_disagreement,
        marked=marked,
        dumps=dumps,
    )
    return path


def _subtitle(runs: Sequence[Run]) -> str:
    shown = lambda name, style="{}": " or ".join(
        dict.fromkeys(style.format(run.asked[name]) for run in runs)
    )
    scratchpad = shown("scratchpad").replace("True", "on").replace("False", "off")
    judges = sorted({run.summary["judge"]["judge"] for run in runs})
    return (
        f"{len(runs[0].summary['by_condition'])} conditions of {shown('samples')} samples, "
        f"temperature {shown('temperature', '{:g}')}, at most {shown('max_tokens')} tokens; texts: "
        f"{shown('source')}; scratchpad {scratchpad}; judge: {', '.join(judges)}"
    )


def _unlike(runs: Sequence[Run]) -> list[str]:
    """Settings in which the runs differ, with the arms of each value."""
    found = []
    for name in _COMMON:
        values: dict[str, dict[str, None]] = {}
        for run in runs:
            values.setdefault(str(run.asked.get(name)), {})[run.arm] = None
        if len(values) > 1:
            each = (f"{value[:16]}: {', '.join(some)}" for value, some in values.items())
            found.append(f"{name} ({'; '.join(each)})")
    return found


def _judges(runs: Sequence[Run]) -> list[dict]:
    """Pairs of runs with the same samples differ in their judges: how far these agree."""
    found = []
    for one, other in itertools.combinations(runs, 2):
        if one.samples != other.samples:
            continue
        pairs = {
            k: (row["verdict"], other.verdicts[k]["verdict"]) for k, row in one.verdicts.items()
        }
        differ = [k for k, pair in pairs.items() if None not in pair and len({*pair}) > 1]
        shown = [(run, run.verdicts[k]) for k in differ[:DISAGREEMENTS] for run in (one, other)]
        agreed = agreement(list(pairs.values()))
        found.append({"name": f"{one.label} / {other.label}", "agreement": agreed, "shown": shown})
    return found


def marked(text: str) -> str:
    """A completion as HTML, with <span> and <mark> around thought, scratchpad and actions."""
    found = parse(text)
    places = {0, len(text), *(end for _, *pair in found.parts for end in pair)}
    places |= {place for action in found.actions for place in (action.start, action.end)}
    # Blocks and parts are in order and do not overlap: the one that holds a place is the last one
    # that begins before it.
    starts = [action.start for action in found.actions]
    ends_of_parts = [end for _, _, end in found.parts]
    parts = []
    for start, end in itertools.pairwise(sorted(places)):
        at = bisect.bisect_right(starts, start) - 1
        action = found.actions[at] if at >= 0 and end <= found.actions[at].end else None
        kind, _, _ = found.parts[bisect.bisect_right(ends_of_parts, start)]
        parts.append((text[start:end], kind, action))
    return page.fragment("transcript.html", parts=parts)


def is_disagreement(row: dict) -> bool:
    """Whether judge and rules both decided, and differ."""
    return None not in (row["verdict"], row["executed"]) and bool(row["verdict"]) != row["executed"]


def _chosen(rows: list[dict], count: int) -> list[dict]:
    """At most `count` verdicts: disagreements and flagged ones, then yes, no and open in turn."""
    telling = [r for r in rows if is_disagreement(r) or r["speaks_to_judge"]]
    others = [
        [r for r in rows if r not in telling and r["verdict"] is v] for v in (True, False, None)
    ]
    chosen = telling[: max(count // 2, 1)]
    in_turn = (row for some in itertools.zip_longest(*others) for row in some if row)
    chosen += itertools.islice(in_turn, max(count - len(chosen), 0))
    return sorted(chosen, key=lambda row: row["sample"])
