"""The sampler against the decoder without a cache."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msm_jax.errors import UserError
from msm_jax.model import Cache, ModelConfig, forward, init_params, logits
from msm_jax.sample import logprobs, sample

CONFIG = ModelConfig(
    vocab_size=37, width=16, layers=2, heads=4, kv_heads=2, head_dim=8, mlp_width=24
)
PROMPTS = [[5, 6, 7], [3], [9, 8, 7, 6, 5, 4, 3, 2], list(range(1, 35))]


@pytest.fixture(scope="module")
def params():
    """Random weights, scaled up so that the model has opinions."""
    return jax.tree.map(lambda x: 2 * x, init_params(CONFIG, jax.random.key(0)))


@jax.jit
def _padded_logits(params, tokens_BT):
    positions = jnp.arange(tokens_BT.shape[1])[None]
    hidden, _ = forward(CONFIG, params, tokens_BT, jnp.ones_like(tokens_BT), positions)
    return logits(CONFIG, params, hidden)


def full_logits(params, ids):
    """logits_TV of one sequence without a cache; what follows it cannot be seen by it."""
    tokens = np.zeros((1, 80), np.int32)
    tokens[0, : len(ids)] = ids
    return np.asarray(_padded_logits(params, tokens))[0, : len(ids)]


def log_softmax(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_cached_decode_equals_the_full_forward_for_unequal_prompts(params):
    rng = np.random.default_rng(0)
    sequences = rng.integers(0, CONFIG.vocab_size, (3, 12))
    lengths = np.array([7, 2, 5])  # prompt lengths; the remaining tokens are fed one by one
    width = 8
    tokens, segments, positions = np.zeros((3, 3, width), np.int32)
    for row, length in enumerate(lengths):
        tokens[row, width - length :] = sequences[row, :length]
        segments[row, width - length :] = 1
        positions[row, width - length :] = np.arange(length)
    step_forward = jax.jit(functools.partial(forward, CONFIG))
    hidden, cache = step_forward(
        params, tokens, segments, positions, Cache.empty(CONFIG, 3, width + 5)
    )
    for step in range(5):
        cached = np.asarray(logits(CONFIG, params, hidden[:, -1]))
        for row, length in enumerate(lengths):
            full = full_logits(params, sequences[row, : length + step])[-1]
            np.testing.assert_allclose(cached[row], full, atol=1e-4, rtol=0)
        fed = sequences[np.arange(3), lengths + step][:, None]
        where = (lengths + step)[:, None]
        hidden, cache = step_forward(params, fed, np.ones((3, 1), np.int32), where, cache)


def test_greedy_is_the_argmax_of_the_full_forward(params):
    answers = sample(CONFIG, params, PROMPTS, max_tokens=6, temperature=0, rows=4)
    for prompt, (answer,) in zip(PROMPTS, answers, strict=True):
        ids = list(prompt)
        for token, logprob in zip(answer.tokens, answer.logprobs, strict=True):
            scores = full_logits(params, ids)[-1]
            assert token == scores.argmax()
            assert logprob == pytest.approx(log_softmax(scores)[token], abs=1e-4)
            ids.append(token)
        assert (answer.finish_reason, len(answer.tokens)) == ("length", 6)


def test_a_stop_ends_the_answer_and_is_not_part_of_it(params):
    ((free,),) = sample(CONFIG, params, [[5, 6, 7]], max_tokens=8, temperature=0, rows=4)
    stop = free.tokens[3]
    ((cut,),) = sample(
        CONFIG, params, [[5, 6, 7]], max_tokens=8, temperature=0, rows=4, stop_ids=[stop]
    )
    assert cut.tokens == free.tokens[: free.tokens.index(stop)]
    assert len(cut.logprobs) == len(cut.tokens)
    assert cut.finish_reason == "stop"


def test_an_answer_depends_on_seed_prompt_and_index_only(params):
    draw = lambda prompts, **more: sample(
        CONFIG, params, prompts, **{"n": 3, "max_tokens": 8, "seed": 4, "rows": 4, **more}
    )
    tokens = lambda answers: [answer.tokens for answer in answers]
    together = draw(PROMPTS)
    for prompt, answers in zip(PROMPTS, together, strict=True):
        assert tokens(draw([prompt])[0]) == tokens(answers)
        assert tokens(draw([prompt], n=1)[0]) == tokens(answers)[:1]
        assert tokens(draw([prompt], max_tokens=5)[0]) == [t[:5] for t in tokens(answers)]
        assert len({tuple(t) for t in tokens(answers)}) == 3
    assert tokens(draw(PROMPTS[::-1])[0]) == tokens(together[-1])
    assert tokens(draw(PROMPTS[:1], rows=5)[0]) == tokens(together[0])
    assert tokens(draw(PROMPTS[:1], seed=5)[0]) != tokens(together[0])


def test_draws_follow_the_softmax_at_the_temperature(params):
    (answers,) = sample(
        CONFIG, params, [[5, 6, 7]], n=4000, max_tokens=1, temperature=1.5, seed=1, rows=1000
    )
    counts = np.bincount([a.tokens[0] for a in answers], minlength=CONFIG.vocab_size)
    scores = full_logits(params, [5, 6, 7])[-1]
    expected = np.exp(log_softmax(scores / 1.5)) * 4000
    seen = expected > 5
    chi2 = ((counts - expected) ** 2 / expected)[seen].sum()
    assert chi2 < 2 * seen.sum()  # its mean is about seen.sum(); twice that is far in the tail


def test_ids_beyond_the_tokenizer_are_never_drawn(params):
    (answers,) = sample(
        CONFIG, params, [[1, 2]], n=64, max_tokens=8, temperature=5.0, vocab_limit=11, rows=64
    )
    drawn = {token for answer in answers for token in answer.tokens}
    assert max(drawn) < 11 and len(drawn) > 8


def test_logprobs_equal_the_full_log_softmax(params):
    completions = [[1, 2, 3], [4], [], list(range(30))]
    found = logprobs(CONFIG, params, PROMPTS, completions, rows=3)
    for prompt, completion, values in zip(PROMPTS, completions, found, strict=True):
        assert values.dtype == np.float32 and len(values) == len(completion)
        scores = log_softmax(full_logits(params, [*prompt, *completion]))
        for offset, token in enumerate(completion):
            expected = scores[len(prompt) - 1 + offset, token]
            assert values[offset] == pytest.approx(expected, abs=1e-4)


def test_samples_carry_the_logprobs_that_logprobs_gives(params):
    (answers,) = sample(CONFIG, params, [[5, 6, 7]], n=3, max_tokens=6, temperature=0.8, rows=4)
    found = logprobs(CONFIG, params, [[5, 6, 7]] * 3, [a.tokens for a in answers], rows=4)
    for answer, values in zip(answers, found, strict=True):
        np.testing.assert_allclose(answer.logprobs, values, atol=1e-4)


def test_other_lengths_compile_nothing_new(params):
    lengths = lambda *sizes: [[1 + i % 7 for i in range(size)] for size in sizes]
    ask = lambda prompts, tokens, heat: sample(
        CONFIG, params, prompts, n=2, max_tokens=tokens, temperature=heat, rows=2
    )
    score = lambda prompts: logprobs(CONFIG, params, prompts, prompts[::-1], rows=2)
    ask(lengths(1, 40), 4, 1.0), score(lengths(2, 40))
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **more: compiled.append(event) if "backend_compile" in event else None
    )
    jax.jit(lambda x: x * 3 + len(compiled))(np.float32(1))
    assert compiled, "this jax no longer reports compilations under that name"
    compiled.clear()
    ask(lengths(3, 17, 32, 33, 64), 7, 0.0), ask(lengths(50), 32, 0.3)
    score(lengths(1, 11, 16, 20, 31, 33))
    assert compiled == []


@pytest.mark.parametrize(
    ("prompts", "settings", "complaint"),
    [
        ([[1], []], {}, "prompt 1 is empty"),
        ([[1, 37]], {}, "outside 0..36"),
        ([[1]], {"temperature": -1.0}, "temperature"),
        ([[1]], {"max_tokens": 0}, "max_tokens=0"),
        ([[1]], {"vocab_limit": 38}, "vocab_limit=38"),
    ],
)
def test_mistakes_are_named(params, prompts, settings, complaint):
    with pytest.raises(UserError, match=complaint):
        sample(CONFIG, params, prompts, **settings)


def test_bfloat16_runs(params):
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    ((answer,),) = sample(config, params, [[1, 2]], max_tokens=3, temperature=0, rows=2)
    assert len(answer.tokens) == 3
