"""results.json: rates of arms and seeds, means over seeds, and contrasts between arms."""

import json
import pathlib
from collections.abc import Sequence

from msm_jax.corpus.records import file_hash
from msm_jax.errors import UserError
from msm_jax.evals.mean_rates import rate_over_seeds
from msm_jax.evals.statistics import Interval, paired_difference
from msm_jax.study import files, worker
from msm_jax.study.graph import Study, dose_name

CHANCE = 0.5


def collect(study: Study, workdir: pathlib.Path, run_seconds: float) -> dict:
    """The content of results.json, from the files of a study that is done.

    Only "created" and "seconds" depend on when and how fast it ran.
    """
    rows = _arms(study, workdir)
    return {
        "study": study.config["name"],
        "created": files.now(),
        "code": worker.code(),  # of what collects; each stage has its own
        "made_with": _made_with(study, workdir),
        "arms": rows,
        "means": _means(study, rows),
        "contrasts": [
            {"name": name, **_contrast(entry, study, rows)}
            for name, entry in study.config["contrasts"].items()
        ],
        "gates": _gates(study, rows),
        "controls": _controls(study, rows),
        "agreement": _agreement(study, rows),
        "dose": _dose(study, workdir, rows),
        "stages": _stages(study, workdir),
        "config": study.config,
        "seconds": _seconds(study, workdir, run_seconds),
    }


def _made_with(study: Study, workdir: pathlib.Path) -> list[dict]:
    """Each version of the code that a number comes from, with the stages it trained and asked."""
    found: dict[str, dict] = {}
    for name, stage in study.stages.items():
        marks = {"stages": files.read_stage(workdir, stage)}
        if name in study.questions:
            marks["evals"] = files.read_evals(workdir, name, study.questions[name])
        for kind, mark in marks.items():
            assert mark is not None
            key = json.dumps(mark["code"], sort_keys=True)
            entry = found.setdefault(key, {"code": mark["code"], "stages": [], "evals": []})
            entry[kind].append(name)
    return list(found.values())


def _arms(study: Study, workdir: pathlib.Path) -> list[dict]:
    rows = []
    for (arm, seed), stages in study.arms.items():
        asked = study.questions.get(stages[-1], {})
        wanted = [
            name
            for name, entry in study.config["evals"].items()
            if name in asked and (not entry["arms"] or arm in entry["arms"])
        ]
        evals = {name: _evaluation(workdir, stages[-1], name, asked[name]) for name in wanted}
        rows.append({"name": arm, "seed": seed, "stages": list(stages), "evals": evals})
    return rows


def _evaluation(workdir: pathlib.Path, stage_id: str, name: str, settings: dict) -> dict:
    """The first scorer's numbers, and all scorers' by name."""
    folder = files.evals_dir(workdir, stage_id)
    file, mark = folder / name / "summary.json", files.read_json(folder / "evals.json")
    summary = files.read_json(file)
    if not summary or not mark or mark["summaries"].get(name) != file_hash(file):
        raise UserError(f"{file}: not what the evaluation wrote: delete {folder}, and run again")
    first = settings["scorers"][0]
    return {**summary["scorers"][first], "scorer": first, "scorers": summary["scorers"]}


def rates(rows: Sequence[dict], arm: str, eval: str, scorer: str = "") -> dict[int, float]:
    """Seed -> rate of an arm; seeds without one (all answers invalid) are left out."""
    found = _by_seed(rows, arm, eval, scorer)
    return {seed: n["rate"] for seed, n in found.items() if n.get("rate") is not None}


def _by_seed(rows: Sequence[dict], arm: str, eval: str, scorer: str = "") -> dict[int, dict]:
    """Seed -> an arm's numbers."""
    found = {}
    for row in rows:
        if row["name"] == arm and eval in row["evals"]:
            numbers = row["evals"][eval]
            found[row["seed"]] = numbers["scorers"].get(scorer, {}) if scorer else numbers
    return found


def _step(rows: Sequence[dict], arm: str, eval: str, scorer: str = "") -> float:
    """By how much one pair moves an arm's rate, where fewest are decided; 1 without any."""
    found = _by_seed(rows, arm, eval, scorer).values()
    return max((1 / n["n_pairs"] for n in found if n.get("rate") is not None), default=1.0)


def _over_seeds(rows: Sequence[dict], arm: str, eval: str, scorer: str = "") -> dict:
    """The mean of an arm's rates with its interval; seeds without a rate are named."""
    values = rates(rows, arm, eval, scorer)
    found = rate_over_seeds(list(values.values()), _step(rows, arm, eval, scorer))
    fields = _named(found, set(_by_seed(rows, arm, eval, scorer)) - set(values))
    return {"mean": fields.pop("estimate"), **fields}


def _named(interval: Interval, without: set[int]) -> dict:
    """The interval, its method naming the seeds that have no rate."""
    fields = interval.as_dict()
    if without:
        fields["method"] += (
            f"; left out, without a rate: seed {', '.join(map(str, sorted(without)))}"
        )
    return fields


def _means(study: Study, rows: list[dict]) -> list[dict]:
    """Over seeds, for every arm, evaluation and scorer."""
    found = []
    for arm in study.config["arms"]:
        for eval, entry in study.config["evals"].items():
            for scorer in entry["scorers"] if not entry["arms"] or arm in entry["arms"] else ():
                numbers = _over_seeds(rows, arm, eval, scorer)
                found.append({"arm": arm, "eval": eval, "scorer": scorer, **numbers})
    return found


def mean_of(results: dict, arm: str, eval: str, scorer: str = "") -> dict:
    """The entry of `means`; of the evaluation's first scorer if none is named."""
    scorer = scorer or results["config"]["evals"][eval]["scorers"][0]
    wanted = {"arm": arm, "eval": eval, "scorer": scorer}
    return next(m for m in results["means"] if wanted.items() <= m.items())


def _contrast(entry: dict, study: Study, rows: list[dict]) -> dict:
    scorers = study.config["evals"][entry["eval"]]["scorers"]
    by_scorer = {scorer: _difference(entry, rows, scorer) for scorer in scorers}
    return {
        "label": entry["label"],
        **by_scorer[scorers[0]],
        "scorer": scorers[0],
        "expected": entry["expected"],
        "verdict": verdict(by_scorer[scorers[0]], entry["expected"]),
        "by_scorer": by_scorer,
    }


def _difference(entry: dict, rows: list[dict], scorer: str) -> dict:
    """Paired over the seeds that all arms have."""
    sides = [
        [rates(rows, arm, entry["eval"], scorer) for arm in entry[s]] for s in ("plus", "minus")
    ]
    seeds = sorted(set.intersection(*(set(values) for side in sides for values in side)))
    plus, minus = ([sum(values[seed] for values in side) for seed in seeds] for side in sides)
    arms = [*entry["plus"], *entry["minus"]]
    step = max(_step(rows, arm, entry["eval"], scorer) for arm in arms)
    found = paired_difference(plus, minus, step=step, limit=max(map(len, sides)))
    asked = {seed for arm in arms for seed in _by_seed(rows, arm, entry["eval"], scorer)}
    numbers = _named(found, asked - set(seeds))
    per_seed = [
        {"seed": seed, "difference": a - b} for seed, a, b in zip(seeds, plus, minus, strict=True)
    ]
    return {
        "difference": numbers["estimate"],
        "ci_low": numbers["ci_low"],
        "ci_high": numbers["ci_high"],
        "n_pairs": numbers["n"],
        "method": numbers["method"],
        "seeds": per_seed,
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


def _gates(study: Study, rows: list[dict]) -> list[dict]:
    """Rates that have to be reached for an arm to be what it should be, seed by seed."""
    found = []
    for name, entry in study.config["evals"].items():
        if entry["at_least"] <= 0:
            continue
        for row in rows:
            if name in row["evals"]:
                rate = row["evals"][name]["rate"]
                passed = rate is not None and rate >= entry["at_least"]
                bound = {"at_least": entry["at_least"], "passed": passed}
                who = {"name": name, "arm": row["name"], "seed": row["seed"]}
                found.append({**who, "rate": rate, **bound})
    return found


def _controls(study: Study, rows: list[dict]) -> list[dict]:
    """Arms that should stay near chance."""
    controls, eval = study.config["controls"], study.config["figure"]["eval"]
    found = []
    for arm in controls["arms"] if eval else ():
        numbers = _over_seeds(rows, arm, eval)
        mean = numbers["mean"]
        near = mean is not None and abs(mean - CHANCE) <= controls["within"]
        found.append(
            {"arm": arm, "eval": eval, **numbers, "bound": controls["within"], "near": near}
        )
    return found


def _agreement(study: Study, rows: list[dict]) -> list[dict]:
    """Whether the scorers' mean rates of the figure's evaluation lie on one side of chance."""
    eval = study.config["figure"]["eval"]
    scorers = study.config["evals"][eval]["scorers"] if eval else []
    found = []
    for arm in study.config["arms"] if len(scorers) > 1 else ():
        means = {}
        for scorer in scorers:
            mean = _over_seeds(rows, arm, eval, scorer)["mean"]
            if mean is not None:
                means[scorer] = mean
        if len(means) == len(scorers):
            signs = {(mean > CHANCE) - (mean < CHANCE) for mean in means.values()}
            found.append({"arm": arm, "eval": eval, "means": means, "agree": len(signs - {0}) <= 1})
    return found


def _dose(study: Study, workdir: pathlib.Path, rows: list[dict]) -> list[dict]:
    """Rates along the fine-tuning: before it, at the steps asked for, after it."""
    dose, config = study.config["dose"], study.config
    paths = {tuple(path): arm for arm, path in config["arms"].items()}
    found = []
    for (arm, seed), stages in study.arms.items() if dose["steps"] else ():
        path = config["arms"][arm]
        asked = study.questions.get(stages[-1], {})
        if path[-1] != dose["stage"] or dose["eval"] not in asked:
            continue
        before = rates(rows, paths.get(tuple(path[:-1]), ""), dose["eval"]).get(seed)
        after = rates(rows, arm, dose["eval"]).get(seed)
        points = [(0, before)]
        for step in sorted(dose["steps"]):
            name = dose_name(dose["eval"], step)
            points.append((step, _evaluation(workdir, stages[-1], name, asked[name])["rate"]))
        points.append((study.stages[stages[-1]].steps, after))
        found += [
            {"arm": arm, "seed": seed, "eval": dose["eval"], "step": step, "rate": rate}
            for step, rate in points
            if rate is not None
        ]
    return found


def _stages(study: Study, workdir: pathlib.Path) -> list[dict]:
    """What each stage came to, without its times."""
    timing = ("seconds", "tokens_per_second", "data_share")
    found = []
    for stage in study.stages.values():
        mark = files.read_stage(workdir, stage)
        assert mark is not None
        kept = {k: v for k, v in mark["summary"].items() if k not in timing}
        names = {key: mark[key] for key in ("id", "kind", "path", "seed", "parent")}
        found.append({**names, **kept})
    return found


def _seconds(study: Study, workdir: pathlib.Path, run_seconds: float) -> dict:
    """Where the time went; a stage that was taken up again counts its last run."""
    stages = {name: _mark_seconds(files.read_stage(workdir, s)) for name, s in study.stages.items()}
    evals = {
        name: _mark_seconds(files.read_evals(workdir, name, asked))
        for name, asked in study.questions.items()
    }
    return {"this_run": round(run_seconds, 1), "stages": stages, "evals": evals}


def _mark_seconds(mark: dict | None) -> float:
    return round(mark["seconds"], 2) if mark else 0.0


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


def _mixed(made_with: list[dict]) -> str:
    """Which versions the numbers of a study were made with, where there are several."""
    names = {name for entry in made_with for name in entry["code"]}
    differ = [n for n in sorted(names) if len({e["code"].get(n) for e in made_with}) > 1]
    parts = []
    for entry in made_with:
        versions = ", ".join(f"{name} {entry['code'].get(name)}" for name in differ)
        parts.append(
            f"{len(entry['stages'])} stages and {len(entry['evals'])} evaluated: {versions}"
        )
    return "warning: not all was made with the same code: " + "; ".join(parts)


def table(results: dict) -> str:
    """The figure's rates, contrasts and gates, for the terminal."""
    config, lines = results["config"], [""]
    if len(results["made_with"]) > 1:
        lines += [_mixed(results["made_with"]), ""]
    figure = config["figure"]
    seeds = len(config["seeds"])
    if figure["groups"]:
        lines += [f"{figure['eval']}: {figure['measure']} (mean over {seeds} seeds, 95 % interval)"]
        cells = [("", "before AFT", "after AFT", "after, generated")]
        generated = "generated" in config["evals"][figure["eval"]]["scorers"]
        for group in figure["groups"].values():
            before, after = (
                mean_of(results, group[k], figure["eval"]) for k in ("before", "after")
            )
            other = (
                mean_of(results, group["after"], figure["eval"], "generated") if generated else {}
            )
            texts = [interval_text(m) if m else "" for m in (before, after, other)]
            cells.append((group["label"], *texts))
        widths = [max(len(row[i]) for row in cells) for i in range(4)]
        lines += [
            "  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
    width = max((len(c["label"]) for c in results["contrasts"]), default=0)
    lines += ["", "contrasts"] if results["contrasts"] else []
    for entry in results["contrasts"]:
        text = interval_text(entry, "difference", signed=True)
        lines.append(f"  {entry['label']:{width}}  {text:24}  {entry['verdict']}")
    for name in dict.fromkeys(gate["name"] for gate in results["gates"]):
        gates = [gate for gate in results["gates"] if gate["name"] == name]
        passed = sum(gate["passed"] for gate in gates)
        values = " ".join("-" if g["rate"] is None else f"{g['rate']:.2f}" for g in gates)
        lines.append(f"gate {name} >= {gates[0]['at_least']}: {passed} of {len(gates)} ({values})")
    for arm in results["controls"]:
        word = "near" if arm["near"] else "NOT near"
        lines.append(f"control {arm['arm']}: {interval_text(arm)}, {word} one half")
    apart = [entry["arm"] for entry in results["agreement"] if not entry["agree"]]
    if results["agreement"]:
        lines.append(
            "log-probability and generated answers disagree in sign in: " + ", ".join(apart)
            if apart
            else "log-probability and generated answers agree in sign in every arm"
        )
    return "\n".join([*lines, ""])
