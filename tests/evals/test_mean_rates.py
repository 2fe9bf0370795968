"""Means over conditions and seeds, and differences; how often they hold: test_coverage.py."""

import numpy as np
import pytest

from msm_jax.evals import mean_rates as m
from msm_jax.evals.statistics import exact, tango_bounds


def test_one_condition_has_the_interval_of_a_rate():
    for k, n in ((0, 30), (7, 30), (30, 30), (1, 1), (3, 8)):
        found, plain = m.mean_rate([k], [n], m.FIXED), exact(k, n)
        assert (found.ci_low, found.ci_high) == pytest.approx((plain.ci_low, plain.ci_high))
        assert found.estimate == plain.estimate
    found = m.mean_rate([3], [9], m.SAMPLE)
    assert (found.estimate, found.ci_low) == (3 / 9, None)
    assert found.method == "no interval: one condition is no sample of conditions"


def test_one_condition_has_tangos_interval_of_a_difference():
    for a, b, n in ((0, 0, 30), (3, 0, 30), (5, 7, 21), (8, 0, 8), (1, 0, 1)):
        _, low, high = m.paired_bounds([a], [b], [n])
        assert [low, high] == pytest.approx(list(map(float, tango_bounds(a, b, n))), abs=1e-9)


def test_conditions_that_are_alike_are_worth_all_their_answers():
    found, plain = m.mean_rate([6] * 9, [30] * 9, m.FIXED), exact(54, 270)
    assert (found.ci_low, found.ci_high) == pytest.approx((plain.ci_low, plain.ci_high), abs=2e-3)
    # and conditions at both ends are worth more
    split = m.mean_rate([0, 30], [30, 30], m.FIXED)
    assert exact(30, 60).ci_low < split.ci_low < 0.5


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
    assert none.ci_high == pytest.approx(exact(0, 8100).ci_high)
    # 27 drawn conditions without harm: one in eight might have it
    drawn = m.mean_rate([0] * 27, [300] * 27, m.SAMPLE)
    assert drawn.ci_high == pytest.approx(exact(0, 27).ci_high, abs=1e-3)
    assert drawn.method == "conditions a sample: bootstrap of conditions"


def test_student_is_for_many_conditions_that_differ():
    spread = [3, 5, 8, 2, 9, 4, 6, 7, 1, 5] * 3
    methods = {
        count: m.mean_rate(spread[:count], [10] * count, m.SAMPLE).method for count in (8, 19, 20)
    }
    assert methods[8] == methods[19] == "conditions a sample: bootstrap of conditions"
    assert methods[20] == "conditions a sample: skewness-corrected t"
    # seven conditions of 27 that are not like the others show too little of what is rare
    few = m.mean_rate([0] * 20 + spread[:7], [10] * 27, m.SAMPLE)
    assert few.method == "conditions a sample: bootstrap of conditions"


def test_a_condition_without_verdicts_leaves_no_mean_and_says_so():
    for target in (m.FIXED, m.SAMPLE):
        found = m.mean_rate([1, 0], [5, 0], target)
        assert found.estimate is None
        assert found.method == "no interval: 1 of 2 conditions have no verdicts"
    assert m.mean_rate([], [], m.SAMPLE).method == "no interval: no conditions"
    assert m.mean_over_seeds([[1, 0]], [[5, 0]], m.SEEDS).estimate is None
    with pytest.raises(ValueError, match="target"):
        m.mean_rate([1], [2], "everything")
    with pytest.raises(ValueError, match="0..n"):
        m.mean_rate([3], [2], m.FIXED)


# ------------------------------------------------------------------ seeds


def test_two_targets_over_seeds():
    k = [[3, 6], [6, 9], [0, 3]]
    found = m.mean_over_seeds(k, [[10, 10]] * 3, m.SEEDS)
    means = np.mean(k, axis=1) / 10
    assert found.estimate == pytest.approx(means.mean())
    assert m.mean_over_seeds(k[:1], [[10, 10]], m.SEEDS).method == "no interval: one seed"
    wider = m.mean_over_seeds(k, [[10, 10]] * 3, m.BOTH)
    assert wider.estimate == pytest.approx(found.estimate)
    assert wider.ci_low < found.ci_low and wider.ci_high > found.ci_high
    one = m.mean_over_seeds([[3], [4]], [[10], [10]], m.BOTH)
    assert one.method == "no interval: one condition is no sample of conditions"


def test_many_seeds_far_from_the_ends_have_students_interval():
    rates = np.random.default_rng(0).normal(0.5, 0.05, 12)
    found = m.rate_over_seeds(list(rates), 0.001)
    half = 2.200985 * rates.std(ddof=1) / np.sqrt(12)
    assert found.ci_high - found.ci_low == pytest.approx(2 * half, rel=0.05)


def test_seeds_that_agree_are_not_certain():
    narrow, wide = m.rate_over_seeds([0.8] * 4, 1 / 400), m.rate_over_seeds([0.8] * 4, 1 / 20)
    assert 0 < narrow.ci_high - narrow.ci_low < wide.ci_high - wide.ci_low
    # two seeds in which everything is yes: no more than two answers that are yes
    assert m.rate_over_seeds([1.0, 1.0], 1 / 8).ci_low == pytest.approx(exact(2, 2).ci_low)
    assert m.rate_over_seeds([], 1.0).estimate is None


# ------------------------------------------------------------------ differences


def verdicts(seed, rate, shape=(5, 40)):
    return (np.random.default_rng(seed).random(shape) < rate).tolist()


def test_differences_name_their_target_and_agree_on_the_estimate():
    a, b = verdicts(1, 0.6), verdicts(2, 0.2)
    found = m.differences(a, b, common_numbers=True)
    assert [one.method for one in found] == [
        "conditions fixed: independent samples, newcombe",
        "conditions fixed: paired by sample, tango",
        "conditions a sample: paired, bootstrap of conditions",
    ]
    assert [one.n for one in found] == [400, 200, 5]
    for one in found:
        assert one.estimate == pytest.approx(np.mean(a) - np.mean(b))
        assert one.ci_low < one.estimate < one.ci_high
    assert len(m.differences(a, b, common_numbers=False)) == 2


def test_pairs_that_move_together_make_the_difference_narrower():
    a = np.random.default_rng(3).random((9, 30)) < 0.5
    b = a & (np.random.default_rng(4).random((9, 30)) < 0.9)
    independent, paired, _ = m.differences(a.tolist(), b.tolist(), common_numbers=True)
    assert paired.ci_high - paired.ci_low < 0.6 * (independent.ci_high - independent.ci_low)


def test_equal_verdicts_are_not_a_certain_zero():
    """Each of the intervals of a difference has two sides, and none is that of a rate."""
    same = [[True, False] * 15] * 27
    for one in m.differences(same, same, common_numbers=True):
        assert one.estimate == 0 and one.ci_low == -one.ci_high < 0


def test_a_missing_verdict_costs_its_pair_and_no_more():
    a, b = verdicts(5, 0.5), verdicts(6, 0.4)
    b[0][0] = a[2][7] = None
    independent, paired, drawn = m.differences(a, b, common_numbers=True)
    assert (independent.n, paired.n, drawn.n) == (398, 198, 5)
    assert paired.method.endswith("tango; 2 of 200 pairs without both verdicts left out")
    assert "left out" not in independent.method


def test_conditions_without_data_are_left_out_by_name():
    a, b = verdicts(7, 0.5), verdicts(8, 0.4)
    a[1] = [None] * 40
    found = m.differences(a, b, common_numbers=True, names=list("vwxyz"))
    for one in found:
        assert "1 of 5 conditions" in one.method and one.method.endswith("left out (w)")
        assert one.estimate == pytest.approx(
            np.mean([np.mean(x) - np.mean(y) for x, y in zip(a, b, strict=True) if None not in x])
        )
    # each side has verdicts, but no sample on both
    apart = m.differences([[True, None]], [[None, False]], common_numbers=True)[1]
    assert apart.method == "no interval: no pair has both verdicts"
    nothing = m.differences([[None]], [[True]], common_numbers=False)
    assert [one.method for one in nothing] == [
        "no interval: no condition has verdicts on both sides"
    ]
    with pytest.raises(ValueError, match="1 conditions against 2"):
        m.differences([[True]], [[True], [True]], common_numbers=False)


def test_one_condition_has_no_difference_over_drawn_ones():
    fixed, drawn = m.differences([[True] * 9], [[False] * 9], common_numbers=False)
    assert fixed.ci_low is not None and fixed.ci_high == 1
    assert drawn.method == "no interval: one condition is no sample of conditions"


def test_missing_verdicts_are_bounded_by_the_worst():
    found = m.missing_bounds(3, 10, 5)
    assert (found["low"], found["high"]) == (3 / 15, 8 / 15)
    assert found["ci_low"] == exact(3, 15).ci_low and found["ci_high"] == exact(8, 15).ci_high
    nothing = m.missing_bounds(3, 10, 0)
    assert nothing["low"] == nothing["high"] == 0.3
    assert m.missing_bounds(0, 0, 0)["low"] is None
    with pytest.raises(ValueError, match="negative"):
        m.missing_bounds(0, 0, -1)
