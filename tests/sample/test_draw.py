"""Which tokens may be drawn, beside transformers' own processors; how often they are; and what
does not change the draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msm_jax.sample import draw as draws
from msm_jax.sample.draw import waiting_times, weights

draw, _kept = jax.jit(draws.draw), jax.jit(draws._kept)
ALL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
rng = np.random.default_rng(0)
SCORES = np.concatenate(
    [
        rng.normal(size=(6, 300)) * np.array([0.1, 1, 2, 4, 8, 30])[:, None],
        np.where(rng.random((2, 300)) < 0.9, -np.inf, rng.normal(size=(2, 300))),
    ]
).astype(np.float32)


def how(**settings):
    return {name: jnp.asarray(value) for name, value in {**ALL, **settings}.items()}


def keys(rows):
    """As the sampler makes them: a row's key folded with a position."""
    folded = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(1), jnp.arange(rows))
    return jax.random.key_data(folded)


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 1},
        {"top_k": 20},
        {"top_k": 1000},
        {"top_p": 0.8},
        {"top_p": 0.999},
        {"top_p": 1e-6},
        {"min_p": 0.05},
        {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
        {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.02},
    ],
)
def test_the_tokens_left_are_those_that_transformers_leaves(settings):
    torch = pytest.importorskip("torch")
    logits_process = pytest.importorskip("transformers.generation.logits_process")
    wanted = torch.tensor(SCORES)
    for name, maker in (
        ("temperature", logits_process.TemperatureLogitsWarper),
        ("top_k", logits_process.TopKLogitsWarper),
        ("top_p", logits_process.TopPLogitsWarper),
        ("min_p", logits_process.MinPLogitsWarper),
    ):
        if name in settings:
            wanted = maker(settings[name])(None, wanted)
    wanted = torch.softmax(wanted.double(), -1).numpy()
    all_weights = weights(jnp.asarray(SCORES), settings.get("temperature", 1.0))
    found = np.asarray(_kept(all_weights, how(**settings)), np.float64)
    found /= found.sum(-1, keepdims=True)
    assert (found[wanted > 1e-35] > 0).all()  # what is less likely is 0 in float32
    assert (found[wanted == 0] == 0).all()
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_draw_is_the_largest_of_scores_with_gumbel_noise():
    scores = np.random.default_rng(1).normal(size=(500, 300)).astype(np.float32) * 3
    found, _ = draw(jnp.asarray(scores), keys(500), how(temperature=0.7))
    gumbel = -np.log(np.asarray(waiting_times(keys(500), 300), np.float64))
    noisy = scores.astype(np.float64) / np.float32(0.7) + gumbel
    np.testing.assert_array_equal(found, noisy.argmax(-1))


def test_the_noise_is_exponential_and_that_of_a_token_knows_no_other():
    """Finite and above 0; independent of the vocabulary's size and of the other rows."""
    key = keys(2000)
    times = np.asarray(waiting_times(key, 1000), np.float64)
    assert np.isfinite(times).all() and times.min() > 0
    np.testing.assert_array_equal(waiting_times(key[7:9], 37), times[7:9, :37].astype(np.float32))
    u = np.sort(1 - np.exp(-times.reshape(-1)))
    distance = np.abs(u - (np.arange(u.size) + 0.5) / u.size).max()  # Kolmogorov-Smirnov
    assert distance < 1.95 / np.sqrt(u.size)  # exceeded once in 1,000 draws
    for one, other in ((times[1:], times[:-1]), (times[:, 1:], times[:, :-1])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(one.size)
    smallest = np.asarray(waiting_times(keys(50_000), 500)).min()
    assert smallest < 4 / 25e6  # small times keep their digits: there is no floor at 2**-24


def test_noise_in_the_scores_changes_few_draws():
    """What rounding does to scores, a thousand times enlarged: an inverse of the running sum
    changes 10 % of draws with it."""
    chance = np.random.default_rng(2)
    scores = chance.normal(size=(5_000, 300)).astype(np.float32) * 2
    noisy = scores + chance.normal(size=scores.shape).astype(np.float32) * 1e-2
    for settings in ({}, {"temperature": 0.7, "top_k": 50, "top_p": 0.95}):
        one, _ = draw(jnp.asarray(scores), keys(5_000), how(**settings))
        other, _ = draw(jnp.asarray(noisy), keys(5_000), how(**settings))
        assert 0 < np.mean(np.asarray(one) != np.asarray(other)) <= 0.01


@pytest.mark.parametrize("temperature", [1e-45, 1e-38, 1e-30, 1e-20, 1e-6, 1e30, 3e38])
def test_no_temperature_leaves_the_vocabulary(temperature):
    scores = np.concatenate([SCORES * 1000, np.full((1, 300), -1e38, np.float32)])
    scores[:, 200:] = -np.inf  # beyond the vocabulary's limit
    scores[-1, 5] = 1e38
    for settings in ({}, {"top_k": 3, "top_p": 0.5, "min_p": 0.5}):
        given = how(temperature=np.float32(temperature), **settings)
        tokens, logprobs = draw(jnp.asarray(scores), keys(9), given)
        assert np.isfinite(logprobs).all()
        assert (scores[np.arange(9), tokens] > -np.inf).all()
        if temperature < 1e-3:
            np.testing.assert_array_equal(tokens, scores.argmax(-1))


def test_of_equal_scores_each_is_drawn_and_greedy_takes_the_first():
    scores = jnp.zeros((4000, 6)).at[:, 0].set(-1.0)
    tokens, _ = draw(scores, keys(4000), how(temperature=1e-30))
    assert (np.bincount(tokens, minlength=6)[1:] > 700).all() and 0 not in np.asarray(tokens)
    assert (np.asarray(draw(scores, keys(4000), how(temperature=0.0))[0]) == 1).all()


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.7}, {"top_k": 5, "top_p": 0.9}])
def test_tokens_are_drawn_as_often_as_they_should(settings):
    scores = jnp.broadcast_to(jnp.asarray(SCORES[2]), (40_000, 300))
    tokens, logprobs = draw(scores, keys(40_000), how(**settings))
    all_weights = weights(SCORES[2:3], settings.get("temperature", 1.0))
    expected = np.asarray(_kept(all_weights, how(**settings)), np.float64)[0]
    expected *= 40_000 / expected.sum()
    counts = np.bincount(tokens, minlength=300)
    assert counts[expected == 0].sum() == 0
    seen = expected > 5
    chi2 = ((counts - expected)[seen] ** 2 / expected[seen]).sum()
    assert chi2 < seen.sum() + 5 * np.sqrt(2 * seen.sum())
    wanted = np.asarray(jax.nn.log_softmax(SCORES[2]))[np.asarray(tokens)]
    np.testing.assert_allclose(logprobs, wanted, atol=1e-5)


def test_at_temperature_0_the_best_token_is_taken():
    tokens, _ = draw(jnp.asarray(SCORES), keys(8), how(temperature=0.0))
    np.testing.assert_array_equal(tokens, SCORES.argmax(-1))
