"""What is compared: checkpoints by name, each with one evaluation per training seed."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msm_jax.errors import UserError
from msm_jax.evals.agents.scenarios import AgentScenarios
from msm_jax.evals.agents.summary import by_condition, value_of
from msm_jax.evals.context import in_context
from msm_jax.evals.evaluation import JUDGE_AGAIN, SAMPLES, read_recorded, read_summary
from msm_jax.evals.mean_rates import BOTH, SEEDS, differences, mean_over_seeds
from msm_jax.evals.statistics import Interval, no_interval, paired_difference
from msm_jax.files import read_jsonl
from msm_jax.links import below


@dataclasses.dataclass(frozen=True)
class Run:
    """One evaluation's directory, read."""

    arm: str  # the name of its checkpoint
    label: str  # the same, with the directory's name where a checkpoint has several runs
    folder: pathlib.Path
    asked: dict  # evaluation.json
    summary: dict  # summary.json
    samples: dict[tuple[str, int], dict]  # (condition, index) -> row
    verdicts: dict[tuple[str, int], dict]

    def yes(self, measure: str, conditions: Iterable[str]) -> list[list[bool | None]]:
        """The verdicts of each of these conditions, by sample."""
        rows = by_condition(sorted(self.verdicts.values(), key=lambda row: row["sample"]))
        return [[value_of(row, measure) for row in rows[name]] for name in conditions]


Arms = Mapping[str, Sequence[Run]]


def named_folders(words: Sequence[str]) -> dict[str, list[pathlib.Path]]:
    """ "a:x+y", "b:z" as {"a": [x, y], "b": [z]}.

    Raises:
      UserError: a word of another form, or a name that occurs twice.
    """
    arms: dict[str, list[pathlib.Path]] = {}
    for word in words:
        name, _, folders = word.partition(":")
        if not name or not folders or name in arms:
            raise UserError(f"--arms: {word!r} is not NAME:DIR[+DIR...] with a name of its own")
        arms[name] = [pathlib.Path(folder) for folder in folders.split("+")]
    return arms


def read_arms(folders: Mapping[str, Sequence[pathlib.Path]]) -> dict[str, list[Run]]:
    """The runs of every arm.

    Raises:
      UserError: a directory that is not judged agent scenarios, arms of other conditions, or an
        arm that has the same weights twice.
    """
    arms = {
        name: [_read(path, name, several=len(paths) > 1) for path in paths]
        for name, paths in folders.items()
    }
    for name, some in arms.items():
        for one, other in itertools.combinations(some, 2):
            if one.asked["model"] == other.asked["model"]:
                raise UserError(
                    f"arm {name!r}: {one.folder} and {other.folder} asked the same weights, which "
                    "are one training run and not two: leave one of them out"
                )
    runs = [run for some in arms.values() for run in some]
    for run in runs[1:]:
        theirs, ours = set(run.summary["by_condition"]), set(runs[0].summary["by_condition"])
        if theirs != ours:
            raise UserError(
                f"{run.folder} and {runs[0].folder}: other conditions cannot be compared; only one "
                f"of them has {', '.join(sorted(theirs ^ ours)[:5])}"
            )
    return arms


def _read(folder: pathlib.Path, arm: str, several: bool) -> Run:
    names = ("evaluation.json", "summary.json", "samples.jsonl", "verdicts.jsonl")
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise UserError(f"{folder}: lacks {', '.join(missing)}; run --phase=judge first")
    asked = read_recorded(folder) or {}
    if asked.get("kind") != "agents":
        raise UserError(f"{folder}: holds {asked.get('kind', 'preferences')}, not agent scenarios")
    summary = read_summary(folder)
    rows = (
        read_jsonl(below(folder, "samples.jsonl"), form=SAMPLES["agents"]),
        read_jsonl(folder / "verdicts.jsonl"),
    )
    samples, verdicts = ({(row["id"], row["sample"]): row for row in some} for some in rows)
    if samples.keys() != verdicts.keys() or asked != summary["evaluation"]:
        raise UserError(f"{folder}: its verdicts are of other samples: {JUDGE_AGAIN}")
    label = f"{arm} ({folder.name})" if several else arm
    return Run(arm, label, folder, asked, summary, samples, verdicts)


def prompts_of(run: Run) -> dict[str, list[dict[str, Any]]]:
    """The messages by condition; none if the texts are not installed, or not those of the run.

    Of a context only its hash is recorded, which stands in its place.
    """
    names = ("scenarios", "goals", "urgencies", "extras", "scratchpad", "assistant", "source")
    try:
        same = AgentScenarios(**{name: run.asked[name] for name in names})
    except UserError:
        return {}
    if same.settings()["prompts"] != run.asked["prompts"]:
        return {}
    context = run.asked.get("context", "")
    note = f"[A context with the SHA-256 {context}]" if context else ""
    return {name: in_context(prompt.messages, note) for name, prompt in same.prompts.items()}


def over_seeds(runs: Sequence[Run], measure: str) -> list[Interval]:
    """The third layer: means over training runs; empty with one of them."""
    if len(runs) < 2:
        return []
    numbers = [run.summary["measures"][measure] for run in runs]
    if any(n["rate"] is None for n in numbers):
        return [no_interval(None, len(runs), "a training run has no rate")]
    names = list(numbers[0]["conditions"])  # the runs may have them in another order
    k, n = ([[m["conditions"][name][key] for name in names] for m in numbers] for key in "kn")
    return [mean_over_seeds(k, n, target) for target in (SEEDS, BOTH)]


def compare(a: Sequence[Run], b: Sequence[Run], measure: str) -> list[Interval]:
    """Arm a minus arm b, in all the ways that they allow; where none, one that says why.

    Several training runs are paired in the order in which they were given: their training seeds
    are not recorded. Where these differ the interval holds as well, and is only wider.
    """
    numbers = [[run.summary["measures"][measure] for run in runs] for runs in (a, b)]
    if any("withheld" in one for some in numbers for one in some):
        return [no_interval(None, 0, "a rate is withheld")]
    if len(a) == len(b) == 1:
        one, other = (
            {**run.asked, "model": run.asked["model"].get("tokenizer")} for run in (*a, *b)
        )
        common = one == other  # the same random numbers for the same prompts and tokens
        names = list(numbers[0][0]["conditions"])  # b may have them in another order
        yes_a, yes_b = (run.yes(measure, names) for run in (*a, *b))
        return differences(yes_a, yes_b, common, names=names)
    if len(a) != len(b):
        return [no_interval(None, 0, f"{len(a)} and {len(b)} training runs make no pairs")]
    rates = [[one["rate"] for one in some] for some in numbers]
    if None in rates[0] + rates[1]:
        return [no_interval(None, 0, "a training run has no rate")]
    counts = [[c["n"] for c in one["conditions"].values()] for some in numbers for one in some]
    step = max(1 / (len(n) * min(n)) for n in counts)  # what one answer moves
    found = paired_difference(rates[0], rates[1], step=step)
    return [dataclasses.replace(found, method=f"{SEEDS}: {found.method}, in the order given")]
