"""How a measure depends on a number: on a key that is swept, or on the steps of the last stage.

A curve is {"name", "keys", "points"}. A point is the mean over seeds with its interval, as in
`means`, with "eval" (its panel), "line" (an arm, with the values of other keys), "value" (its
place on the x axis), "arm" and "measured" (the copies of arm and evaluation that it is from). Those
of steps have "path", the stages behind them.
"""

import itertools
from collections.abc import Mapping
from typing import Any

from msm_jax.study.evaluations import arms_of, dose_name, measure_of
from msm_jax.study.graph import Study
from msm_jax.study.numbers import by_seed, over_seeds


def of_sweep(config: dict, means: list[dict]) -> list[dict]:
    """A curve for each key of the sweep; keys of one short name share it."""
    made = config["sweep"].get("made")
    if not made:
        return []
    curves: dict[str, Any] = {
        label: {"name": label, "keys": keys, "points": []} for label, keys in made["keys"].items()
    }
    known = {(mean["arm"], mean["eval"], mean["measure"]): mean for mean in means}
    alone: dict[str, Any] = {"values": {}}
    for arm, eval in itertools.product(config["arms"], config["evals"]):
        of_arm, of_eval = made["arms"].get(arm, alone), made["evals"].get(eval, alone)
        values = {**of_arm["values"], **of_eval["values"]}
        if not values or arm not in arms_of(config, eval):
            continue
        for label, value in values.items():
            others = [f"{name}={each}" for name, each in values.items() if name != label]
            point = {**known[arm, eval, measure_of(config, eval)], "eval": of_eval.get("of", eval)}
            line = " ".join([of_arm.get("of", arm), *others])
            curves[label]["points"].append(point | {"measured": eval, "line": line, "value": value})
    return list(curves.values())


def of_steps(study: Study, paths: list[dict], done: Mapping[str, dict]) -> list[dict]:
    """The curve of config.dose: before the last stage, at some of its steps, and after it."""
    config, dose = study.config, study.config["dose"]
    if not dose["steps"]:
        return []
    eval, stages = dose["eval"], dose["stages"]
    measure, steps = measure_of(config, eval, dose["measure"]), sorted(dose["steps"])
    keys = [f"config.dose.steps, of {', '.join(stages)}"]
    curve: dict[str, Any] = {"name": "steps", "keys": keys, "points": []}
    for arm, names in config["arms"].items():
        if not names or names[-1] not in stages or arm not in arms_of(config, eval):
            continue
        last = {ids[-1] for (name, _), ids in study.arms.items() if name == arm} & done.keys()
        if not last:
            continue
        path, count = tuple(names), max(done[each]["summary"]["steps"] for each in last)
        places = [(0, path[:-1], eval), *((step, path, dose_name(eval, step)) for step in steps)]
        for step, place, name in [*places, (count, path, eval)]:
            if found := by_seed(paths, place, name, measure):
                point = {"arm": arm, "eval": eval, "measured": name, "line": arm, "value": step}
                point["path"] = list(place)
                mean = over_seeds(found, one_model=not place)
                curve["points"].append({**mean, **point, "measure": measure})
    return [curve] if curve["points"] else []
