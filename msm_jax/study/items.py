"""Differences within one seed: an interval over the questions or documents of an evaluation.

It says how sure the difference between these very models is, and nothing of other training runs.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from msm_jax.evals import losses
from msm_jax.evals.evaluation import read_verdicts
from msm_jax.evals.statistics import Interval, bounded_mean_bounds, interval, no_interval
from msm_jax.study.numbers import by_seed, difference


def compared(
    rows: Sequence[dict],
    plus: Sequence[Hashable],
    minus: Sequence[Hashable],
    eval: str,
    measure: str,
) -> dict:
    """`numbers.difference` of named rows; with one seed also "over_items": within that seed."""
    side = lambda names: [by_seed(rows, name, eval, measure) for name in names]
    found = difference(side(plus), side(minus))
    if len(found["seeds"]) != 1:
        return found
    at = {row["name"]: row for row in rows if row["seed"] == found["seeds"][0]["seed"]}
    side = lambda names: [at[name] for name in names]
    inner = over_items(side(plus), side(minus), eval, measure)
    return {**found, "over_items": inner.numbers("difference")}


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


# ------------------------------------------------------------------ verdicts.jsonl


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
