"""results.json: measures of arms and seeds, means over seeds, and contrasts between arms."""

import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence

from msm_jax.errors import UserError
from msm_jax.files import sha256_file
from msm_jax.study import (
    absorption,
    caveats,
    curves,
    design,
    evaluations,
    files,
    targets,
    times,
)
from msm_jax.study.evaluations import arms_of, measure_of
from msm_jax.study.graph import Study
from msm_jax.study.node import Node
from msm_jax.study.numbers import by_seed, compared, over_seeds, verdict
from msm_jax.study.worker import code, now

CHANCE = 0.5
_ARM = ("name", "seed", "citation", "stages", "evals")
_OWN = ("value", "n", "ci_low", "ci_high", "method", "invalid")  # of the measure that is compared
_TIMES = ("seconds", "tokens_per_second", "data_share")  # of a stage's summary


def collect(
    study: Study, workdir: pathlib.Path, run_seconds: float, waiting: Mapping[str, str] = {}
) -> dict:
    """The content of results.json, from the files of a study that is done.

    Only "created" and "seconds" depend on when and how fast it ran.

    Args:
      waiting: nodes that could not be done yet, and what each waits for.
    """
    config = study.config
    marks = {name: files.read_mark(workdir, node) for name, node in study.nodes.items()}
    done = {name: mark for name, mark in marks.items() if mark is not None}
    paths = _paths(study, workdir, done)
    arms = _arms(study, paths)
    means = _means(config, arms)
    contrasts = [
        {"name": name, **_contrast(config, entry, arms)}
        for name, entry in config["contrasts"].items()
    ]
    spent: dict[str, dict[str, float]] = {"stages": {}, "evals": {}, "judges": {}}
    for name, mark in done.items():
        part, key = _listed_as(study.nodes[name])
        spent[part][key] = round(mark["seconds"], 2)
    found = {
        "study": config["name"],
        "created": now(),
        "code": code(),  # of what collects; each node has its own
        "made_with": _made_with(study, done),
        "waiting": [
            {"kind": study.nodes[name].kind, "what": study.nodes[name].title, "for": reason}
            for name, reason in waiting.items()
        ],
        "arms": [{key: row[key] for key in _ARM} for row in arms],
        "means": means,
        "design": design.controls_of(config),
        "contrasts": contrasts,
        "targets": targets.compared(config, means, contrasts),
        "absorption": absorption.absorbed(config, paths),
        "retention": absorption.retained(config, paths),
        "gates": _gates(config, arms),
        "controls": _controls(config, means),
        "agreement": _agreement(config, means),
        "curves": [*curves.of_sweep(config, means), *curves.of_steps(study, paths, done)],
        "stages": [
            {key: done[name][key] for key in ("id", "kind", "path", "seed", "parent")}
            | {k: v for k, v in done[name]["summary"].items() if k not in _TIMES}
            for name in study.stages
            if name in done
        ],
        "config": config,
        "seconds": {  # a stage that was resumed counts its last run
            "this_run": round(run_seconds, 1),
            **times.record(study, workdir, done),
            **spent,
        },
    }
    return {**found, "warnings": caveats.warnings(study, found)}


def _listed_as(node: Node) -> tuple[str, str]:
    """("stages", id), ("evals", id of the stage) or ("judges", "id of the stage/evaluation")."""
    if node.kind not in ("evals", "judge"):
        return "stages", node.id
    stage = node.inputs["parent"]
    return ("evals", stage) if node.kind == "evals" else ("judges", f"{stage}/{node.name}")


def _made_with(study: Study, done: dict[str, dict]) -> list[dict]:
    """Each version of the code that numbers come from, with the stages and evaluations."""
    found: dict[str, dict] = {}
    for name, mark in done.items():
        part, key = _listed_as(study.nodes[name])
        fresh = {"code": mark["code"], "stages": [], "evals": [], "judges": []}
        found.setdefault(json.dumps(mark["code"], sort_keys=True), fresh)[part].append(key)
    return list(found.values())


def _paths(study: Study, workdir: pathlib.Path, done: dict[str, dict]) -> list[dict]:
    """Every path of stages that was evaluated, with each seed, as a row of `numbers`."""
    rows, judges = [], study.judges
    for node in study.evaluations.values():
        evals, folder = {}, files.directory(workdir, node)
        for name, settings in node.config.items():
            judge = judges.get((node.inputs["parent"], name), node)
            if (mark := done.get(judge.id)) is not None:
                evals[name] = _evaluation(folder, name, settings, mark)
        row = {"name": node.path, "seed": node.seed, "stage": node.inputs["parent"]}
        rows.append({**row, "folder": folder, "settings": node.config, "evals": evals})
    return rows


def _evaluation(folder: pathlib.Path, name: str, settings: dict, mark: dict) -> dict:
    """An evaluation's measures by name, and the numbers of the one that is compared.

    Of preferences also all that summary.json says of each scorer.
    """
    file = folder / name / "summary.json"
    if not file.is_file() or mark["summary"].get(name) != sha256_file(file):
        raise UserError(
            f"{file}: is missing or not what the evaluation wrote: delete {folder}, and run again"
        )
    summary, measures = evaluations.measures_of(settings, folder / name)
    found = {"kind": settings["kind"], "measures": measures}
    if settings["kind"] != "preferences":
        return found
    scorers, first = summary["scorers"], settings["scorers"][0]
    return {**scorers[first], "scorer": first, "scorers": scorers, **found}


def _arms(study: Study, paths: list[dict]) -> list[dict]:
    """The rows of arms: those of their paths, with the evaluations that they are asked."""
    by_path = {(row["name"], row["seed"]): row for row in paths}
    rows, config = [], study.config
    for (arm, seed), stages in study.arms.items():
        row = by_path.get((tuple(config["arms"][arm]), seed), {"evals": {}})
        mine = [name for name in config["evals"] if arm in arms_of(config, name)]
        evals = {name: row["evals"][name] for name in mine if name in row["evals"]}
        for name in evals:
            measure = measure_of(config, name)
            own = evals[name]["measures"].get(measure, {})
            own = {key: own[key] for key in _OWN if own}
            evals[name] = {**evals[name], "measure": measure, **own}
        cited = files.citation(config, arm, seed)
        entry = {"name": arm, "seed": seed, "citation": cited, "stages": list(stages)}
        rows.append({**row, **entry, "evals": evals})
    return rows


# ------------------------------------------------------------------ means and contrasts


def _means(config: dict, rows: list[dict]) -> list[dict]:
    """Over seeds, for every arm, evaluation and measure."""
    found = []
    for arm, eval in itertools.product(config["arms"], config["evals"]):
        for measure in _measures(config, rows, eval) if arm in arms_of(config, eval) else ():
            known, is_base = by_seed(rows, arm, eval, measure), not config["arms"][arm]
            entry = {"arm": arm, "eval": eval, "measure": measure}
            if measure in _scorers(config, eval):
                entry["scorer"] = measure
            found.append({**entry, **over_seeds(known, one_model=is_base)})
    return found


def _measures(config: dict, rows: Sequence[dict], eval: str) -> list[str]:
    """The names of an evaluation's measures, its own one first."""
    measures = (row["evals"][eval]["measures"] for row in rows if eval in row["evals"])
    return list(dict.fromkeys(itertools.chain([measure_of(config, eval)], *measures)))


def _scorers(config: dict, eval: str) -> list[str]:
    """The scorers of preferences; none of another kind."""
    return evaluations.resolved(config, eval).get("scorers", [])


def mean_of(results: dict, arm: str, eval: str, measure: str = "") -> dict:
    """The entry of `means`; of the evaluation's own measure if none is named."""
    measure = measure or measure_of(results["config"], eval)
    wanted = {"arm": arm, "eval": eval, "measure": measure}
    return next(m for m in results["means"] if wanted.items() <= m.items())


def _contrast(config: dict, entry: dict, rows: list[dict]) -> dict:
    eval = entry["eval"]
    measure = measure_of(config, eval, entry["measure"])
    by_measure = {
        name: compared(rows, entry["plus"], entry["minus"], eval, name)
        for name in dict.fromkeys([*_measures(config, rows, eval), measure])
    }
    first = by_measure[measure]
    found = {
        "label": entry["label"],
        "eval": eval,
        "measure": measure,
        **first,
        "expected": entry["expected"],
        "verdict": verdict(first, entry["expected"]),
        "by_measure": by_measure,
    }
    if scorers := [name for name in by_measure if name in _scorers(config, eval)]:
        found["scorer"] = measure
        found["by_scorer"] = {name: by_measure[name] for name in scorers}
    return found


# ------------------------------------------------------------------ checks


def _gates(config: dict, rows: list[dict]) -> list[dict]:
    """Bounds that an arm has to keep to be what it should be, seed by seed."""
    found = []
    for name, entry in config["evals"].items():
        low, high = (entry.get(bound) for bound in ("at_least", "at_most"))
        some = rows if (low, high) != (None, None) else ()
        for row in (row for row in some if name in row["evals"]):
            value = row["evals"][name]["value"]
            above = value is not None and (low is None or value >= low)
            gate = {"name": name, "arm": row["name"], "seed": row["seed"]}
            gate |= {"measure": measure_of(config, name), "value": value}
            if row["evals"][name]["kind"] == "preferences":
                gate["rate"] = value
            passed = above and (high is None or value <= high)
            found.append({**gate, "at_least": low, "at_most": high, "passed": passed})
    return found


def _controls(config: dict, means: list[dict]) -> list[dict]:
    """Arms that should stay near a value, such as chance."""
    controls = config["controls"]
    source = controls if controls["eval"] else config["figure"]
    bound, expected = controls["within"], controls["expected"]
    measure, found = controls["measure"] or source["measure"], []
    for arm in controls["arms"] if source["eval"] else ():
        mean = mean_of({"config": config, "means": means}, arm, source["eval"], measure)
        near = mean["mean"] is not None and abs(mean["mean"] - expected) <= bound
        entry = {key: value for key, value in mean.items() if key != "scorer"}
        found.append({**entry, "expected": expected, "bound": bound, "near": near})
    return found


def _agreement(config: dict, means: list[dict]) -> list[dict]:
    """Whether the scorers' mean rates of the figure's preferences are on one side of chance."""
    eval = config["figure"]["eval"]
    scorers = _scorers(config, eval) if eval else []
    found = []
    for arm in config["arms"] if len(scorers) > 1 else ():
        mine = [m for m in means if (m["arm"], m["eval"]) == (arm, eval) and "scorer" in m]
        by_scorer = {m["scorer"]: m["mean"] for m in mine if m["mean"] is not None}
        if len(by_scorer) == len(scorers):
            signs = {(mean > CHANCE) - (mean < CHANCE) for mean in by_scorer.values()} - {0}
            found.append({"arm": arm, "eval": eval, "means": by_scorer, "agree": len(signs) <= 1})
    return found
