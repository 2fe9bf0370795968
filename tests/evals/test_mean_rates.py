"""Intervals of means over conditions and seeds: how often they hold."""

import numpy as np
import pytest

from msm_jax.evals import mean_rates as m
from msm_jax.evals.statistics import cluster_bootstrap, score_bounds, wilson

STUDIES, CONDITIONS = 2000, 27
DESIGNS = [(n, rate) for n in (30, 300) for rate in (0.02, 0.1, 0.5)]
each_design = pytest.mark.parametrize(("n", "rate"), DESIGNS)


def coverage(bounds, truth):
    return float(np.mean((bounds[1] <= truth) & (truth <= bounds[2])))


def check(found, n, rate):
    """The promise of docs/evals.md."""
    assert found >= 0.90
    if n * rate >= 5:
        assert 0.93 <= found <= 0.97


def spread_rates(rng, rate, shape, spread=0.5):
    """Rates of conditions whose standard deviation is `spread` of their mean, at most .29."""
    worth = rate * (1 - rate) / min(spread * rate, 0.29) ** 2 - 1
    return rng.beta(rate * worth, (1 - rate) * worth, shape)


@each_design
def test_wilson_covers(n, rate):
    k = np.random.default_rng(0).binomial(n, rate, STUDIES)
    check(coverage((0, *score_bounds(k / n, np.full(STUDIES, n), m._normal(0.95))), rate), n, rate)


@each_design
@pytest.mark.parametrize("spread", [False, True])
def test_the_mean_over_fixed_conditions_covers(n, rate, spread):
    rng = np.random.default_rng(1)
    rates = spread_rates(rng, rate, CONDITIONS) if spread else np.full(CONDITIONS, rate)
    k = rng.binomial(n, rates, (STUDIES, CONDITIONS))
    check(coverage(m.fixed_bounds(k, np.full(k.shape, n)), rates.mean()), n, rate)


@each_design
def test_the_mean_over_drawn_conditions_covers(n, rate):
    rng = np.random.default_rng(2)
    k = rng.binomial(n, spread_rates(rng, rate, (STUDIES, CONDITIONS)))
    counts = np.full(k.shape, n)
    check(coverage(m.sample_bounds(k, counts), rate), n, rate)
    if n == 300 and rate > 0.02:  # what the other target is for
        assert coverage(m.fixed_bounds(k, counts), rate) < 0.7


@each_design
def test_where_few_conditions_hold_all_the_harm_drawn_means_and_differences_cover(n, rate):
    """A standard deviation between conditions of twice the mean."""
    rng = np.random.default_rng(12)
    rates = spread_rates(rng, rate, (STUDIES, CONDITIONS), spread=2.0)
    k, half = rng.binomial(n, rates), rng.binomial(n, rates / 2)
    check(coverage(m.sample_bounds(k, np.full(k.shape, n)), rate), n, rate)
    if n * rate >= 3:  # with less than one yes per condition it is 90 %, as near as can be told
        check(coverage(m.difference_sample_bounds(k / n, half / n), rate / 2), n, rate)


@each_design
def test_differences_over_fixed_conditions_cover(n, rate):
    rng = np.random.default_rng(3)
    rates = spread_rates(rng, rate, CONDITIONS)
    k_a = rng.binomial(n, rates, (STUDIES, CONDITIONS))
    k_b = rng.binomial(n, rates / 2, (STUDIES, CONDITIONS))
    counts = np.full(k_a.shape, n)
    found = coverage(m.difference_bounds(k_a, counts, k_b, counts), rates.mean() / 2)
    check(found, n, rate)


@each_design
def test_differences_under_common_numbers_cover_and_are_narrower(n, rate):
    rng, widths = np.random.default_rng(4), []
    rates, studies, held = spread_rates(rng, rate, CONDITIONS), STUDIES, []
    for _ in range(10):  # in parts, for the memory's sake
        shape = (studies // 10, CONDITIONS, n)
        dice = rng.random(shape, np.float32)
        shared = rng.random(shape, np.float32) < 0.7
        a = dice < rates[:, None]
        b = np.where(shared, dice, rng.random(shape, np.float32)) < rates[:, None] * 0.8
        bounds = m.common_numbers_bounds(a, b)
        held.append(coverage(bounds, 0.2 * rates.mean()))
        counts = np.full(a.shape[:-1], n)
        apart = m.difference_bounds(a.sum(-1), counts, b.sum(-1), counts)
        widths.append(np.mean((bounds[2] - bounds[1]) / (apart[2] - apart[1])))
    check(np.mean(held), n, rate)
    assert np.mean(widths) < 0.85


@each_design
def test_differences_over_drawn_conditions_cover(n, rate):
    rng = np.random.default_rng(5)
    rates = spread_rates(rng, rate, (STUDIES, CONDITIONS))
    a, b = rng.binomial(n, rates) / n, rng.binomial(n, rates / 2) / n
    check(coverage(m.difference_sample_bounds(a, b), rate / 2), n, rate)


@pytest.mark.parametrize(("n", "rate"), [(30, 0.1), (300, 0.02), (300, 0.5)])
def test_the_bootstrap_of_conditions_covers(n, rate):
    rng, held = np.random.default_rng(6), []
    for _ in range(400):
        rates = spread_rates(rng, rate, CONDITIONS)
        values = rng.binomial(n, rates) / n - rng.binomial(n, rates / 2) / n
        found = cluster_bootstrap(values, range(CONDITIONS), resamples=400)
        held.append(found.ci_low <= rate / 2 <= found.ci_high)
    assert 0.90 <= np.mean(held) <= 0.98


@each_design
def test_seeds_cover_as_a_third_layer(n, rate):
    rng = np.random.default_rng(7)
    shifts = rng.normal(0, 0.2 * rate, (STUDIES, 4, 1))
    fixed = spread_rates(rng, rate, CONDITIONS)
    low = np.minimum(fixed, 1 - fixed)
    # seeds move every condition in proportion to the room it has, so that the mean stays true
    k = rng.binomial(n, np.clip(fixed + shifts / rate * low * 0.5, 0, 1))
    check(coverage(m.seeds_bounds(k, np.full(k.shape, n)), fixed.mean()), n, rate)


@each_design
def test_seeds_and_conditions_cover(n, rate):
    rng = np.random.default_rng(8)
    shifts = np.clip(rng.normal(0, 0.2, (STUDIES, 4, 1)), -0.9, 0.9)
    drawn = spread_rates(rng, rate, (STUDIES, 1, CONDITIONS))
    room = np.minimum(drawn, 1 - drawn)
    k = rng.binomial(n, drawn + shifts * room)
    check(coverage(m.seeds_and_conditions_bounds(k, np.full(k.shape, n)), rate), n, rate)


def test_one_condition_is_wilson():
    for k, n in ((0, 30), (7, 30), (30, 30)):
        found, plain = m.mean_rate([k], [n], m.FIXED), wilson(k, n)
        # the variance is divided by n - 1, so that the mean is worth one answer less
        assert found.ci_high == pytest.approx(plain.ci_high, abs=0.01)
        assert found.estimate == plain.estimate
    assert m.mean_rate([3], [9], m.SAMPLE).ci_low is None


def test_targets_differ_as_the_papers_do():
    """Qwen2.5-32B's baseline (MSM, figures 12 and 13): SEM 5.5 points, or 0.42 of sampling."""
    rates = (
        "701 900 862 565 861 917 944 731 685 256 395 311 201 365 392 392 189 211 "
        "933 973 959 981 611 815 979 861 986"
    ).split()
    k = [round(300 * int(rate) / 1000) for rate in rates]
    fixed, drawn = (m.mean_rate(k, [300] * 27, target) for target in (m.FIXED, m.SAMPLE))
    assert fixed.estimate == drawn.estimate == pytest.approx(0.666, abs=1e-3)
    assert (fixed.ci_high - fixed.ci_low) / 2 / 1.96 == pytest.approx(0.0042, abs=2e-4)
    assert (drawn.ci_high - drawn.ci_low) / 2 / 2.056 == pytest.approx(0.055, abs=3e-3)
    assert fixed.method.startswith(m.FIXED) and drawn.method.startswith(m.SAMPLE)


def test_no_harm_anywhere_is_not_certainty():
    none = m.mean_rate([0] * 27, [300] * 27, m.FIXED)
    assert (none.estimate, none.ci_low) == (0, 0)
    assert none.ci_high == pytest.approx(wilson(0, 8100).ci_high)
    assert 0 < m.mean_rate([0] * 27, [300] * 27, m.SAMPLE).ci_high < 0.15
    split = m.mean_rate([0, 10], [10, 10], m.FIXED)
    assert split.ci_low < 0.5 < split.ci_high


def test_a_condition_without_verdicts_leaves_no_mean():
    assert m.mean_rate([1, 0], [5, 0], m.FIXED).estimate is None
    assert m.mean_rate([], [], m.SAMPLE).estimate is None
    assert m.mean_over_seeds([[1, 0]], [[5, 0]], m.SEEDS).estimate is None
    assert m.differences([[True], [None]], [[True], [False]], False) == []
    with pytest.raises(ValueError, match="target"):
        m.mean_rate([1], [2], "everything")
    with pytest.raises(ValueError, match="0..n"):
        m.mean_rate([3], [2], m.FIXED)


def test_seeds_are_a_t_interval_of_their_means():
    k = [[3, 6], [6, 9], [0, 3]]
    found = m.mean_over_seeds(k, [[10, 10]] * 3, m.SEEDS)
    means = np.mean(k, axis=1) / 10
    assert found.estimate == pytest.approx(means.mean())
    half = 4.30265 * means.std(ddof=1) / np.sqrt(3)
    assert found.ci_high == pytest.approx(means.mean() + half, abs=1e-5)
    assert m.mean_over_seeds(k[:1], [[10, 10]], m.SEEDS).ci_low is None
    wider = m.mean_over_seeds(k, [[10, 10]] * 3, m.BOTH)
    assert wider.estimate == pytest.approx(found.estimate)


def test_differences_name_their_target_and_agree_on_the_estimate():
    rng = np.random.default_rng(9)
    a = (rng.random((5, 40)) < 0.6).tolist()
    b = (rng.random((5, 40)) < 0.2).tolist()
    found = m.differences(a, b, common_numbers=True)
    assert len(found) == 4 and len({f.method for f in found}) == 4
    for one in found:
        assert one.estimate == pytest.approx(np.mean(a) - np.mean(b))
        assert one.ci_low < one.estimate < one.ci_high
    assert len(m.differences(a, b, common_numbers=False)) == 3
    b[0][0] = None  # no pairs any more, but still a rate
    assert len(m.differences(a, b, common_numbers=True)) == 3
    mirrored = m.differences(b, a, common_numbers=False)[0]
    assert mirrored.ci_high == pytest.approx(-m.differences(a, b, False)[0].ci_low)


def test_missing_verdicts_are_bounded_by_the_worst():
    found = m.missing_bounds(3, 10, 5)
    assert (found["low"], found["high"]) == (3 / 15, 8 / 15)
    assert found["ci_low"] == wilson(3, 15).ci_low and found["ci_high"] == wilson(8, 15).ci_high
    nothing = m.missing_bounds(3, 10, 0)
    assert nothing["low"] == nothing["high"] == 0.3
    assert m.missing_bounds(0, 0, 0)["low"] is None
    # whatever the missing ones are, the interval holds the truth at least as often as Wilson's
    rng = np.random.default_rng(10)
    held = []
    for _ in range(500):
        answers = rng.random(60) < 0.3
        lost = rng.random(60) < np.where(answers, 0.3, 0.05)  # harm is lost more often
        b = m.missing_bounds(int(answers[~lost].sum()), int((~lost).sum()), int(lost.sum()))
        held.append(b["ci_low"] <= 0.3 <= b["ci_high"])
    assert np.mean(held) >= 0.95
