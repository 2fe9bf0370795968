"""Measures of arms: means over seeds and differences, each with its interval or the reason why not.

A row is an arm (or a path of stages) with one seed: {"name", "seed", "evals": {name of an
evaluation: {"measures": {name: as `KINDS[kind].measures` has it}}}}. With one seed there is no
interval over seeds; "over_items" is then the interval over the questions or documents of the
evaluation. It says how sure the difference between these very models is, and nothing of other
training runs.
"""

import math
import statistics
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence

import numpy as np

from msm_jax.evals import losses
from msm_jax.evals.evaluation import read_verdicts
from msm_jax.evals.mean_rates import rate_over_seeds
from msm_jax.evals.statistics import (
    Interval,
    bounded_mean_bounds,
    interval,
    no_interval,
    paired_difference,
    t_interval,
)

BySeed = Mapping[int, dict]  # seed -> a measure
ONE_MODEL = "one model, the same for all seeds"


def by_seed(rows: Sequence[dict], name: Hashable, eval: str, measure: str) -> dict[int, dict]:
    """Seed -> a measure of an arm; without the seeds that were not evaluated."""
    mine = {row["seed"]: row["evals"].get(eval) for row in rows if row["name"] == name}
    return {
        seed: found["measures"][measure]
        for seed, found in mine.items()
        if found and measure in found["measures"]
    }


def limits_of(rows: Sequence[dict], eval: str, measure: str) -> tuple[float, float] | None:
    """The lowest and the highest value that a measure can have; None if it has no such bounds."""
    measures = [row["evals"][eval]["measures"] for row in rows if eval in row["evals"]]
    known = {(m[measure]["low"], m[measure]["high"]) for m in measures if measure in m}
    if len(known) != 1 or None in (limits := known.pop()):
        return None
    return limits


def values(found: BySeed) -> dict[int, float]:
    """Seed -> value; seeds without one (all answers invalid) are left out."""
    return {seed: m["value"] for seed, m in found.items() if m["value"] is not None}


def _step(found: BySeed) -> float | None:
    """By how much one item moves the value, where there are fewest; None: it is continuous."""
    steps = [m["step"] for m in found.values() if m["value"] is not None]
    return max((step for step in steps if step is not None), default=None if steps else 1.0)


def _range(found: BySeed) -> tuple[float, float]:
    """The lowest and the highest value that the measure can have."""
    lows = [-math.inf if m["low"] is None else m["low"] for m in found.values()]
    highs = [math.inf if m["high"] is None else m["high"] for m in found.values()]
    return min(lows, default=-math.inf), max(highs, default=math.inf)


# ------------------------------------------------------------------ over seeds


def over_seeds(found: BySeed, one_model: bool = False) -> dict:
    """The mean over seeds with its interval; seeds without a value are named.

    Args:
      found: a measure by seed.
      one_model: all seeds evaluate the same weights, so that a mean over them would claim more
        than there is: the first seed's numbers, with the evaluation's own interval.

    Returns:
      {"mean", "sd", "ci_low", "ci_high", "n", "method"}, and with one value "over_items".
    """
    known = values(found)
    if one_model and known:
        numbers = found[next(iter(known))]
        method = f"{ONE_MODEL}: {numbers['method']}"
        return {"mean": numbers["value"], **_bounds(numbers), "method": method}
    step, limits = _step(found), _range(found)
    if limits == (0.0, 1.0) and step is not None:
        mean = rate_over_seeds(list(known.values()), step)
    else:
        mean = t_interval(list(known.values()), step=step or 0.0, limits=limits)
    fields = _named("mean", mean, set(found) - set(known))
    numbers = {"mean": mean.estimate, "sd": _sd(known.values()), **fields}
    if len(known) == 1:
        numbers["over_items"] = _bounds(found[next(iter(known))])
    return numbers


def _bounds(numbers: dict) -> dict:
    return {key: numbers[key] for key in ("ci_low", "ci_high", "n", "method")}


def _sd(values: Collection[float]) -> float | None:
    """The standard deviation over seeds, with n - 1; None with fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else None


def _named(key: str, found: Interval, without: set[int]) -> dict:
    """The interval, its method naming the seeds that have no value."""
    fields = found.as_dict(key)
    if without:
        seeds = ", ".join(map(str, sorted(without)))
        fields["method"] += f"; left out, without a value: seed {seeds}"
    return fields


def difference(plus: Sequence[BySeed], minus: Sequence[BySeed]) -> dict:
    """The sum of the values in plus minus that of those in minus, paired over the common seeds.

    Returns:
      {"difference", "sd", "ci_low", "ci_high", "n_pairs", "method", "seeds": [{"seed",
      "difference"}]}; "sd" is the standard deviation over seeds.
    """
    terms = [*plus, *minus]
    known = [values(found) for found in terms]
    seeds = sorted(set.intersection(*map(set, known)))
    sums = lambda some: [sum(found[seed] for found in some) for seed in seeds]
    high, low = sums(known[: len(plus)]), sums(known[len(plus) :])
    differences = [a - b for a, b in zip(high, low, strict=True)]
    steps = [step for found in terms if (step := _step(found)) is not None]
    limit = len(plus) * max(top - bottom for bottom, top in map(_range, terms))
    paired = paired_difference(high, low, step=max(steps, default=0.0), limit=limit)
    numbers = _named("difference", paired, set().union(*terms) - set(seeds))
    pairs = zip(seeds, differences, strict=True)
    return {
        **{key: numbers[key] for key in ("difference", "ci_low", "ci_high")},
        "n_pairs": numbers["n"],
        "method": numbers["method"],
        "sd": _sd(differences),
        "seeds": [{"seed": seed, "difference": value} for seed, value in pairs],
    }


def compared(
    rows: Sequence[dict],
    plus: Sequence[Hashable],
    minus: Sequence[Hashable],
    eval: str,
    measure: str,
) -> dict:
    """`difference` of named rows; with one seed also "over_items": within that seed."""
    side = lambda names: [by_seed(rows, name, eval, measure) for name in names]
    found = difference(side(plus), side(minus))
    if len(found["seeds"]) != 1:
        return found
    at = {row["name"]: row for row in rows if row["seed"] == found["seeds"][0]["seed"]}
    side = lambda names: [at[name] for name in names]
    inner = over_items(side(plus), side(minus), eval, measure)
    return {**found, "over_items": inner.as_dict("difference")}


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


# ------------------------------------------------------------------ within one seed


def over_items(plus: Sequence[dict], minus: Sequence[dict], eval: str, measure: str) -> Interval:
    """The summed values of plus minus those of minus, paired by question or document.

    Args:
      plus, minus: rows of one seed, as many in each.
    """
    row, folders = plus[0], [each["folder"] / eval for each in (*plus, *minus)]
    kind = row["settings"][eval]["kind"]
    if kind == "loss":
        if len(folders) != 2:
            return no_interval(None, 0, "more than two checkpoints")
        one, other = folders
        return losses.difference(one, other, measure)
    if kind not in _READERS:
        return no_interval(None, 0, f"one seed, and none over the samples of kind {kind}")
    values = [_READERS[kind](read_verdicts(folder), measure) for folder in folders]
    if not values[0]:
        return no_interval(None, 0, "one seed, and this measure has no value for each question")
    common = [item for item in values[0] if all(item in other for other in values)]
    if len(common) < 2:
        return no_interval(None, len(common), "fewer than two questions that all answered")
    total = lambda some: np.asarray([sum(found[item] for found in some) for item in common])
    differences = total(values[: len(plus)]) - total(values[len(plus) :])
    numbers = row["evals"][eval]["measures"][measure]
    limit = len(plus) * (numbers["high"] - numbers["low"])
    bounds = bounded_mean_bounds(differences, np.ones(len(common)), (-limit, limit))
    return interval(bounds, len(common), "paired by question, bootstrap of questions, one seed")


def _by_item(
    rows: Sequence[Mapping], item: str, value: Callable[[Mapping], float | None]
) -> dict[str, float]:
    """Item -> the mean of its rows' values; without the rows that have none."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if (each := value(row)) is not None:
            found.setdefault(row[item], []).append(float(each))
    return {name: sum(some) / len(some) for name, some in found.items()}


def _choices(rows: Sequence[Mapping], measure: str) -> dict[str, float]:
    mine = [row for row in rows if row["scorer"] == measure and row["choice"] is not None]
    return _by_item(mine, "pair", lambda row: row["choice"] == "a")


_READERS: dict[str, Callable[[Sequence[Mapping], str], dict[str, float]]] = {
    "preferences": _choices,
    "quiz": lambda rows, measure: _by_item(rows, "id", lambda row: row["right"]),
    "questions": lambda rows, measure: _by_item(rows, "id", lambda row: row["score"]),
}


# ------------------------------------------------------------------ as text


def bounded(numbers: dict) -> dict | None:
    """Where the bounds are: in these numbers, or, with one seed, in "over_items"; None: nowhere."""
    parts = (numbers, numbers.get("over_items"))
    return next((part for part in parts if part and part["ci_low"] is not None), None)


def interval_text(
    numbers: dict, key: str = "mean", signed: bool = False, digits: int = 2, brief: bool = False
) -> str:
    """ ".62 [.41, .83]", ".62 [.41, .83] (one seed, n=240)", or ".62 (no interval: one seed)".

    With `brief` the interval within one seed has n alone, for tables whose caption says the rest.
    """
    if numbers[key] is None:
        return "no valid answer"
    style = f"{{:{'+' if signed else ''}.{digits}f}}"
    text, bounds = style.format(numbers[key]), bounded(numbers)
    if bounds is None:
        return f"{text} ({numbers['method'].partition(';')[0]})"
    text += f" [{style.format(bounds['ci_low'])}, {style.format(bounds['ci_high'])}]"
    return (
        text if bounds is numbers else f"{text} ({'' if brief else 'one seed, '}n={bounds['n']:,})"
    )
