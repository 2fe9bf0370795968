"""What must be so of every interval, tried on random tables, on the extremes among them."""

import json

import numpy as np
import pytest

from msm_jax.evals import mean_rates as m
from msm_jax.evals import statistics as s
from msm_jax.evals.statistics import Interval

TABLES = 60


def counts(rng, shape, most=12):
    """Numbers of yes and of answers; a third of the tables have nothing but yes, or but no."""
    n = rng.integers(1, most, shape)
    kind = rng.integers(6)
    return (n if kind == 0 else 0 * n if kind == 1 else rng.binomial(n, rng.random())), n


def verdicts(rng, shape, lost):
    yes = rng.random(shape) < rng.choice([0, 0.1, 0.5, 1])
    return np.where(rng.random(shape) < lost, None, yes).tolist()


def rates(rng):
    """Each kind of rate: (name, interval, interval of the same with yes and no changed)."""
    k, n = counts(rng, ())
    yield "exact", s.exact(int(k), int(n)), s.exact(int(n - k), int(n))
    yield "wilson", s.wilson(int(k), int(n)), s.wilson(int(n - k), int(n))
    size = rng.integers(1, 40)
    values = rng.random(size) < rng.choice([0, 0.2, 1]) if rng.random() < 0.7 else rng.random(size)
    clusters = rng.integers(0, rng.integers(1, 25), size)
    turned = 1 - np.asarray(values, float)
    yield "clusters", s.cluster_bootstrap(values, clusters), s.cluster_bootstrap(turned, clusters)
    k, n = counts(rng, rng.integers(1, 30))
    for target in (m.FIXED, m.SAMPLE):
        yield target, m.mean_rate(k, n, target), m.mean_rate(n - k, n, target)
    k, n = counts(rng, (rng.integers(1, 6), rng.integers(1, 25)))
    for target in (m.SEEDS, m.BOTH):
        yield target, m.mean_over_seeds(k, n, target), m.mean_over_seeds(n - k, n, target)


def differences(rng):
    """Each kind of difference: (name, interval, interval of the same with the arms changed)."""
    shape, lost = (rng.integers(1, 28), rng.integers(1, 12)), rng.choice([0, 0.1, 0.6])
    a, b = verdicts(rng, shape, lost), verdicts(rng, shape, lost)
    b = a if rng.random() < 0.2 else b
    for one, other in zip(m.differences(a, b, True), m.differences(b, a, True), strict=True):
        yield one.method, one, other
    x, y = (rng.integers(0, 21, rng.integers(1, 6)) / 20 for _ in range(2))
    y = np.resize(y, x.shape)
    yield "seeds", s.paired_difference(x, y, step=0.05), s.paired_difference(y, x, step=0.05)


def check(name: str, found: Interval, turned: Interval, least: float, most: float) -> None:
    json.dumps(found.as_dict(), allow_nan=False)
    assert found.method
    assert (
        (found.ci_low is None)
        == (found.ci_high is None)
        == found.method.startswith("no interval: ")
    ), found
    assert (found.method == turned.method) and (found.n == turned.n)
    if found.estimate is None:
        assert found.ci_low is None
        return
    assert found.estimate == pytest.approx(least + most - turned.estimate)
    if found.ci_low is None:
        return
    assert least <= found.ci_low <= found.estimate <= found.ci_high <= most, found
    assert found.ci_high - found.ci_low > 1e-3, found
    mirrored = (least + most - turned.ci_high, least + most - turned.ci_low)
    assert (found.ci_low, found.ci_high) == pytest.approx(mirrored, abs=1e-6), name


@pytest.mark.parametrize("seed", range(TABLES))
def test_bounds_hold_the_estimate_stay_in_range_have_a_width_and_mirror(seed):
    rng = np.random.default_rng(seed)
    for case in rates(rng):
        check(*case, 0.0, 1.0)
    for case in differences(rng):
        check(*case, -1.0, 1.0)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_more_answers_make_every_interval_narrower(rate):
    """Of the same rate, and of the same difference, with four times the answers."""
    widths: dict[str, list[float]] = {}
    for times in (1, 4, 16, 64):
        n, k = 10 * times, round(10 * rate) * times
        yes = np.arange(n) < k
        other = np.arange(n) < round(k / 2)
        conditions = np.resize([n, n - n // 5, n - n // 10], 6 * times)
        found = {
            "exact": s.exact(k, n),
            "wilson": s.wilson(k, n),
            "clusters": s.cluster_bootstrap(np.repeat(yes, 2), np.repeat(range(n), 2)),
            "fixed": m.mean_rate([k] * 3, [n] * 3, m.FIXED),
            "drawn": m.mean_rate(np.minimum(conditions, k), np.full(6 * times, n), m.SAMPLE),
            "seeds": m.rate_over_seeds([k / n] * (2 * times), 1 / n),
            "contrast": s.paired_difference([rate] * 2 * times, [0.5] * 2 * times, step=1 / n),
            "independent": m.differences([yes], [other], False)[0],
            "paired": m.differences([yes], [other], True)[1],
            "paired, drawn": m.differences([yes] * 3 * times, [other] * 3 * times, True)[2],
        }
        for name, one in found.items():
            widths.setdefault(name, []).append(one.ci_high - one.ci_low)
    for name, each in widths.items():
        assert all(np.diff(each) < 0), (name, each)


def test_a_higher_level_is_wider():
    rng = np.random.default_rng(0)
    k, n = rng.integers(0, 9, (3, 24)), np.full((3, 24), 10)
    for level_of in (
        lambda level: s.exact(3, 9, level),
        lambda level: s.wilson(3, 9, level),
        lambda level: s.cluster_bootstrap(k[0] / 10, range(24), level),
        lambda level: s.t_interval([0.1, 0.3], level),
        lambda level: m.mean_rate(k[0], n[0], m.FIXED, level),
        lambda level: m.mean_rate(k[0], n[0], m.SAMPLE, level),
        lambda level: m.mean_over_seeds(k, n, m.SEEDS, level),
        lambda level: m.mean_over_seeds(k, n, m.BOTH, level),
        lambda level: m.differences(k > 4, k[::-1] > 5, True, level)[0],
        lambda level: m.differences(k > 4, k[::-1] > 5, True, level)[1],
        lambda level: m.differences(k > 4, k[::-1] > 5, True, level)[2],
    ):
        found = [level_of(level) for level in (0.5, 0.8, 0.95, 0.999)]
        assert all(np.diff([one.ci_high - one.ci_low for one in found]) > 0)
        for level in (0, 1, 1.5, -1):
            with pytest.raises(ValueError, match="level"):
                level_of(level)
