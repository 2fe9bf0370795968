"""How many samples: against published figures, and against simulated studies."""

import numpy as np
import pytest
from scipy import stats

from msm_jax.evals import mean_rates, power


@pytest.mark.parametrize(
    ("a", "b", "n"), [(0.54, 0.07, 14), (0.14, 0.07, 300), (0.10, 0.07, 1356), (0.54, 0.50, 2448)]
)
def test_known_numbers(a, b, n):
    assert power.samples_per_arm(a, b) == power.samples_per_arm(b, a) == n
    assert power.power_of(a, b, n - 1) < 0.8 <= power.power_of(a, b, n)


def test_a_study_of_that_size_finds_the_difference_as_often_as_promised():
    n, rng = power.samples_per_arm(0.14, 0.07), np.random.default_rng(0)
    a, b = rng.binomial(n, 0.14, 20_000) / n, rng.binomial(n, 0.07, 20_000) / n
    mean = (a + b) / 2
    found = np.abs(a - b) > 1.96 * np.sqrt(2 * mean * (1 - mean) / n)
    assert np.mean(found) == pytest.approx(0.8, abs=0.02)


def test_what_can_be_detected_is_what_the_samples_are_for():
    rate = power.detectable(0.07, 300)
    assert rate == pytest.approx(0.14, abs=1e-3)
    assert power.detectable(0.99, 3) is None


def test_impossible_questions_are_errors():
    for arguments in ((0.1, 0.1), (1.2, 0.1), (0.2, 0.1, 1.0)):
        with pytest.raises(ValueError):
            power.samples_per_arm(*arguments)


def test_command(forked, tmp_path):
    done = forked("msm_jax.evals.power", ["--pairs=0.14:0.07", "--conditions=27"], tmp_path)
    assert done["code"] == 0, done["err"]
    assert " 300 " in done["out"] and " 12\n" in done["out"]


@pytest.mark.parametrize(("a", "n", "share"), [(0.54, 14, 0.733), (0.14, 300, 0.783)])
def test_the_interval_finds_a_little_less_than_the_test(a, n, share):
    """As docs/evals.md says, against 7 %; summed over all outcomes."""
    k_a, k_b = np.indices((n + 1, n + 1))[..., None]
    whole = np.full(k_a.shape, n)
    _, low, _ = mean_rates.difference_bounds(k_a, whole, k_b, whole)
    chance = [stats.binom.pmf(np.arange(n + 1), n, rate) for rate in (a, 0.07)]
    assert np.outer(*chance)[low > 0].sum() == pytest.approx(share, abs=0.001)
