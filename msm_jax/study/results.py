"""results.json: rates of arms and seeds, means over seeds, and contrasts between arms."""

import json
import pathlib
from collections.abc import Sequence

from msm_jax.errors import UserError
from msm_jax.evals.mean_rates import rate_over_seeds
from msm_jax.evals.statistics import Interval, paired_difference
from msm_jax.files import read_json, sha256_file
from msm_jax.study import files, names
from msm_jax.study.display import aligned
from msm_jax.study.graph import Study, dose_name
from msm_jax.study.worker import code, now

CHANCE = 0.5
_TIMES = ("seconds", "tokens_per_second", "data_share")  # of a stage's summary


def collect(study: Study, workdir: pathlib.Path, run_seconds: float) -> dict:
    """The content of results.json, from the files of a study that is done.

    Only "created" and "seconds" depend on when and how fast it ran.
    """
    config = study.config
    marks = {name: files.read_mark(workdir, node) or {} for name, node in study.nodes.items()}
    arms = _arms(study, workdir, marks)
    means = _means(config, arms)
    seconds = {name: round(mark["seconds"], 2) for name, mark in marks.items()}
    return {
        "study": config["name"],
        "created": now(),
        "code": code(),  # of what collects; each node has its own
        "made_with": _made_with(study, marks),
        "arms": arms,
        "means": means,
        "contrasts": [
            {"name": name, **_contrast(entry, config["evals"][entry["eval"]]["scorers"], arms)}
            for name, entry in config["contrasts"].items()
        ],
        "gates": _gates(config, arms),
        "controls": _controls(config, means),
        "agreement": _agreement(config, means),
        "dose": _dose(study, workdir, marks, arms),
        "stages": [
            {key: marks[name][key] for key in ("id", "kind", "path", "seed", "parent")}
            | {k: v for k, v in marks[name]["summary"].items() if k not in _TIMES}
            for name in study.stages
        ],
        "config": config,
        "seconds": {  # a stage that was resumed counts its last run
            "this_run": round(run_seconds, 1),
            "stages": {name: seconds[name] for name in study.stages},
            "evals": {stage: seconds[node.id] for stage, node in study.evaluations.items()},
        },
    }


def _made_with(study: Study, marks: dict[str, dict]) -> list[dict]:
    """Each version of the code that numbers come from, with the stages and evaluations."""
    found: dict[str, dict] = {}
    for name, node in study.nodes.items():
        version = marks[name]["code"]
        entry = found.setdefault(
            json.dumps(version, sort_keys=True), {"code": version, "stages": [], "evals": []}
        )
        if node.kind == "evals":
            entry["evals"].append(node.inputs["parent"])
        else:
            entry["stages"].append(name)
    return list(found.values())


def _arms(study: Study, workdir: pathlib.Path, marks: dict[str, dict]) -> list[dict]:
    rows = []
    for (arm, seed), stages in study.arms.items():
        evals = {
            name: _evaluation(study, workdir, marks, stages[-1], name)
            for name, entry in study.config["evals"].items()
            if not entry["arms"] or arm in entry["arms"]
        }
        cited = names.citation(study.config, arm, seed)
        entry = {"name": arm, "seed": seed, "citation": cited, "stages": list(stages)}
        rows.append({**entry, "evals": evals})
    return rows


def _evaluation(study: Study, workdir: pathlib.Path, marks, stage: str, name: str) -> dict:
    """The first scorer's numbers, and all scorers' by name."""
    node = study.evaluations[stage]
    folder = files.directory(workdir, node)
    file = folder / name / "summary.json"
    if not file.is_file() or marks[node.id]["summary"].get(name) != sha256_file(file):
        raise UserError(
            f"{file}: is missing or not what the evaluation wrote: delete {folder}, and run again"
        )
    scorers, first = read_json(file)["scorers"], node.config[name]["scorers"][0]
    return {**scorers[first], "scorer": first, "scorers": scorers}


# ------------------------------------------------------------------ over seeds


def _by_seed(rows: Sequence[dict], arm: str, eval: str, scorer: str = "") -> dict[int, dict]:
    """Seed -> an arm's numbers; of the evaluation's first scorer if none is named."""
    found = {row["seed"]: row["evals"].get(eval) for row in rows if row["name"] == arm}
    return {
        seed: numbers["scorers"].get(scorer, {}) if scorer else numbers
        for seed, numbers in found.items()
        if numbers
    }


def rates(rows: Sequence[dict], arm: str, eval: str, scorer: str = "") -> dict[int, float]:
    """Seed -> rate of an arm; seeds without one (all responses invalid) are left out."""
    found = _by_seed(rows, arm, eval, scorer)
    return {seed: n["rate"] for seed, n in found.items() if n.get("rate") is not None}


def _step(rows: Sequence[dict], arm: str, eval: str, scorer: str) -> float:
    """By how much one pair moves an arm's rate, where fewest are decided; 1 without any."""
    found = _by_seed(rows, arm, eval, scorer).values()
    return max((1 / n["n_pairs"] for n in found if n.get("rate") is not None), default=1.0)


def over_seeds(rows: Sequence[dict], arm: str, eval: str, scorer: str = "") -> dict:
    """The mean of an arm's rates with its interval; seeds without a rate are named."""
    values = rates(rows, arm, eval, scorer)
    found = rate_over_seeds(list(values.values()), _step(rows, arm, eval, scorer))
    fields = _named(found, set(_by_seed(rows, arm, eval, scorer)) - set(values))
    return {"mean": fields.pop("estimate"), **fields}


def _named(interval: Interval, without: set[int]) -> dict:
    """The interval, its method naming the seeds that have no rate."""
    fields = interval.as_dict()
    if without:
        seeds = ", ".join(map(str, sorted(without)))
        fields["method"] += f"; left out, without a rate: seed {seeds}"
    return fields


def _means(config: dict, rows: list[dict]) -> list[dict]:
    """Over seeds, for every arm, evaluation and scorer."""
    return [
        {"arm": arm, "eval": eval, "scorer": scorer, **over_seeds(rows, arm, eval, scorer)}
        for arm in config["arms"]
        for eval, entry in config["evals"].items()
        if not entry["arms"] or arm in entry["arms"]
        for scorer in entry["scorers"]
    ]


def mean_of(results: dict, arm: str, eval: str, scorer: str = "") -> dict:
    """The entry of `means`; of the evaluation's first scorer if none is named."""
    scorer = scorer or results["config"]["evals"][eval]["scorers"][0]
    wanted = {"arm": arm, "eval": eval, "scorer": scorer}
    return next(m for m in results["means"] if wanted.items() <= m.items())


def _contrast(entry: dict, scorers: Sequence[str], rows: list[dict]) -> dict:
    by_scorer = {scorer: difference(entry, rows, scorer) for scorer in scorers}
    first = by_scorer[scorers[0]]
    return {
        "label": entry["label"],
        **first,
        "scorer": scorers[0],
        "expected": entry["expected"],
        "verdict": verdict(first, entry["expected"]),
        "by_scorer": by_scorer,
    }


def difference(entry: dict, rows: Sequence[dict], scorer: str) -> dict:
    """A contrast's difference with its interval, paired over the seeds that all arms have."""
    eval, sides = entry["eval"], (entry["plus"], entry["minus"])
    arms = [*entry["plus"], *entry["minus"]]
    found = {arm: rates(rows, arm, eval, scorer) for arm in arms}
    seeds = sorted(set.intersection(*map(set, found.values())))
    plus, minus = ([sum(found[arm][seed] for arm in side) for seed in seeds] for side in sides)
    step = max(_step(rows, arm, eval, scorer) for arm in arms)
    interval = paired_difference(plus, minus, step=step, limit=len(entry["plus"]))
    asked = {seed for arm in arms for seed in _by_seed(rows, arm, eval, scorer)}
    numbers = _named(interval, asked - set(seeds))
    return {
        "difference": numbers["estimate"],
        "ci_low": numbers["ci_low"],
        "ci_high": numbers["ci_high"],
        "n_pairs": numbers["n"],
        "method": numbers["method"],
        "seeds": [
            {"seed": seed, "difference": a - b}
            for seed, a, b in zip(seeds, plus, minus, strict=True)
        ],
    }


def verdict(numbers: dict, expected: int) -> str:
    """What an interval says: "as expected", "against expectation", "positive", ... or "open"."""
    low, high = numbers["ci_low"], numbers["ci_high"]
    if low is None:
        return f"open: {numbers['method']}"
    sign = 1 if low > 0 else -1 if high < 0 else 0
    if sign == 0:
        return "open: the interval holds 0"
    if expected == 0:
        return "positive" if sign > 0 else "negative"
    return "as expected" if sign == expected else "against expectation"


# ------------------------------------------------------------------ checks


def _gates(config: dict, rows: list[dict]) -> list[dict]:
    """Rates that an arm has to reach to be what it should be, seed by seed."""
    found = []
    for name, entry in config["evals"].items():
        bound = entry["at_least"]
        for row in rows if bound > 0 else ():
            if name in row["evals"]:
                rate = row["evals"][name]["rate"]
                passed = rate is not None and rate >= bound
                gate = {"name": name, "arm": row["name"], "seed": row["seed"], "rate": rate}
                found.append({**gate, "at_least": bound, "passed": passed})
    return found


def _controls(config: dict, means: list[dict]) -> list[dict]:
    """Arms that should stay near chance."""
    bound, eval = config["controls"]["within"], config["figure"]["eval"]
    found = []
    for arm in config["controls"]["arms"] if eval else ():
        entry = dict(mean_of({"config": config, "means": means}, arm, eval))
        del entry["scorer"]
        near = entry["mean"] is not None and abs(entry["mean"] - CHANCE) <= bound
        found.append({**entry, "bound": bound, "near": near})
    return found


def _agreement(config: dict, means: list[dict]) -> list[dict]:
    """Whether the scorers' mean rates of the figure's evaluation are on one side of chance."""
    eval = config["figure"]["eval"]
    scorers = config["evals"][eval]["scorers"] if eval else []
    found = []
    for arm in config["arms"] if len(scorers) > 1 else ():
        mine = [m for m in means if (m["arm"], m["eval"]) == (arm, eval) and m["mean"] is not None]
        if len(mine) == len(scorers):
            signs = {(m["mean"] > CHANCE) - (m["mean"] < CHANCE) for m in mine} - {0}
            by_scorer = {m["scorer"]: m["mean"] for m in mine}
            found.append({"arm": arm, "eval": eval, "means": by_scorer, "agree": len(signs) <= 1})
    return found


def _dose(study: Study, workdir: pathlib.Path, marks, rows: list[dict]) -> list[dict]:
    """Rates along the fine-tuning: before it, at the steps of the config, after it."""
    dose, arms = study.config["dose"], study.config["arms"]
    eval, by_path = dose["eval"], {tuple(path): arm for arm, path in arms.items()}
    found = []
    for (arm, seed), stages in study.arms.items() if dose["steps"] else ():
        node = study.evaluations.get(stages[-1])
        if arms[arm][-1] != dose["stage"] or node is None or eval not in node.config:
            continue
        points = {0: rates(rows, by_path.get(tuple(arms[arm][:-1]), ""), eval).get(seed)}
        for step in sorted(dose["steps"]):
            numbers = _evaluation(study, workdir, marks, stages[-1], dose_name(eval, step))
            points[step] = numbers["rate"]
        points[study.nodes[stages[-1]].steps] = rates(rows, arm, eval).get(seed)
        found += [
            {"arm": arm, "seed": seed, "eval": eval, "step": step, "rate": rate}
            for step, rate in points.items()
            if rate is not None
        ]
    return found


# ------------------------------------------------------------------ on the terminal


def interval_text(numbers: dict, key: str = "mean", signed: bool = False) -> str:
    """ ".62 [.41, .83]", or ".62 (no interval: one seed)"."""
    if numbers[key] is None:
        return "no valid answer"
    style = "{:+.2f}" if signed else "{:.2f}"
    text = style.format(numbers[key])
    if numbers["ci_low"] is None:
        return f"{text} ({numbers['method'].partition(';')[0]})"
    return text + " [" + ", ".join(style.format(numbers[k]) for k in ("ci_low", "ci_high")) + "]"


def mixed_code(made_with: list[dict]) -> str:
    """A warning that names the versions of code where several made the numbers; else ""."""
    names = {name for entry in made_with for name in entry["code"]}
    differ = [n for n in sorted(names) if len({e["code"].get(n) for e in made_with}) > 1]
    parts = [
        f"{len(entry['stages'])} stages and {len(entry['evals'])} evaluated: "
        + ", ".join(f"{name} {entry['code'].get(name)}" for name in differ)
        for entry in made_with
    ]
    return f"warning: not all was made with the same code: {'; '.join(parts)}" if differ else ""


def table(results: dict) -> str:
    """The figure's rates, contrasts and gates, for the terminal."""
    config, lines = results["config"], [""]
    if warning := mixed_code(results["made_with"]):
        lines += [warning, ""]
    figure, seeds = config["figure"], len(config["seeds"])
    if figure["groups"]:
        eval = figure["eval"]
        lines += [f"{eval}: {figure['measure']} (mean over {seeds} seeds, 95 % interval)"]
        cells = [["", "before AFT", "after AFT", "after, generated"]]
        generated = "generated" in config["evals"][eval]["scorers"]
        for group in figure["groups"].values():
            columns = [("before", ""), ("after", ""), *([("after", "generated")] * generated)]
            means = [mean_of(results, group[when], eval, scorer) for when, scorer in columns]
            texts = [interval_text(mean) for mean in means] + [""] * (not generated)
            cells.append([group["label"], *texts])
        lines += aligned(cells)
    if results["contrasts"]:
        entries = results["contrasts"]
        texts = [interval_text(entry, "difference", signed=True) for entry in entries]
        rows = [[e["label"], t, e["verdict"]] for e, t in zip(entries, texts, strict=True)]
        lines += ["", "contrasts", *aligned(rows)]
    for name in dict.fromkeys(gate["name"] for gate in results["gates"]):
        gates = [gate for gate in results["gates"] if gate["name"] == name]
        passed = sum(gate["passed"] for gate in gates)
        values = " ".join("-" if g["rate"] is None else f"{g['rate']:.2f}" for g in gates)
        lines.append(f"gate {name} >= {gates[0]['at_least']}: {passed} of {len(gates)} ({values})")
    for arm in results["controls"]:
        word = "near" if arm["near"] else "NOT near"
        lines.append(f"control {arm['arm']}: {interval_text(arm)}, {word} one half")
    if results["agreement"]:
        apart = [entry["arm"] for entry in results["agreement"] if not entry["agree"]]
        found = (
            f"disagree in sign in: {', '.join(apart)}" if apart else "agree in sign in every arm"
        )
        lines.append(f"log-probability and generated answers {found}")
    return "\n".join([*lines, ""])
