"""What has to be known before behaviour is read: were the documents learned, and what was lost.

Absorption: held-out loss of each source before and after every midtraining stage. A stage that did
not learn its documents says nothing about what they do to behaviour. Retention: evaluations of
what training should not change, before and after.
"""

import math
from collections.abc import Sequence

from msm_jax.study.evaluations import arms_of, measure_of, root_of
from msm_jax.study.numbers import bounded, by_seed, compared, difference, over_seeds

Path = tuple[str, ...]


def absorbed(config: dict, paths: Sequence[dict]) -> list[dict]:
    """Of each midtraining stage what became of the loss and the quiz, and whether that is enough.

    Args:
      config: the study's.
      paths: rows of `numbers`, each named by its stages.
    """
    settings, found = config["absorption"], {}
    for names in config["arms"].values():
        for end, stage in enumerate(names, start=1):
            if stage in settings["stages"]:
                path = tuple(names[:end])
                again = any(other[-1] == stage for other in found)
                found.setdefault(path, _absorbed(config, paths, path, again))
    return list(found.values())


def _absorbed(config: dict, paths: Sequence[dict], path: Path, again: bool) -> dict:
    """`again`: another path ends with the same stage, so that the label names this path."""
    settings, stage = config["absorption"], path[-1]
    entry, eval = settings["stages"][stage], settings["eval"]
    before, after = path[:-1], path
    measures = {role: measure_of(config, eval, entry[role]) for role in ("own", "control")}
    parts: dict[str, dict] = {
        role: {"source": entry[role], **_change(paths, before, after, eval, measure)}
        for role, measure in measures.items()
    }
    loss = lambda at, role: by_seed(paths, at, eval, measures[role])
    more = difference(
        [loss(before, "own"), loss(after, "control")], [loss(after, "own"), loss(before, "control")]
    )
    more = _with_both(more, parts["own"]["change"], parts["control"]["change"])
    quiz = None
    if asked := entry["quiz"]:
        measure = measure_of(config, asked)
        quiz = {"eval": asked, "measure": measure}
        quiz |= _change(paths, before, after, asked, measure)
    # A seed without a loss, because it diverged for example, has not passed.
    differences = {s["seed"]: s["difference"] for s in more["seeds"]}
    trained = by_seed(paths, after, eval, measures["own"])
    at_least = settings["at_least"]
    failed = [s for s in sorted(trained) if not differences.get(s, -math.inf) >= at_least]
    arms = [arm for arm, names in config["arms"].items() if tuple(names[: len(path)]) == path]
    found = {
        "stage": stage,
        "label": (entry["label"] or stage) + (f" after {' > '.join(path[:-1])}" if again else ""),
        "path": list(path),
        "arms": arms,
        "eval": eval,
        **parts,
        "more_than_control": more,
        "quiz": quiz,
        "at_least": at_least,
        "passed": not failed if more["seeds"] else None,
        "failed_seeds": failed,
    }
    return {**found, "sentence": sentence(found)}


def _change(paths: Sequence[dict], before: Path, after: Path, eval: str, measure: str) -> dict:
    """{"before", "after", "change", "percent" of the mean before}."""
    mean = lambda at: over_seeds(by_seed(paths, at, eval, measure), one_model=not at)
    change, first = compared(paths, [after], [before], eval, measure), mean(before)
    start = first["mean"]
    has_both = start and change["difference"] is not None
    return {
        "before": first,
        "after": mean(after),
        "change": change,
        "percent": 100 * change["difference"] / start if has_both else None,
    }


def _with_both(more: dict, own: dict, control: dict) -> dict:
    """The own loss's fall minus the control's, with one seed's interval over documents.

    The two are of different documents, so that the squared distances to the bounds are added (Zou
    and Donner 2008, Stat. Med. 27, 1693).
    """
    own, control = own.get("over_items", {}), control.get("over_items", {})
    if None in (own.get("ci_low"), control.get("ci_low")):
        return more
    estimate = control["difference"] - own["difference"]
    above = lambda numbers: (numbers["ci_high"] - numbers["difference"]) ** 2
    below = lambda numbers: (numbers["difference"] - numbers["ci_low"]) ** 2
    low, high = (above(own) + below(control)) ** 0.5, (below(own) + above(control)) ** 0.5
    bounds = {"ci_low": estimate - low, "ci_high": estimate + high}
    bounds |= {"n": own["n"] + control["n"], "method": f"{own['method']}; squared distances"}
    return {**more, "over_items": {"difference": estimate, **bounds}}


def sentence(found: dict) -> str:
    """The gate in words."""
    own, control, label = found["own"], found["control"], found["label"]
    if found["passed"] is None:
        return f"{label}: its held-out loss is not known, so nothing shows that it was absorbed"
    text = (
        f"{label}: held-out loss on its own documents {_moved(own['change'], ' nats per token')} "
        f"({abs(own['percent']):.0f} %), control text {_moved(control['change'])}"
    )
    if found["passed"]:
        return f"{text}: absorbed"
    known = {s["seed"] for s in found["more_than_control"]["seeds"]}
    several = len(known | set(found["failed_seeds"])) > 1
    where = f" in seed {', '.join(map(str, found['failed_seeds']))}" if several else ""
    return (
        f"{text}: not absorbed{where} (the difference must be at least {found['at_least']:g}): do "
        f"not read the behaviour of {', '.join(found['arms'])} as evidence"
    )


def _moved(change: dict, unit: str = "") -> str:
    """ "fell by 0.210 nats per token [0.180, 0.240]"; the interval over documents with one seed."""
    value = change["difference"]
    text = f"{'fell' if value <= 0 else 'rose'} by {abs(value):.3f}{unit}"
    if (bounds := bounded(change)) is None:
        return text
    sign = -1 if value <= 0 else 1
    low, high = sorted(sign * bounds[key] for key in ("ci_low", "ci_high"))
    return f"{text} [{low:.3f}, {high:.3f}]"


# ------------------------------------------------------------------ retention


def retained(config: dict, paths: Sequence[dict]) -> list[dict]:
    """Of each arm of the headline the evaluations of `retention`, before all training and after.

    Without a headline, of every arm.
    """
    contrast = config["contrasts"].get(config["figure"]["headline"])
    arms = [*contrast["plus"], *contrast["minus"]] if contrast else config["arms"]
    found = []
    for eval in config["retention"]:
        measure, asked = measure_of(config, eval), arms_of(config, eval)
        for arm in (arm for arm in dict.fromkeys(arms) if arm in asked):
            path = config["arms"][arm]
            before = root_of(config, path)
            entry = {"arm": arm, "eval": eval, "measure": measure}
            entry["since"] = " > ".join(before) or "the base"
            found.append({**entry, **_change(paths, before, tuple(path), eval, measure)})
    return found
