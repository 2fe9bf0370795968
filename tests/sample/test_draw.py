"""Which tokens may be drawn, beside transformers' own processors; and how often they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msm_jax.sample.draw import _inverse, _kept, draw

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
    scores = jnp.asarray(SCORES) / settings.get("temperature", 1.0)
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    found = np.asarray(_kept(weights, how(**settings)), np.float64)
    found /= found.sum(-1, keepdims=True)
    assert (found[wanted > 1e-35] > 0).all()  # what is less likely is 0 in float32
    assert (found[wanted == 0] == 0).all()
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_draw_is_the_inverse_of_the_running_sum():
    weights = np.where(rng.random((40, 1000)) < 0.5, 0, rng.random((40, 1000))).astype(np.float32)
    uniform = rng.random(40).astype(np.float32)
    running = np.cumsum(weights.astype(np.float64), -1)
    aim = uniform * running[:, -1]
    wanted = (running > aim[:, None]).argmax(-1)
    found = np.asarray(_inverse(jnp.asarray(weights), jnp.asarray(uniform)))
    # In float32 an aim that falls within rounding of a step may land beside it.
    near = np.abs(running - aim[:, None]).min(-1) < 1e-4 * running[:, -1] / 10
    assert (found == wanted)[~near].all() and (~near).sum() > 20
    assert all(weights[row, token] > 0 for row, token in enumerate(found))


@pytest.mark.parametrize("uniform", [0.0, 0.5, float(np.nextafter(np.float32(1), np.float32(0)))])
def test_what_has_no_weight_is_never_drawn(uniform):
    """Not even where rounding puts the aim at the very beginning or end."""
    for V in (5, 128, 129, 300, 5000):
        for seed in range(20):
            chance = np.random.default_rng(seed)
            weights = np.where(chance.random((16, V)) < 0.9, 0, chance.random((16, V)))
            weights[np.arange(16), chance.integers(0, V, 16)] = 1e-6
            found = np.asarray(
                _inverse(jnp.asarray(weights, jnp.float32), jnp.full(16, uniform, jnp.float32))
            )
            assert (np.asarray(weights, np.float32)[np.arange(16), found] > 0).all()


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.7}, {"top_k": 5, "top_p": 0.9}])
def test_tokens_are_drawn_as_often_as_they_should(settings):
    scores = jnp.broadcast_to(jnp.asarray(SCORES[2]), (40_000, 300))
    uniform = jax.random.uniform(jax.random.key(1), (40_000,))
    tokens, logprobs = jax.jit(draw)(scores, uniform, how(**settings))
    weights = jnp.exp(SCORES[2:3] / settings.get("temperature", 1.0))
    expected = np.asarray(_kept(weights, how(**settings)), np.float64)[0]
    expected *= 40_000 / expected.sum()
    counts = np.bincount(tokens, minlength=300)
    assert counts[expected == 0].sum() == 0
    seen = expected > 5
    chi2 = ((counts - expected) ** 2 / expected)[seen].sum()
    assert chi2 < seen.sum() + 5 * np.sqrt(2 * seen.sum())
    wanted = np.asarray(jax.nn.log_softmax(SCORES[2]))[np.asarray(tokens)]
    np.testing.assert_allclose(logprobs, wanted, atol=1e-5)


def test_at_temperature_0_the_best_token_is_taken():
    tokens, _ = draw(jnp.asarray(SCORES), jnp.full(8, 0.9), how(temperature=0.0))
    np.testing.assert_array_equal(tokens, SCORES.argmax(-1))
