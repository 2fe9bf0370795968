"""Intervals for rates, for means of clustered answers, and for paired differences.

One method for each situation, chosen so that it holds at least as often as its level says:

    independent yes/no answers                 `exact` (Clopper and Pearson)
    answers in clusters (orders, samples)      `cluster_bootstrap`, with one extreme cluster added
    sums over sums (nats per token)            `ratio_interval` (jackknife)
    yes/no answers to the same questions       `tango_bounds`
    differences between arms, paired by seed   `paired_difference` (Student)

Means over conditions and over seeds are in `mean_rates`. Where no honest interval exists the
bounds are None and `method` begins with "no interval:" and gives the reason. How often each
holds: docs/evals.md.
"""

import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from scipy import special

_DRAWS, _DRAWS_AT_ONCE = 4000, 256  # of the weights of clusters

Bounds = tuple[np.ndarray, np.ndarray, np.ndarray]  # estimate, low, high
UNLIMITED = (-math.inf, math.inf)


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate, None if there are no data, and its bounds, both None if there is no interval.

    `n` counts answers, pairs, conditions or seeds, as `method` implies, which says how the bounds
    were found or why there are none.
    """

    estimate: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    method: str

    def as_dict(self, name: str = "estimate") -> dict:
        """As a part of a summary, where the estimate is called `name`."""
        numbers = dataclasses.asdict(self)
        return {name: numbers.pop("estimate"), **numbers}

    def paired(self, prefix: str) -> "Interval":
        """The same with a prefix before `method`, where there are bounds."""
        named = dataclasses.replace(self, method=prefix + self.method)
        return self if self.ci_low is None else named


def no_interval(estimate: float | None, n: int, reason: str) -> Interval:
    """An estimate without bounds; `method` gives the reason."""
    return Interval(estimate, None, None, n, f"no interval: {reason}")


def interval(
    bounds: Sequence[Any], n: int, method: str, limits: tuple[float, float] = UNLIMITED
) -> Interval:
    """An estimate and its bounds, of one mean, as an `Interval`; clipped to the limits."""
    estimate, low, high = map(float, bounds)
    return Interval(estimate, max(low, limits[0]), min(high, limits[1]), n, method)


# ------------------------------------------------------------------ rates


def exact(k: int, n: int, level: float = 0.95) -> Interval:
    """The exact interval of k yes among n independent answers (Clopper and Pearson 1934).

    It holds at least as often as its level says, at every rate and every n. Wilson's interval,
    which the paper's figures 12 and 13 show, does so on average only: with 8 to 20 answers and a
    rate near 0 it holds in 84 %.

    Raises:
      ValueError: not 0 <= k <= n, or a level outside (0, 1).
    """
    _check_counts("exact", k, n, level)
    if n == 0:
        return no_interval(None, 0, "no answers")
    rate = np.asarray(k / n)
    return interval((rate, *exact_bounds(rate, np.asarray(n), level)), n, "exact")


def exact_bounds(
    rate: np.ndarray, worth: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Clopper and Pearson's bounds of rates that are worth this many independent answers each.

    `worth` need not be an integer: it is the effective number of answers behind a mean of several
    rates (Korn and Graubard 1998, Survey Methodology 24, 193). The bounds enclose the rate and
    stay within 0 and 1.
    """
    check_level(level)
    tail = (1 - level) / 2
    rate, worth = np.broadcast_arrays(np.asarray(rate, float), np.asarray(worth, float))
    yes, no = rate * worth, (1 - rate) * worth
    tiny = 1e-9  # of an answer: rounding is not a yes
    low = special.betaincinv(np.maximum(yes, tiny), no + 1, tail)
    high = special.betaincinv(yes + 1, np.maximum(no, tiny), 1 - tail)
    low, high = np.where(yes <= tiny, 0.0, low), np.where(no <= tiny, 1.0, high)
    return np.minimum(low, rate), np.maximum(high, rate)


def wilson(k: int, n: int, level: float = 0.95) -> Interval:
    """The score interval of k yes among n independent answers (Wilson 1927).

    For comparison with the paper's figures 12 and 13; our evaluations report `exact`, which raises
    the same errors.
    """
    _check_counts("wilson", k, n, level)
    if n == 0:
        return no_interval(None, 0, "no answers")
    rate, square = k / n, special.ndtri((1 + level) / 2) ** 2 / n
    middle = (rate + square / 2) / (1 + square)
    half = math.sqrt(rate * (1 - rate) * square + square**2 / 4) / (1 + square)
    # at 0 and 1 one bound is the rate, and rounding must not push it past
    low, high = 0.0 if k == 0 else middle - half, 1.0 if k == n else middle + half
    return Interval(rate, float(low), float(high), n, "wilson")


# ------------------------------------------------------------------ clusters


def cluster_bootstrap(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    level: float = 0.95,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Interval:
    """The mean of values that come in clusters, by `bounded_mean_bounds`; None for one cluster.

    Args:
      values: one number per answer.
      clusters: which cluster each belongs to, e.g. the pair's id.
      limits: the least and the largest value that an answer can have.

    Raises:
      ValueError: lists of unequal length, or a value outside the limits.
    """
    if len(values) != len(clusters):
        raise ValueError(f"cluster_bootstrap: {len(values)} values, {len(clusters)} clusters")
    values = np.asarray(values, np.float64)
    n = len(values)
    if n == 0:
        return no_interval(None, 0, "no answers")
    if not (limits[0] <= values.min() and values.max() <= limits[1]):
        raise ValueError(f"cluster_bootstrap: values must lie within {limits[0]} and {limits[1]}")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    if len(numbers) == 1:
        return no_interval(float(values.mean()), n, "one cluster")
    of_value = np.asarray([numbers[name] for name in clusters])
    sums, sizes = np.bincount(of_value, values), np.bincount(of_value)
    return interval(bounded_mean_bounds(sums, sizes, limits, level), n, "cluster bootstrap")


def bounded_mean_bounds(
    sums: np.ndarray,
    sizes: np.ndarray,
    limits: tuple[float, float] = (0.0, 1.0),
    level: float = 0.95,
) -> Bounds:
    """Mean over clusters whose values lie within limits, whatever their distribution.

    The clusters get random Dirichlet weights (Rubin 1981), the same in every call. For the upper
    bound one more cluster joins them in which every value is the largest possible; for the lower
    bound, the least. It is Gaffke's bound (2005; Learned-Miller and Thomas 2020, "A new confidence
    interval for the mean of a bounded random variable"). For yes/no values in clusters of one it
    equals Clopper and Pearson's. Where clusters differ in size the extreme one is as large as the
    largest.

    Args:
      sums, sizes: [..., C]: the sum of each cluster's values and their number; equal shapes.
      limits: the least and the largest value that an answer can have.
    """
    check_level(level)
    least, most = limits
    sums, sizes = np.broadcast_arrays(np.asarray(sums, float), np.asarray(sizes, float))
    shares = (sums / sizes - least) / (most - least) * sizes
    mean = shares.sum(-1) / sizes.sum(-1)
    quantile = 1 - (1 - level) / 2
    high = np.maximum(_with_extreme(shares, sizes, quantile), mean)
    low = np.minimum(1 - _with_extreme(sizes - shares, sizes, quantile), mean)
    mean, low, high = (least + (most - least) * np.clip(share, 0, 1) for share in (mean, low, high))
    return mean, low, high


def _with_extreme(sums: np.ndarray, sizes: np.ndarray, quantile: float) -> np.ndarray:
    """Quantile of the weighted mean of the clusters and one more that is all ones."""
    order = np.lexsort((sizes, sums / sizes), axis=-1)  # so that their order means nothing
    sums, sizes = np.take_along_axis(sums, order, -1), np.take_along_axis(sizes, order, -1)
    count, largest = sums.shape[-1], sizes.max(-1)[..., None]
    # the extreme cluster's weight is Beta(1, C): drawn evenly, as it decides the bound
    extreme = 1 - (1 - (np.arange(_DRAWS) + 0.5) / _DRAWS) ** (1 / count)
    rng = np.random.default_rng(0)
    means = []
    for start in range(0, _DRAWS, _DRAWS_AT_ONCE):
        added = extreme[start : start + _DRAWS_AT_ONCE]
        weights = rng.standard_exponential((len(added), count))
        weights *= ((1 - added) / weights.sum(-1))[:, None]
        means.append((sums @ weights.T + largest * added) / (sizes @ weights.T + largest * added))
    return np.quantile(np.concatenate(means, axis=-1), quantile, axis=-1)


# ------------------------------------------------------------------ ratios


def ratio_interval(
    sums: Sequence[float],
    sizes: Sequence[float],
    level: float = 0.95,
    limits: tuple[float, float] = UNLIMITED,
) -> Interval:
    """A ratio of sums over documents, such as nats per token; see `ratio_bounds`.

    Args:
      sums, sizes: of each document, e.g. its nats and its tokens.
      limits: the bounds are clipped to them.

    Raises:
      ValueError: lists of unequal length, a value that is no number, or a size that is not above 0.
    """
    if len(sums) != len(sizes):
        raise ValueError(f"ratio_interval: {len(sums)} sums, {len(sizes)} sizes")
    values, n = np.asarray(sums, np.float64), len(sums)
    weights = np.asarray(sizes, np.float64)
    if not (np.isfinite(values).all() and np.isfinite(weights).all() and (weights > 0).all()):
        raise ValueError("ratio_interval: sums must be numbers, and sizes above 0")
    if n == 0:
        return no_interval(None, 0, "no documents")
    estimate = float(values.sum() / weights.sum())
    if n == 1:
        return no_interval(estimate, 1, "one document")
    ratios = values / weights
    if np.ptp(ratios) <= 1e-12 * max(1.0, float(np.abs(ratios).max())):
        return no_interval(estimate, n, f"{n} documents with equal values")
    return interval(ratio_bounds(values, weights, level), n, "jackknife of documents", limits)


def ratio_bounds(sums: np.ndarray, sizes: np.ndarray, level: float = 0.95) -> Bounds:
    """Sum over sum, each [..., C] over clusters, C >= 2, whose sizes are as random as their sums.

    Student's interval of the jackknife, with C - 1 degrees of freedom: the variance is (C - 1) / C
    times the squared distances of the ratios without one cluster each from their mean (Quenouille
    1956; Cochran 1977, Sampling Techniques, section 6.17). Long texts that are hard make ratios
    skewed: the bounds also reach as far as `skewed_bounds` of the clusters' influence.
    """
    sums, sizes = np.broadcast_arrays(np.asarray(sums, float), np.asarray(sizes, float))
    count, total, size = sums.shape[-1], sums.sum(-1), sizes.sum(-1)
    without = (total[..., None] - sums) / (size[..., None] - sizes)
    half = special.stdtrit(count - 1, (1 + level) / 2) * np.sqrt((count - 1) * without.var(-1))
    mean = total / size
    influence = mean[..., None] + (sums - mean[..., None] * sizes) * count / size[..., None]
    _, low, high = skewed_bounds(influence, level)
    return mean, np.minimum(low, mean - half), np.maximum(high, mean + half)


def skewed_bounds(values: np.ndarray, level: float) -> Bounds:
    """Student's interval of the mean of values [..., C], made for skewed ones by Hall's cubic.

    With w = (mean - truth) / s and g the values' skewness, w + g w^2 / 3 + g^2 w^3 / 27 + g / 6C
    is free of the skewness to first order (Hall 1992, J. R. Stat. Soc. B 54, 221); its bounds are
    turned back into those of the mean. Harm that few conditions are full of is skewed: without
    the correction 95 % intervals held in 86 to 90 % of studies.
    """
    check_level(level)
    count = values.shape[-1]
    mean, spread = values.mean(-1), values.std(-1, ddof=1)
    safe = np.where(spread > 0, spread, 1.0)
    skewness = ((values - mean[..., None]) ** 3).mean(-1) / safe**3
    g = np.where(np.abs(skewness) < 1e-6, 1e-6, skewness)
    t = special.stdtrit(count - 1, (1 + level) / 2) / np.sqrt(count)
    back = lambda at: 3 / g * (np.cbrt(1 + g * (at - g / (6 * count))) - 1)
    return mean, mean - spread * back(t), mean - spread * back(-t)


# ------------------------------------------------------------------ paired differences


def tango_bounds(
    only_a: np.ndarray, only_b: np.ndarray, n: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Rate of a minus rate of b over n questions that both answered (Tango 1998).

    Stat. Med. 17, 891: all differences that a score test does not reject, the discordant
    questions having the likeliest probability under each. The bounds stay within -1 and 1, and
    have a width also where the two sides agree on every question.

    Args:
      only_a, only_b, n: questions to which only a, only b said yes, and questions in all; arrays
        of one shape, not necessarily of integers.
    """
    check_level(level)
    z = special.ndtri((1 + level) / 2)
    only_a, only_b, n = (np.asarray(x, np.float64) for x in (only_a, only_b, n))
    return -_tango_high(only_b, only_a, n, z), _tango_high(only_a, only_b, n, z)


def _tango_high(only_a: np.ndarray, only_b: np.ndarray, n: np.ndarray, z: float) -> np.ndarray:
    """The largest difference that is not rejected, by bisection: the statistic falls with it."""
    low = (only_a - only_b) / n
    high = np.ones_like(low)
    for _ in range(50):
        middle = (low + high) / 2
        linear = (2 * n - only_a + only_b) * middle - only_a - only_b
        rest = only_b * middle * (1 - middle)
        # probability of "only b" that is likeliest if the difference is `middle`
        q = (np.sqrt(linear**2 + 8 * n * rest) - linear) / (4 * n)
        variance = np.maximum(n * (2 * q + middle * (1 - middle)), 0)
        kept = n * middle - (only_a - only_b) <= z * np.sqrt(variance)
        low, high = np.where(kept, middle, low), np.where(kept, high, middle)
    return high


def t_interval(
    values: Sequence[float],
    level: float = 0.95,
    step: float = 0.0,
    limits: tuple[float, float] = UNLIMITED,
) -> Interval:
    """The mean of independent values, one per seed, with Student's interval.

    Values that are equal do not show that there is no spread, because they are counted in steps:
    the spread is taken as at least that of values which are equal but for one that is one step
    away. One value has no interval, nor have equal values without a step.

    Args:
      step: by how much a value changes with one answer.
      limits: the bounds are clipped to them.

    Raises:
      ValueError: values that are no numbers or outside the limits, or a negative step.
    """
    check_level(level)
    values = check_values("t_interval", values, limits, step)
    n = len(values)
    if n == 0:
        return no_interval(None, 0, "no seeds")
    mean = float(values.mean())
    if n == 1:
        return no_interval(mean, 1, "one seed")
    spread = max(float(values.std(ddof=1)), step / math.sqrt(n))
    if spread < 1e-12:
        return no_interval(mean, n, f"{n} seeds with equal values")
    half = float(special.stdtrit(n - 1, (1 + level) / 2)) * spread / math.sqrt(n)
    return interval((mean, mean - half, mean + half), n, "t over seeds", limits)


def paired_difference(
    values_a: Sequence[float],
    values_b: Sequence[float],
    level: float = 0.95,
    step: float = 0.0,
    limit: float = 1.0,
) -> Interval:
    """The mean of a - b, both measured with the same seeds in the same order; see `t_interval`.

    Args:
      values_a, values_b: rates, or sums of rates, one per seed.
      limit: the largest possible difference: 1 between two rates, 2 between sums of two.

    Raises:
      ValueError: lists of unequal length, or a difference beyond the limit.
    """
    if len(values_a) != len(values_b):
        raise ValueError(
            f"paired_difference: {len(values_a)} values against {len(values_b)}: a pair is a seed"
        )
    differences = np.asarray(values_a, np.float64) - np.asarray(values_b, np.float64)
    return t_interval(differences, level, step, (-limit, limit)).paired("paired ")


# ------------------------------------------------------------------ checks


def check_values(
    name: str, values: Sequence[float], limits: tuple[float, float], step: float
) -> np.ndarray:
    """The values as float64; ValueError where one is no number or beyond the limits."""
    found = np.asarray(values, np.float64)
    if not (np.isfinite(found) & (found >= limits[0] - 1e-9) & (found <= limits[1] + 1e-9)).all():
        raise ValueError(f"{name}: {list(values)}: a value is beyond {limits[0]:g}..{limits[1]:g}")
    if not 0 <= step < math.inf:
        raise ValueError(f"{name}: step={step}: must not be negative")
    return found


def check_level(level: float) -> None:
    """Raises ValueError unless 0 < level < 1."""
    if not 0 < level < 1:
        raise ValueError(f"level={level}: must lie between 0 and 1")


def _check_counts(name: str, k: int, n: int, level: float) -> None:
    check_level(level)
    if not 0 <= k <= n or k != int(k) or n != int(n):
        raise ValueError(f"{name}: k={k} is not a count within 0..n={n}")
