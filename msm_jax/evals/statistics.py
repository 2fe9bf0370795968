"""Intervals around rates and around means over seeds.

A rate over independent yes/no answers has a Wilson interval; over answers that come in clusters
(both orders of a pair, samples of a prompt) a cluster bootstrap; a mean over training seeds has a
t interval, and the difference of two arms that share their seeds a paired one.
"""

import dataclasses
import math
import statistics
from collections.abc import Hashable, Sequence

import numpy as np

_DRAWS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate and where it may lie.

    Attributes:
      estimate: None where there is nothing to estimate from.
      ci_low, ci_high: bounds at the level asked for; None where they cannot be had.
      n: what was counted: answers, or seeds for the t intervals.
      method: how the bounds were found.
    """

    estimate: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    method: str

    def as_dict(self) -> dict:
        return dataclasses.asdict(self)


def wilson(k: int, n: int, level: float = 0.95) -> Interval:
    """The score interval of k yes among n independent answers (Wilson 1927).

    Raises:
      ValueError: not 0 <= k <= n, or a level outside (0, 1).
    """
    _check_level(level)
    if not 0 <= k <= n:
        raise ValueError(f"wilson: k={k} is not within 0..n={n}")
    if n == 0:
        return Interval(None, None, None, 0, "wilson")
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    low, high = score_bounds(np.asarray(k / n), np.asarray(n), z)
    return Interval(k / n, float(low), float(high), n, "wilson")


def score_bounds(rate: np.ndarray, n: np.ndarray, critical: float) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's bounds of rates that are worth n independent answers each; any equal shapes.

    `critical` is the quantile of the normal (or Student's) distribution. They hold the rate, and
    stay within 0 and 1.
    """
    square = critical**2 / n
    middle = (rate + square / 2) / (1 + square)
    half = np.sqrt(rate * (1 - rate) * square + square**2 / 4) / (1 + square)
    # at 0 and 1 one bound is exact, and rounding must not push it past the rate
    low = np.where(rate <= 0, 0.0, middle - half)
    high = np.where(rate >= 1, 1.0, middle + half)
    return low, high


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The mean of independent values, one per seed, with Student's interval.

    One value has no bounds: they are None.
    """
    _check_level(level)
    values = np.asarray(values, np.float64)
    n = len(values)
    if n == 0:
        return Interval(None, None, None, 0, "t over seeds")
    mean = float(values.mean())
    if n == 1:
        return Interval(mean, None, None, 1, "t over seeds")
    from scipy import stats  # slow to import, and only this needs it

    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n, "t over seeds")


def paired_difference(
    values_a: Sequence[float], values_b: Sequence[float], level: float = 0.95
) -> Interval:
    """The mean of a - b where both were measured with the same seeds, in the same order.

    Raises:
      ValueError: lists of unequal length.
    """
    if len(values_a) != len(values_b):
        raise ValueError(
            f"paired_difference: {len(values_a)} values against {len(values_b)}: a pair is a seed"
        )
    differences = np.asarray(values_a, np.float64) - np.asarray(values_b, np.float64)
    return dataclasses.replace(t_interval(differences, level), method="paired t over seeds")


def cluster_bootstrap(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    level: float = 0.95,
    resamples: int = 4000,
    seed: int = 0,
) -> Interval:
    """The mean of values that come in clusters, with percentile bounds from whole clusters.

    Clusters are drawn with replacement (Davison & Hinkley 1997, 3.8). Where all values are equal
    the bootstrap knows no spread; for a rate the Wilson interval of as many answers as there are
    clusters is given instead, and `method` says so.

    Args:
      values: one number per answer.
      clusters: which cluster each belongs to, e.g. the pair's id.
      level: of the interval.
      resamples: how often the clusters are drawn.
      seed: of the draws.

    Raises:
      ValueError: lists of unequal length.
    """
    _check_level(level)
    if len(values) != len(clusters):
        raise ValueError(f"cluster_bootstrap: {len(values)} values, {len(clusters)} clusters")
    values = np.asarray(values, np.float64)
    n = len(values)
    if n == 0:
        return Interval(None, None, None, 0, "cluster bootstrap")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    of_value = np.asarray([numbers[name] for name in clusters])
    count = len(numbers)
    if values.min() == values.max():
        return _no_spread(float(values[0]), n, count, level)
    sums = np.bincount(of_value, values, count)
    sizes = np.bincount(of_value, minlength=count)
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, _DRAWS_AT_ONCE):
        draws = rng.multinomial(
            count, np.full(count, 1 / count), min(_DRAWS_AT_ONCE, resamples - start)
        )
        means.append((draws @ sums) / (draws @ sizes))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), n, "cluster bootstrap")


def _no_spread(value, n, count, level):
    """The interval of n equal values in this many clusters."""
    if value not in (0.0, 1.0):
        return Interval(value, None, None, n, "no spread")
    bounds = wilson(round(value) * count, count, level)
    return dataclasses.replace(bounds, n=n, method="wilson over clusters")


def _check_level(level):
    if not 0 < level < 1:
        raise ValueError(f"level={level}: must lie between 0 and 1")
