"""Differences within one seed: an interval over the questions or documents of an evaluation.

It says how sure the difference between these very models is, and nothing of other training runs.
"""

import pathlib
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from msm_jax.evals import losses
from msm_jax.evals.evaluation import read_verdicts
from msm_jax.evals.statistics import Interval, bounded_mean_bounds, interval, no_interval

Place = tuple[Sequence[dict], Hashable, str]  # (rows of `numbers`, name of the row, evaluation)


def with_items(found: dict, plus: Sequence[Place], minus: Sequence[Place], measure: str) -> dict:
    """A difference of `numbers`; with one seed also "over_items", its interval over questions.

    Args:
      found: what `numbers.difference` returned for these rows.
      plus, minus: where the values come from.
      measure: of all of them.
    """
    if len(found["seeds"]) != 1:
        return found
    seed = found["seeds"][0]["seed"]
    rows = lambda side: [_row(place, seed) for place in side]
    numbers = over_items(rows(plus), rows(minus), measure).as_dict()
    bounds = {key: numbers[key] for key in ("ci_low", "ci_high", "n", "method")}
    return {**found, "over_items": {"difference": numbers["estimate"], **bounds}}


def over_items(
    plus: Sequence[tuple[dict, str]], minus: Sequence[tuple[dict, str]], measure: str
) -> Interval:
    """The summed values of plus minus those of minus, paired by question or document.

    Args:
      plus, minus: (row, evaluation), as many in each.
    """
    rows = [*plus, *minus]
    row, eval = rows[0]
    kind = row["settings"][eval]["kind"]
    if kind == "loss":
        if len(rows) != 2:
            return no_interval(None, 0, "more than two checkpoints")
        one, other = (_folder(*each) for each in rows)
        return losses.difference(one, other, measure)
    if kind not in _READERS:
        return no_interval(None, 0, f"one seed, and none over the samples of kind {kind}")
    values = [_READERS[kind](read_verdicts(_folder(*each)), measure) for each in rows]
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


def _row(place: Place, seed: int) -> tuple[dict, str]:
    rows, name, eval = place
    return next(row for row in rows if (row["name"], row["seed"]) == (name, seed)), eval


def _folder(row: dict, eval: str) -> pathlib.Path:
    return row["folder"] / eval


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
