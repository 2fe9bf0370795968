"""The mean rate over conditions, and what it is an estimate of.

The headline of a study is the unweighted mean of the rates of its conditions. Its error bar
depends on what is meant by it, by a factor of ten in the paper's figures, so that every interval
names its target:

    "conditions fixed"     the mean over exactly these conditions: only the sampling of answers
    "conditions a sample"  the mean over all the conditions that these might have been drawn from
    "seeds"                the mean over training runs, these conditions being fixed
    "seeds and conditions" both drawn

Every function takes numbers of yes `k` and of decided answers `n`, conditions along the last axis
and, for seeds, seeds along the one before it. Functions that end in `_bounds` return arrays
(estimate, low, high) over all further axes, which is how their coverage is tested; the others
return an `Interval`. How often they hold: docs/evals.md.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence

import numpy as np

from msm_jax.evals.statistics import Interval, cluster_bootstrap, score_bounds, wilson

FIXED, SAMPLE = "conditions fixed", "conditions a sample"
SEEDS, BOTH = "seeds", "seeds and conditions"

Bounds = tuple[np.ndarray, np.ndarray, np.ndarray]


def fixed_bounds(k: np.ndarray, n: np.ndarray, level: float = 0.95) -> Bounds:
    """Stratified score interval: Wilson's with the number of answers that the mean is worth.

    The variance of the mean is the sum of the conditions' binomial variances over C^2 (unbiased:
    n - 1); m (1 - m) over it is the effective number of answers (Kish 1965; Korn & Graubard
    1998). Where every condition is at 0 or 1 it is the harmonic number of answers.
    """
    mean, variance = _mean_and_variance(k, n)
    count = np.shape(k)[-1]
    pooled = count**2 / np.sum(1 / np.asarray(n, np.float64), axis=-1)
    worth = _effective(mean, variance, pooled)
    return (mean, *score_bounds(mean, worth, _normal(level)))


def sample_bounds(k: np.ndarray, n: np.ndarray, level: float = 0.95) -> Bounds:
    """From the spread of the conditions' rates, which contains the sampling of answers.

    Student's interval corrected for skewness (`_skewed_bounds`). Without spread the mean is worth
    one answer per condition, as in `cluster_bootstrap`. Needs two conditions or more.
    """
    rates = np.asarray(k, np.float64) / n
    count = rates.shape[-1]
    mean, low, high = _skewed_bounds(rates, level)
    flat = rates.max(-1) == rates.min(-1)
    one_each = score_bounds(mean, np.full(np.shape(mean), float(count)), _student(level, count - 1))
    low, high = np.where(flat, one_each[0], low), np.where(flat, one_each[1], high)
    return mean, np.clip(low, 0, 1), np.clip(high, 0, 1)


def difference_bounds(
    k_a: np.ndarray, n_a: np.ndarray, k_b: np.ndarray, n_b: np.ndarray, level: float = 0.95
) -> Bounds:
    """Mean of a minus mean of b over the same fixed conditions, answers independent.

    Each side's distances to its bounds are added in squares (Newcombe 1998, method 10; "MOVER").
    """
    return _subtracted(fixed_bounds(k_a, n_a, level), fixed_bounds(k_b, n_b, level), 0.0)


def common_numbers_bounds(yes_a: np.ndarray, yes_b: np.ndarray, level: float = 0.95) -> Bounds:
    """Mean of a minus mean of b over fixed conditions where sample i of a pairs with sample i of b.

    As `difference_bounds`, with the correlation of the two means taken out (Newcombe 1998, paired
    method 10, over strata).

    Args:
      yes_a, yes_b: bool[..., C, n]: the verdicts of the pairs, conditions before samples.
      level: of the interval.
    """
    yes_a, yes_b = np.asarray(yes_a, np.float64), np.asarray(yes_b, np.float64)
    n = yes_a.shape[-1]
    k_a, k_b = yes_a.sum(-1), yes_b.sum(-1)
    together = (yes_a * yes_b).mean(-1) - yes_a.mean(-1) * yes_b.mean(-1)
    covariance = together.sum(-1) / (n - 1) / yes_a.shape[-2] ** 2
    (_, variance_a), (_, variance_b) = _mean_and_variance(k_a, n), _mean_and_variance(k_b, n)
    product = np.sqrt(variance_a * variance_b)
    correlation = np.divide(covariance, product, out=np.zeros_like(product), where=product > 0)
    return _subtracted(
        fixed_bounds(k_a, np.full(k_a.shape, n), level),
        fixed_bounds(k_b, np.full(k_b.shape, n), level),
        np.clip(correlation, -1, 1),
    )


def difference_sample_bounds(
    rates_a: np.ndarray, rates_b: np.ndarray, level: float = 0.95
) -> Bounds:
    """Mean difference of the rates of the same conditions, these being a sample.

    Student's interval of the differences, corrected for skewness (`_skewed_bounds`).
    """
    return _skewed_bounds(np.asarray(rates_a, np.float64) - rates_b, level)


def seeds_bounds(k: np.ndarray, n: np.ndarray, level: float = 0.95) -> Bounds:
    """Mean over training runs: Student's over the seeds' means; k and n are [..., seeds, C]."""
    means = (np.asarray(k, np.float64) / n).mean(-1)
    count = means.shape[-1]
    mean = means.mean(-1)
    half = _student(level, count - 1) * means.std(-1, ddof=1) / math.sqrt(count)
    return mean, mean - half, mean + half


def seeds_and_conditions_bounds(k: np.ndarray, n: np.ndarray, level: float = 0.95) -> Bounds:
    """Score interval for seeds and conditions crossed, both drawn; k and n are [..., seeds, C].

    The variance is that of the seeds' means plus that of the conditions' means less what both
    hold of the rest (two-way random effects), its degrees of freedom by Satterthwaite (1946).
    """
    rates = np.asarray(k, np.float64) / n
    seeds, count = rates.shape[-2:]
    of_seed, of_condition = rates.mean(-1), rates.mean(-2)
    mean = of_seed.mean(-1)
    rest = rates - of_seed[..., None] - of_condition[..., None, :] + mean[..., None, None]
    part_rest = (rest**2).sum((-1, -2)) / ((seeds - 1) * (count - 1)) / (seeds * count)
    part_seed = of_seed.var(-1, ddof=1) / seeds
    part_condition = of_condition.var(-1, ddof=1) / count
    variance = np.maximum(
        part_seed + part_condition - part_rest, np.maximum(part_seed, part_condition)
    )
    terms = part_seed**2 / (seeds - 1) + part_condition**2 / (count - 1)
    freedom = np.divide(variance**2, terms, out=np.full_like(terms, seeds - 1.0), where=terms > 0)
    worth = _effective(mean, variance, np.float64(min(seeds, count)))
    return (mean, *score_bounds(mean, worth, _student(level, np.maximum(freedom, seeds - 1))))


# ------------------------------------------------------------------ as intervals


def mean_rate(k: Sequence[int], n: Sequence[int], target: str, level: float = 0.95) -> Interval:
    """The mean of the conditions' rates, as an estimate of `target`: FIXED or SAMPLE.

    Without a single decided answer in some condition there is no mean over all: None.

    Raises:
      ValueError: lists of unequal length, k outside 0..n, or another target.
    """
    methods = {
        FIXED: ("stratified wilson", fixed_bounds),
        SAMPLE: ("skewness-corrected t", sample_bounds),
    }
    if target not in methods:
        raise ValueError(f"target={target!r}: one of {sorted(methods)}")
    method, bounds = methods[target]
    k_C, n_C = _counts(k, n)
    total = int(n_C.sum())
    if not len(k_C) or not n_C.all():
        return Interval(None, None, None, total, f"{target}: {method}")
    if target == FIXED and (n_C < 2).any():
        found = wilson(int(k_C.sum()), total, level) if (n_C == 1).all() else None
        mean = float((k_C / n_C).mean())
        low, high = (found.ci_low, found.ci_high) if found else (None, None)
        return Interval(mean, low, high, total, f"{target}: wilson")
    if target == SAMPLE and len(k_C) < 2:
        return Interval(float((k_C / n_C).mean()), None, None, total, f"{target}: {method}")
    return _interval(bounds(k_C, n_C, level), total, f"{target}: {method}")


def mean_over_seeds(
    k: Sequence[Sequence[int]], n: Sequence[Sequence[int]], target: str, level: float = 0.95
) -> Interval:
    """The mean over training runs and conditions; `target` is SEEDS or BOTH.

    One seed has no bounds. Both arguments are [seeds][conditions].
    """
    methods = {SEEDS: seeds_bounds, BOTH: seeds_and_conditions_bounds}
    if target not in methods:
        raise ValueError(f"target={target!r}: one of {sorted(methods)}")
    k_SC, n_SC = _counts(k, n)
    if not k_SC.size or not n_SC.all():
        return Interval(None, None, None, len(k_SC), f"{target}: t")
    if len(k_SC) < 2:
        return Interval(float((k_SC / n_SC).mean()), None, None, len(k_SC), f"{target}: t")
    return _interval(methods[target](k_SC, n_SC, level), len(k_SC), f"{target}: t")


def differences(
    yes_a: Sequence[Sequence[bool | None]],
    yes_b: Sequence[Sequence[bool | None]],
    common_numbers: bool,
    level: float = 0.95,
) -> list[Interval]:
    """Checkpoint a minus checkpoint b, in all the ways that the verdicts allow.

    Args:
      yes_a, yes_b: verdicts per condition and sample; None where there is none.
      common_numbers: sample i of a condition was drawn with the same random numbers on both
        sides, so that it is a pair; pairs without both verdicts are left out of that interval.
      level: of the intervals.

    Returns:
      Conditions fixed (independent; and paired by sample under common numbers), conditions a
      sample (Student's, corrected for skewness, and a bootstrap of whole conditions). Empty where
      a condition has no verdict on one side.

    Raises:
      ValueError: not the same number of conditions.
    """
    if len(yes_a) != len(yes_b):
        raise ValueError(f"differences: {len(yes_a)} conditions against {len(yes_b)}")
    (k_a, n_a), (k_b, n_b) = _decided(yes_a), _decided(yes_b)
    if not len(k_a) or not n_a.all() or not n_b.all():
        return []
    total = int(n_a.sum() + n_b.sum())
    found = []
    if (n_a > 1).all() and (n_b > 1).all():
        bounds = difference_bounds(k_a, n_a, k_b, n_b, level)
        found.append(_interval(bounds, total, f"{FIXED}: independent samples, newcombe"))
    if common_numbers and (paired := _paired(yes_a, yes_b)) is not None:
        bounds = common_numbers_bounds(paired[0], paired[1], level)
        found.append(_interval(bounds, paired[0].size, f"{FIXED}: paired by sample, newcombe"))
    if len(k_a) > 1:
        rates_a, rates_b = k_a / n_a, k_b / n_b
        bounds = difference_sample_bounds(rates_a, rates_b, level)
        found.append(_interval(bounds, len(k_a), f"{SAMPLE}: paired, skewness-corrected t"))
        drawn = cluster_bootstrap(rates_a - rates_b, range(len(k_a)), level)
        found.append(dataclasses.replace(drawn, method=f"{SAMPLE}: {drawn.method}"))
    return found


def missing_bounds(k: int, n: int, missing: int, level: float = 0.95) -> dict:
    """A rate where `missing` of n + missing answers have no verdict: whatever they would be.

    Returns:
      {"low", "high"}: the rate if all of them were no, and if all were yes; {"ci_low",
      "ci_high"}: Wilson's lower bound of the one and upper bound of the other (Horowitz & Manski
      2000). None where there are no answers.

    Raises:
      ValueError: negative numbers, or k > n.
    """
    if missing < 0:
        raise ValueError(f"missing={missing}: must not be negative")
    low, high = wilson(k, n + missing, level), wilson(k + missing, n + missing, level)
    return {
        "low": low.estimate,
        "high": high.estimate,
        "ci_low": low.ci_low,
        "ci_high": high.ci_high,
    }


# ------------------------------------------------------------------ parts


def _skewed_bounds(values: np.ndarray, level: float) -> Bounds:
    """Student's interval of the mean of values [..., C], made for skewed ones by Hall's cubic.

    With w = (mean - truth) / s and g the values' skewness, w + g w^2 / 3 + g^2 w^3 / 27 + g / 6C
    is free of the skewness to first order (Hall 1992, J. R. Stat. Soc. B 54, 221); its bounds are
    turned back into those of the mean. Harm that few conditions are full of is skewed: without
    the correction 95 % intervals held in 86 to 90 % of studies.
    """
    count = values.shape[-1]
    mean, spread = values.mean(-1), values.std(-1, ddof=1)
    safe = np.where(spread > 0, spread, 1.0)
    skewness = ((values - mean[..., None]) ** 3).mean(-1) / safe**3
    g = np.where(np.abs(skewness) < 1e-6, 1e-6, skewness)
    t = _student(level, count - 1) / math.sqrt(count)
    back = lambda at: 3 / g * (np.cbrt(1 + g * (at - g / (6 * count))) - 1)
    return mean, mean - spread * back(t), mean - spread * back(-t)


def _mean_and_variance(k, n):
    """Mean of the rates, and the variance that sampling the answers gives it."""
    k, n = np.asarray(k, np.float64), np.asarray(n, np.float64)
    rates = k / n
    of_each = rates * (1 - rates) / np.maximum(n - 1, 1)
    return rates.mean(-1), of_each.sum(-1) / rates.shape[-1] ** 2


def _effective(mean, variance, otherwise):
    """How many independent answers a mean is worth; `otherwise` where it shows no variance."""
    otherwise = np.broadcast_to(otherwise, np.shape(mean)).astype(np.float64)
    return np.divide(mean * (1 - mean), variance, out=otherwise.copy(), where=variance > 0)


def _subtracted(a: Bounds, b: Bounds, correlation) -> Bounds:
    mean = a[0] - b[0]

    def distance(of_a, of_b):
        return np.sqrt(np.maximum(of_a**2 - 2 * correlation * of_a * of_b + of_b**2, 0))

    low, high = distance(a[0] - a[1], b[2] - b[0]), distance(a[2] - a[0], b[0] - b[1])
    return mean, mean - low, mean + high


def _counts(k, n):
    k, n = np.asarray(k, np.int64), np.asarray(n, np.int64)
    if k.shape != n.shape or (k < 0).any() or (k > n).any():
        raise ValueError(f"k of shape {k.shape} must lie within 0..n of shape {n.shape}")
    return k, n


def _decided(yes):
    known = [[v for v in row if v is not None] for row in yes]
    return np.asarray([sum(map(bool, row)) for row in known]), np.asarray(list(map(len, known)))


def _paired(yes_a, yes_b):
    """The verdicts as two arrays [C, n], or None if some sample lacks one or n < 2."""
    if len({len(row) for row in [*yes_a, *yes_b]}) != 1 or len(yes_a[0]) < 2:
        return None
    if any(v is None for row in [*yes_a, *yes_b] for v in row):
        return None
    return np.asarray(yes_a, bool), np.asarray(yes_b, bool)


def _interval(bounds: Bounds, n: int, method: str) -> Interval:
    estimate, low, high = (float(value) for value in bounds)
    return Interval(estimate, low, high, n, method)


def _normal(level):
    if not 0 < level < 1:
        raise ValueError(f"level={level}: must lie between 0 and 1")
    return statistics.NormalDist().inv_cdf((1 + level) / 2)


def _student(level, freedom):
    _normal(level)
    from scipy import stats  # slow to import, and only this needs it

    return stats.t.ppf((1 + level) / 2, freedom)
