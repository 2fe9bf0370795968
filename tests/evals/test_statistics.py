"""Intervals against published values and independent references."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from msm_jax.evals import statistics as s
from msm_jax.evals.mean_rates import FIXED, SEEDS, mean_over_seeds, mean_rate, rate_over_seeds


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [  # Newcombe (1998), Statistics in Medicine 17, 857: table I, method 5
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0, 0.1684),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_exact_known_values(k, n, low, high):
    found = s.exact(k, n)
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high), abs=5e-5)
    assert (found.estimate, found.n, found.method) == (k / n, n, "exact")


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_exact_is_scipys(level):
    for n in (1, 7, 20, 300):
        for k in {0, 1, n // 3, n - 1, n}:
            theirs = stats.binomtest(k, n).proportion_ci(level, method="exact")
            found = s.exact(k, n, level)
            assert (found.ci_low, found.ci_high) == pytest.approx(tuple(theirs), abs=1e-9)


def test_exact_never_holds_less_often_than_it_says():
    """By enumeration, not by chance; Wilson's does."""
    rates = np.linspace(0.001, 0.999, 500)[:, None]
    for n in (1, 8, 12, 20, 21):
        chance = stats.binom.pmf(np.arange(n + 1), n, rates)
        lowest = {}
        for method in (s.exact, s.wilson):
            found = [method(k, n) for k in range(n + 1)]
            low, high = (
                np.array([getattr(f, end) for f in found]) for end in ("ci_low", "ci_high")
            )
            lowest[method] = np.sum(chance * ((low <= rates) & (rates <= high)), axis=1).min()
        assert lowest[s.exact] >= 0.95
        assert n != 20 or lowest[s.wilson] < 0.9


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [  # Newcombe (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_known_values(k, n, low, high):
    found = s.wilson(k, n)
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high), abs=5e-5)


# ------------------------------------------------------------------ pairs


@pytest.mark.parametrize(
    ("only_a", "only_b", "n", "level", "low", "high"),
    [
        # Fagerland, Lydersen and Laake (2017), chapter 8: airway hyper-responsiveness before and
        # after stem cell transplantation (Bentur et al. 2009)
        (1, 7, 21, 0.95, -0.517, -0.026),
        # R's PropCIs 0.3-0, scoreci.mp(25, 28, 618, 0.9), whose sign is the other
        (28, 25, 618, 0.90, -0.0148, 0.0247),
    ],
)
def test_tango_known_values(only_a, only_b, n, level, low, high):
    found = s.tango_bounds(only_a, only_b, n, level)
    assert found == pytest.approx((low, high), abs=5e-4)


@pytest.mark.parametrize(
    ("only_a", "only_b", "n"), [(1, 7, 21), (3, 0, 40), (0, 0, 30), (12, 9, 50)]
)
def test_tango_is_the_score_test_turned_round(only_a, only_b, n):
    """At each bound the score test, its nuisance found by a numerical search, is at its limit."""
    for bound in map(float, s.tango_bounds(only_a, only_b, n)):

        def minus_log_likelihood(q, bound=bound):  # q: probability of "only b"
            cells = np.array([q + bound, q, 1 - 2 * q - bound])
            counts = np.array([only_a, only_b, n - only_a - only_b])
            return -np.sum(counts * np.log(np.maximum(cells, 1e-300)))

        span = max(0.0, -bound), (1 - bound) / 2
        q = optimize.minimize_scalar(
            minus_log_likelihood, bounds=span, method="bounded", options={"xatol": 1e-12}
        ).x
        score = (only_a - only_b - n * bound) / np.sqrt(n * (2 * q + bound - bound**2))
        assert abs(score) == pytest.approx(1.959964, abs=2e-3)


# ------------------------------------------------------------------ clusters


def test_a_cluster_bootstrap_of_single_answers_is_the_exact_interval():
    for k, n in ((0, 20), (3, 8), (10, 20), (27, 27), (30, 200)):
        found, exact = s.cluster_bootstrap([1] * k + [0] * (n - k), range(n)), s.exact(k, n)
        assert found.ci_low == pytest.approx(exact.ci_low, abs=0.006)
        assert found.ci_high == pytest.approx(exact.ci_high, abs=0.006)


def test_a_model_that_always_takes_the_same_letter_has_an_interval():
    """In both orders of 20 pairs: each pair's share is one half, which another's need not be."""
    found = s.cluster_bootstrap([1, 0] * 20, np.repeat(range(20), 2))
    assert found.estimate == 0.5
    # as far from one half as 20 of 20 equal pairs are from what a pair could be
    assert found.ci_high == pytest.approx(0.5 + 0.1684 / 2, abs=1e-3)
    assert found.ci_low == pytest.approx(0.5 - 0.1684 / 2, abs=1e-3)


def test_one_cluster_has_no_interval_and_says_so():
    found = s.cluster_bootstrap([0, 1, 1, 0], ["a"] * 4)
    assert (found.estimate, found.ci_low, found.ci_high) == (0.5, None, None)
    assert found.method == "no interval: one cluster"


def test_scores_have_their_own_limits():
    found = s.cluster_bootstrap([7] * 28, range(28), limits=(1, 10))
    shares = s.cluster_bootstrap([6 / 9] * 28, range(28))
    assert (found.ci_low, found.ci_high) == pytest.approx(
        (1 + 9 * shares.ci_low, 1 + 9 * shares.ci_high)
    )
    assert 1 < found.ci_low < 7 < found.ci_high < 10
    with pytest.raises(ValueError, match="within 1 and 10"):
        s.cluster_bootstrap([11], ["a"], limits=(1, 10))


def test_answers_to_one_question_are_not_counted_as_many():
    rng = np.random.default_rng(0)
    first = rng.random(60) < 0.7
    once, twice = (
        s.cluster_bootstrap(first, range(60)),
        s.cluster_bootstrap(np.repeat(first, 2), np.repeat(range(60), 2)),
    )
    assert (once.ci_low, once.ci_high) == pytest.approx((twice.ci_low, twice.ci_high))


def test_cluster_bootstrap_is_a_function_of_its_arguments():
    values, clusters = [1, 0, 1, 1, 0, 1], ["x", "x", "y", "y", "z", "z"]
    found = s.cluster_bootstrap(values, clusters)
    assert found == s.cluster_bootstrap(values, clusters)
    assert (found.estimate, found.n) == (pytest.approx(4 / 6), 6)
    # in any order of the clusters and whatever they are called
    again = s.cluster_bootstrap(values[::-1], [c * 2 for c in clusters[::-1]])
    assert (again.ci_low, again.ci_high) == (found.ci_low, found.ci_high)


# ------------------------------------------------------------------ seeds


def test_t_known_values():
    # t(0.975, 3) = 3.1824, t(0.95, 1) = 6.3138 from any table
    found = s.t_interval([1.0, 2.0, 3.0, 4.0])
    half = 3.18245 * np.sqrt(5 / 3) / 2
    assert (found.estimate, found.ci_low) == pytest.approx((2.5, 2.5 - half), abs=1e-4)
    found = s.t_interval([0.0, 2.0], level=0.9)
    assert found.ci_high == pytest.approx(1 + 6.31375, abs=1e-4)


def test_seeds_that_agree_are_not_certain():
    """As wide as if one of them had one answer otherwise; without that, no interval."""
    nearly = s.paired_difference([0.5, 0.55], [0.25, 0.25])
    found = s.paired_difference([0.5, 0.5], [0.25, 0.25], step=0.05)
    assert found.ci_high - found.estimate == pytest.approx(nearly.ci_high - nearly.estimate)
    none = s.paired_difference([0.5, 0.5], [0.25, 0.25])
    assert (none.estimate, none.ci_low) == (0.25, None)
    assert none.method == "no interval: 2 seeds with equal values"


def test_paired_difference_is_the_t_interval_of_the_differences_within_its_limit():
    a, b = [0.9, 0.7, 0.8], [0.5, 0.4, 0.1]
    found, plain = s.paired_difference(a, b, limit=9), s.t_interval(np.subtract(a, b))
    assert found.as_dict() == {**plain.as_dict(), "method": "paired t over seeds"}
    # seeds that move both arms alike do not widen it
    shift = np.array([5.0, -3.0, 1.0])
    assert s.paired_difference(a + shift, b + shift).ci_low == pytest.approx(found.ci_low)
    assert s.paired_difference([1, 0.4], [0, 0.3]).ci_high == 1
    assert s.paired_difference([2, 0.4], [0, 0.3], limit=2).ci_high == 2
    with pytest.raises(ValueError, match="3 values against 2"):
        s.paired_difference(a, b[:2])
    with pytest.raises(ValueError, match="beyond"):
        s.paired_difference([1.5], [0.0])


def test_nothing_is_not_zero():
    for found in (s.exact(0, 0), s.wilson(0, 0), s.t_interval([]), s.cluster_bootstrap([], [])):
        assert (found.estimate, found.ci_low, found.n) == (None, None, 0)
        assert found.method.startswith("no interval: no ")
    assert s.t_interval([0.4]).method == "no interval: one seed"
    with pytest.raises(ValueError, match="0..n"):
        s.exact(3, 2)
    with pytest.raises(ValueError, match="level"):
        s.exact(1, 2, level=1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, None, 1.5, -0.1])
def test_what_is_no_rate_has_no_interval(bad):
    with pytest.raises(ValueError, match="beyond 0..1"):
        rate_over_seeds([bad, 0.5], 0.1)
    with pytest.raises(ValueError, match="beyond 0..1"):
        s.t_interval([bad, 0.5], limits=(0, 1))
    if bad is None or not math.isfinite(bad):
        with pytest.raises(ValueError, match="beyond"):
            s.t_interval([bad, 0.5])
        with pytest.raises((ValueError, TypeError)):
            s.paired_difference([bad, 0.5], [0.5, 0.5])


def test_counts_are_whole_and_seeds_have_the_same_conditions():
    for rate in (lambda: s.exact(2.5, 5), lambda: s.wilson(1, 2.5)):
        with pytest.raises(ValueError, match="count"):
            rate()
    with pytest.raises(ValueError, match="whole"):
        mean_rate([0.5, 1], [2, 2], FIXED)
    with pytest.raises(ValueError, match="0..n"):
        mean_rate([math.nan, 1], [2, 2], FIXED)
    with pytest.raises(ValueError, match="same number of conditions"):
        mean_over_seeds([[0, 0], [0]], [[9, 9], [9]], SEEDS)
    with pytest.raises(ValueError, match="above 0"):
        rate_over_seeds([0.5, 0.5], 0)
