"""The mean rate over conditions, with an interval that says what it is an estimate of.

The headline of a study is the unweighted mean of the rates of its conditions. Its error bar
depends on its target, by a factor of ten in the paper's figures, so that every interval names it:

    "conditions fixed"     the mean over exactly these conditions: only the sampling of answers
    "conditions a sample"  the mean over all the conditions that these might have been drawn from
    "seeds"                the mean over training runs, these conditions being fixed
    "seeds and conditions" both drawn

Functions take numbers of yes `k` and of decided answers `n`, conditions along the last axis and
seeds along the one before it. Those that end in `_bounds` return arrays (estimate, low, high) over
all further axes, so that their coverage can be tested (docs/evals.md says how often they hold); the
others return an `Interval`, without bounds and with the reason where there is no honest one.
"""

from collections.abc import Sequence

import numpy as np
from scipy import special

from msm_jax.evals.statistics import (
    Bounds,
    Interval,
    bounded_mean_bounds,
    check_values,
    exact,
    exact_bounds,
    interval,
    no_interval,
    skewed_bounds,
    tango_bounds,
)  # fmt: skip

FIXED, SAMPLE = "conditions fixed", "conditions a sample"
SEEDS, BOTH = "seeds", "seeds and conditions"
MANY, APART = 20, 8  # conditions, and those apart from the rest, that Student's interval needs
_ONE = "one condition is no sample of conditions"


# ------------------------------------------------------------------ a rate


def fixed_bounds(k: np.ndarray, n: np.ndarray, level: float = 0.95) -> Bounds:
    """Exact interval with the number of answers that the mean is worth.

    That number is m (1 - m) over the variance of the mean, the sum of the conditions' binomial
    variances over C^2 (Korn and Graubard 1998), and at least C times the fewest answers of a
    condition: conditions that differ make the mean more precise, not less. A condition where all
    answers are alike has the variance of half a yes and half a no more. One condition has the
    exact interval itself.
    """
    k, n = np.asarray(k, np.float64), np.asarray(n, np.float64)
    mean = (k / n).mean(-1)
    variance = _binomial((k + 0.5) / (n + 1), k / n, n)
    return (mean, *exact_bounds(mean, _worth(mean * (1 - mean), variance, n), level))


def drawn_bounds(values: np.ndarray, limits: tuple[float, float], level: float = 0.95) -> Bounds:
    """Mean of the distribution, within limits, that values [..., C] were drawn from; C >= 2.

    The values are rates of conditions, or differences of such, and contain the sampling of
    answers. Student's interval corrected for skewness, where there are MANY values and APART of
    them differ from the median. Otherwise they may miss what is rare: `bounded_mean_bounds`,
    which assumes nothing of the distribution.
    """
    near_normal = _near_normal(values)
    if near_normal.all():
        mean, low, high = skewed_bounds(values, level)
        return mean, np.clip(low, *limits), np.clip(high, *limits)
    if not near_normal.any():
        return bounded_mean_bounds(values, np.ones(values.shape[-1]), limits, level)
    found = np.empty((3, *near_normal.shape))
    for some in (near_normal, ~near_normal):
        found[:, some] = drawn_bounds(values[some], limits, level)
    return found[0], found[1], found[2]


def _near_normal(values: np.ndarray) -> np.ndarray:
    apart = np.abs(values - np.median(values, -1, keepdims=True)) > 1e-12
    return (values.shape[-1] >= MANY) & (apart.sum(-1) >= APART)


def seeds_bounds(k: np.ndarray, n: np.ndarray, level: float = 0.95) -> Bounds:
    """Mean over training runs of their means over the conditions; k and n are [..., seeds, C]."""
    k, n = np.asarray(k, np.float64), np.asarray(n, np.float64)
    step = 1 / (n.shape[-1] * n.min((-2, -1)))
    return seed_rates_bounds((k / n).mean(-1), step, level)


def seed_rates_bounds(rates: np.ndarray, step: np.ndarray, level: float = 0.95) -> Bounds:
    """Mean over training runs whose rates [..., seeds] move by `step` with one answer.

    Exact interval with the number of answers that the mean is worth by the spread between seeds,
    times (z / t)^2 for the few degrees of freedom (Korn and Graubard 1998). The spread is at
    least that of seeds which agree but for one that has one answer otherwise, and S seeds are
    worth S answers or more. Student's interval would leave 0 to 1, and held in 88 to 91 % near
    either.
    """
    rates = np.asarray(rates, np.float64)
    count, mean = rates.shape[-1], rates.mean(-1)
    least = np.asarray(step, np.float64) / np.sqrt(count)
    variance = np.maximum(rates.std(-1, ddof=1), least) ** 2 / count
    off = np.clip(mean, step / count, 1 - step / count)  # as if one answer were otherwise
    few = (special.ndtri((1 + level) / 2) / special.stdtrit(count - 1, (1 + level) / 2)) ** 2
    worth = np.maximum(few * off * (1 - off) / variance, count)
    return (mean, *exact_bounds(mean, worth, level))


def seeds_and_conditions_bounds(k: np.ndarray, n: np.ndarray, level: float = 0.95) -> Bounds:
    """Mean over seeds and conditions crossed, both drawn; k and n are [..., seeds, C].

    The squared distances to the bounds over seeds and over conditions are added (Zou and Donner
    2008, Stat. Med. 27, 1693). Both hold the sampling of answers, which makes it conservative.
    """
    rates = np.asarray(k, np.float64) / n
    mean, low, high = drawn_bounds(rates.mean(-2), (0.0, 1.0), level)
    _, seeds_low, seeds_high = seeds_bounds(k, n, level)
    return (
        mean,
        np.maximum(mean - np.hypot(mean - low, mean - seeds_low), 0),
        np.minimum(mean + np.hypot(high - mean, seeds_high - mean), 1),
    )


# ------------------------------------------------------------------ a difference


def difference_bounds(
    k_a: np.ndarray, n_a: np.ndarray, k_b: np.ndarray, n_b: np.ndarray, level: float = 0.95
) -> Bounds:
    """Mean of a minus mean of b over the same fixed conditions, answers independent.

    Each side's distances to its bounds are added in squares (Newcombe 1998, Stat. Med. 17, 873,
    method 10).
    """
    mean_a, low_a, high_a = fixed_bounds(k_a, n_a, level)
    mean_b, low_b, high_b = fixed_bounds(k_b, n_b, level)
    mean = mean_a - mean_b
    low = mean - np.hypot(mean_a - low_a, high_b - mean_b)
    high = mean + np.hypot(high_a - mean_a, mean_b - low_b)
    return mean, np.maximum(low, -1), np.minimum(high, 1)


def paired_bounds(
    only_a: np.ndarray, only_b: np.ndarray, n: np.ndarray, level: float = 0.95
) -> Bounds:
    """Mean of a minus mean of b over fixed conditions where the answers are pairs.

    Tango's interval with the number of pairs that the mean is worth, which is found as in
    `fixed_bounds`. One condition has Tango's interval itself.

    Args:
      only_a, only_b: [..., C]: pairs of each condition in which only a, only b said yes.
      n: [..., C]: pairs of each condition.
    """
    a, b, n = (np.asarray(x, np.float64) for x in (only_a, only_b, n))
    up, down = (a / n).mean(-1), (b / n).mean(-1)
    mean = up - down
    spread = lambda a, b, n: (a + b - (a - b) ** 2 / n) / n
    of_each = np.maximum(spread(a, b, n), spread(a + 0.5, b + 0.5, n + 1.5)) / n
    worth = _worth(up + down - mean**2, of_each, n)
    low, high = tango_bounds(up * worth, down * worth, worth, level)
    return mean, np.minimum(low, mean), np.maximum(high, mean)


# ------------------------------------------------------------------ as intervals


def mean_rate(k: Sequence[int], n: Sequence[int], target: str, level: float = 0.95) -> Interval:
    """The mean of the conditions' rates, as an estimate of `target`: FIXED or SAMPLE.

    Without a single decided answer in some condition there is no mean over all: None.

    Raises:
      ValueError: lists of unequal length, k outside 0..n, or another target.
    """
    if target not in (FIXED, SAMPLE):
        raise ValueError(f"target={target!r}: {FIXED!r} or {SAMPLE!r}")
    k_C, n_C = _counts(k, n)
    total, count = int(n_C.sum()), len(k_C)
    if not count or not n_C.all():
        reason = f"{(n_C == 0).sum()} of {count} conditions have no verdicts"
        return no_interval(None, total, reason if count else "no conditions")
    if target == FIXED:
        return interval(fixed_bounds(k_C, n_C, level), total, f"{FIXED}: exact, effective n")
    return _drawn(k_C / n_C, (0.0, 1.0), total, "", "", level)


def mean_over_seeds(
    k: Sequence[Sequence[int]], n: Sequence[Sequence[int]], target: str, level: float = 0.95
) -> Interval:
    """The mean over training runs and conditions; `target` is SEEDS or BOTH.

    Both arguments are [seeds][conditions].
    """
    if target not in (SEEDS, BOTH):
        raise ValueError(f"target={target!r}: {SEEDS!r} or {BOTH!r}")
    k_SC, n_SC = _counts(k, n)
    seeds = len(k_SC)
    if not k_SC.size or not n_SC.all():
        reason = f"{(n_SC == 0).sum()} conditions of a seed have no verdicts"
        return no_interval(None, seeds, reason if k_SC.size else "no seeds or no conditions")
    mean = float((k_SC / n_SC).mean())
    if seeds < 2:
        return no_interval(mean, seeds, "one seed")
    if target == SEEDS:
        return interval(seeds_bounds(k_SC, n_SC, level), seeds, f"{SEEDS}: exact, effective n")
    if k_SC.shape[1] < 2:
        return no_interval(mean, seeds, _ONE)
    bounds = seeds_and_conditions_bounds(k_SC, n_SC, level)
    return interval(bounds, seeds, f"{BOTH}: squared distances")


def rate_over_seeds(rates: Sequence[float], step: float, level: float = 0.95) -> Interval:
    """The mean of rates, one per training run, each of which moves by `step` with one answer.

    Raises:
      ValueError: a rate outside 0..1, or a step that is not above 0.
    """
    found = check_values("rate_over_seeds", rates, (0.0, 1.0), step)
    if not step > 0:
        raise ValueError(f"rate_over_seeds: step={step}: must be above 0")
    if not len(found):
        return no_interval(None, 0, "no seeds")
    if len(found) == 1:
        return no_interval(float(found[0]), 1, "one seed")
    bounds = seed_rates_bounds(found, np.asarray(step), level)
    return interval(bounds, len(found), f"{SEEDS}: exact, effective n")


def differences(
    yes_a: Sequence[Sequence[bool | None]],
    yes_b: Sequence[Sequence[bool | None]],
    common_numbers: bool,
    level: float = 0.95,
    names: Sequence[str] = (),
) -> list[Interval]:
    """Checkpoint a minus checkpoint b, in all the ways that the verdicts allow.

    A pair without both verdicts, and a condition without a verdict on one side, are left out, and
    `method` says how many.

    Args:
      yes_a, yes_b: verdicts per condition and sample; None where there is none.
      common_numbers: sample i of a condition was drawn with the same random numbers on both
        sides, so that it is a pair.
      names: of the conditions, for those that are left out.

    Returns:
      Conditions fixed (independent; with common numbers also paired by sample) and conditions a
      sample; or one interval that says that no condition has verdicts on both sides.

    Raises:
      ValueError: not the same number of conditions.
    """
    if len(yes_a) != len(yes_b):
        raise ValueError(f"differences: {len(yes_a)} conditions against {len(yes_b)}")
    (k_a, n_a), (k_b, n_b) = _decided(yes_a), _decided(yes_b)
    kept = (n_a > 0) & (n_b > 0)
    if not kept.any():
        return [no_interval(None, 0, "no condition has verdicts on both sides")]
    left = _left_out(kept, names, "conditions without verdicts on both sides")
    total = int((n_a + n_b)[kept].sum())
    bounds = difference_bounds(k_a[kept], n_a[kept], k_b[kept], n_b[kept], level)
    found = [interval(bounds, total, f"{FIXED}: independent samples, newcombe{left}")]
    if common_numbers:
        found.append(_paired(yes_a, yes_b, names, level))
    drawn = k_a[kept] / n_a[kept] - k_b[kept] / n_b[kept]
    return [*found, _drawn(drawn, (-1.0, 1.0), int(kept.sum()), "paired, ", left, level)]


def _drawn(values, limits, n, how, left, level):
    """The mean of values [C] of conditions that are a sample of others."""
    if len(values) < 2:
        return no_interval(float(values.mean()), n, f"{_ONE}{left}")
    name = "skewness-corrected t" if _near_normal(values) else "bootstrap of conditions"
    return interval(drawn_bounds(values, limits, level), n, f"{SAMPLE}: {how}{name}{left}")


def _paired(yes_a, yes_b, names, level):
    """The difference over the pairs that have both verdicts."""
    counts = []
    for row_a, row_b in zip(yes_a, yes_b, strict=True):
        pairs = [(a, b) for a, b in zip(row_a, row_b, strict=False) if None not in (a, b)]
        only_a = sum(bool(a) and not b for a, b in pairs)
        only_b = sum(bool(b) and not a for a, b in pairs)
        counts.append((only_a, only_b, len(pairs), max(len(row_a), len(row_b)) - len(pairs)))
    only_a, only_b, n, lost = np.asarray(counts).T
    kept = n > 0
    if not kept.any():
        return no_interval(None, 0, "no pair has both verdicts")
    left = _left_out(kept, names, "conditions without a pair")
    if lost.any():
        left = f"; {lost.sum()} of {(n + lost).sum()} pairs without both verdicts left out{left}"
    bounds = paired_bounds(only_a[kept], only_b[kept], n[kept], level)
    return interval(bounds, int(n.sum()), f"{FIXED}: paired by sample, tango{left}")


def missing_bounds(k: int, n: int, missing: int, level: float = 0.95) -> dict:
    """A rate where `missing` of n + missing answers have no verdict: whatever they would be.

    Returns:
      {"low", "high"}: the rate if all of them were no, and if all were yes; "ci_low" and "ci_high":
      the exact lower bound of the one and upper bound of the other (Horowitz & Manski 2000). Each
      is None without answers.

    Raises:
      ValueError: negative numbers, or k > n.
    """
    if missing < 0:
        raise ValueError(f"missing={missing}: must not be negative")
    low, high = exact(k, n + missing, level), exact(k + missing, n + missing, level)
    outer = {"ci_low": low.ci_low, "ci_high": high.ci_high}
    return {"low": low.estimate, "high": high.estimate, **outer}


# ------------------------------------------------------------------ parts


def _binomial(smoothed, rates, n):
    """Variance that sampling n answers gives each rate; not 0 where all are alike."""
    return np.maximum(smoothed * (1 - smoothed), rates * (1 - rates)) / n


def _worth(of_one, variances, n):
    """How many answers the mean over conditions is worth, one answer having the variance given."""
    count = n.shape[-1]
    return np.maximum(of_one * count**2 / variances.sum(-1), count * n.min(-1))


def _left_out(kept, names, what):
    """ "; 1 of 27 conditions without verdicts left out (name)", or nothing."""
    if kept.all():
        return ""
    lost = [name for name, keep in zip(names, kept, strict=True) if not keep] if names else []
    said = f" ({', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''})" if lost else ""
    return f"; {(~kept).sum()} of {len(kept)} {what} left out{said}"


def _counts(k, n):
    try:
        k, n = np.asarray(k, np.float64), np.asarray(n, np.float64)
    except ValueError as error:
        raise ValueError("k and n: every seed must have the same number of conditions") from error
    if k.shape != n.shape or not ((k >= 0) & (k <= n) & (n < 2**53)).all():
        raise ValueError(f"k of shape {k.shape} must lie within 0..n of shape {n.shape}")
    if (k % 1).any() or (n % 1).any():
        raise ValueError("k and n are counts of answers: they must be whole numbers")
    return k.astype(np.int64), n.astype(np.int64)


def _decided(yes):
    known = [[v for v in row if v is not None] for row in yes]
    return np.asarray([sum(map(bool, row)) for row in known]), np.asarray(list(map(len, known)))
