"""Intervals against known values, and against how often they hold what they promise."""

import numpy as np
import pytest

from msm_jax.evals.statistics import cluster_bootstrap, paired_difference, t_interval, wilson


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [  # Newcombe (1998), Statistics in Medicine 17, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_known_values(k, n, low, high):
    found = wilson(k, n)
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high), abs=5e-5)
    assert (found.estimate, found.n) == (k / n, n)


def test_wilson_is_symmetric_and_holds_its_estimate():
    for n in (1, 3, 17):
        for k in range(n + 1):
            found, mirror = wilson(k, n), wilson(n - k, n)
            assert found.ci_low == pytest.approx(1 - mirror.ci_high)
            assert 0 <= found.ci_low <= found.estimate <= found.ci_high <= 1


def test_wilson_covers():
    rng = np.random.default_rng(0)
    for rate in (0.1, 0.5, 0.9):
        bounds = [wilson(int(k), 40) for k in rng.binomial(40, rate, 2000)]
        assert 0.93 < np.mean([b.ci_low <= rate <= b.ci_high for b in bounds]) < 0.98


def test_t_known_values():
    # t(0.975, 3) = 3.1824, t(0.95, 1) = 6.3138 from any table
    found = t_interval([1.0, 2.0, 3.0, 4.0])
    half = 3.18245 * np.sqrt(5 / 3) / 2
    assert (found.estimate, found.ci_low) == pytest.approx((2.5, 2.5 - half), abs=1e-4)
    found = t_interval([0.0, 2.0], level=0.9)
    assert found.ci_high == pytest.approx(1 + 6.31375, abs=1e-4)


def test_t_covers_with_few_seeds():
    draws = np.random.default_rng(1).normal(0.3, 2.0, (2000, 3))
    bounds = [t_interval(row) for row in draws]
    assert 0.935 < np.mean([b.ci_low <= 0.3 <= b.ci_high for b in bounds]) < 0.965


def test_paired_difference_is_the_t_interval_of_the_differences():
    a, b = [0.9, 0.7, 0.8], [0.5, 0.4, 0.1]
    found, plain = paired_difference(a, b), t_interval(np.subtract(a, b))
    assert found.as_dict() == {**plain.as_dict(), "method": "paired t over seeds"}
    # seeds that move both arms alike do not widen it
    shift = np.array([5.0, -3.0, 1.0])
    assert paired_difference(a + shift, b + shift).ci_low == pytest.approx(found.ci_low)
    with pytest.raises(ValueError, match="3 values against 2"):
        paired_difference(a, b[:2])


def test_cluster_bootstrap_covers_where_answers_come_in_pairs():
    rng = np.random.default_rng(2)
    clusters, held, naive = np.repeat(np.arange(60), 2), [], []
    for _ in range(300):
        # both orders of a pair mostly agree, so that 120 answers are worth little more than 60
        first = rng.random(60) < 0.7
        second = np.where(rng.random(60) < 0.9, first, rng.random(60) < 0.7)
        values = np.stack([first, second], 1).ravel()
        bounds = cluster_bootstrap(values, clusters, resamples=500)
        held.append(bounds.ci_low <= 0.7 <= bounds.ci_high)
        plain = wilson(int(values.sum()), 120)
        naive.append(plain.ci_low <= 0.7 <= plain.ci_high)
    assert 0.91 <= np.mean(held) <= 0.98
    assert np.mean(naive) < 0.9  # what clustering is for


def test_cluster_bootstrap_is_a_function_of_its_arguments():
    values, clusters = [1, 0, 1, 1, 0, 1], ["x", "x", "y", "y", "z", "z"]
    found = cluster_bootstrap(values, clusters, seed=3)
    assert found == cluster_bootstrap(values, clusters, seed=3)
    assert (found.estimate, found.n) == (pytest.approx(4 / 6), 6)
    assert found.ci_low == pytest.approx(0.5) and found.ci_high == pytest.approx(1.0)


def test_a_rate_without_spread_still_has_an_interval():
    found = cluster_bootstrap([1] * 20, np.repeat(range(10), 2))
    assert found.ci_low == pytest.approx(wilson(10, 10).ci_low) and found.ci_high == 1
    assert found.method == "wilson over clusters"


def test_nothing_is_not_zero():
    for found in (wilson(0, 0), t_interval([]), cluster_bootstrap([], [])):
        assert (found.estimate, found.ci_low, found.n) == (None, None, 0)
    assert t_interval([0.4]).ci_low is None
