"""The chunked loss equals the plain one, in values and gradients, and never holds [B, T, V]."""

import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msm_jax.model import ModelConfig, abstract_params
from msm_jax.train import loss as loss_module
from msm_jax.train.loss import chunk_length, cross_entropy, summed_loss, token_logprobs

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "model"))
from reference import drawn

B, T, D, V = 3, 10, 8, 37


@pytest.fixture
def arguments():
    rng = np.random.default_rng(0)
    return (
        rng.standard_normal((B, T, D)).astype(np.float32),
        rng.standard_normal((V, D)).astype(np.float32),
        rng.integers(0, V, (B, T)).astype(np.int32),
        (rng.random((B, T)) < 0.7).astype(np.float32),
    )


def plain(hidden_BTD, w_VD, targets_BT, weights_BT):
    """By optax's cross-entropy on all scores at once."""
    import optax

    losses = optax.softmax_cross_entropy_with_integer_labels(hidden_BTD @ w_VD.T, targets_BT)
    return jnp.sum(losses * weights_BT)


@pytest.mark.parametrize("chunk", [1, 3, 5, 10])
def test_chunked_is_plain_in_value_and_gradient(arguments, chunk):
    ours = lambda *a: 3 * cross_entropy(chunk, None, *a)

    @jax.jit
    def run(*a):
        both = lambda f: jax.value_and_grad(f, (0, 1))(*a)
        # Without a gradient the value is computed in another way.
        return both(lambda *a: 3 * plain(*a)), both(ours), ours(*a), jax.grad(ours)(*a)

    (wanted, (dh, dw)), (found, (dh_, dw_)), value, dh_alone = run(*arguments)
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    assert float(value) == pytest.approx(float(wanted))
    np.testing.assert_allclose(dh_, dh, atol=1e-5)
    np.testing.assert_allclose(dw_, dw, atol=1e-5)
    np.testing.assert_allclose(dh_alone, dh, atol=1e-5)


def test_tokens_without_loss_are_not_computed_and_get_no_gradient(arguments):
    """Half of the tokens have loss, and fill a chunk of three rows; nothing else is looked at."""
    hidden, w, targets, _ = arguments
    has_loss = np.random.default_rng(4).permutation(np.arange(B * T) % 2 == 0).reshape(B, T)
    weights, real = has_loss.astype(np.float32), has_loss[..., None]
    run = lambda f, h: jax.jit(jax.value_and_grad(f, (0, 1)))(h, w, targets, weights)
    wanted = run(plain, hidden)
    unread = np.where(real, hidden, np.float32(np.nan))
    found = run(lambda *a: cross_entropy(5, None, *a), unread)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, wanted)
    assert not np.any(np.where(real, 0.0, found[1][0]))


def test_bf16_products_sum_in_float32(arguments):
    hidden, w, targets, weights = arguments
    wanted = jax.jit(jax.grad(plain, (0, 1)))(*arguments)
    ours = lambda h, w: cross_entropy(5, None, h, w, targets, weights)
    found = jax.jit(jax.grad(ours, (0, 1)))(hidden.astype(jnp.bfloat16), w)
    assert found[0].dtype == jnp.bfloat16 and found[1].dtype == jnp.float32
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(ours, np.float32), theirs, atol=0.06)


def test_the_models_loss_does_not_depend_on_the_chunks(monkeypatch):
    config = ModelConfig(91, 16, 1, 4, 2, 8, 32)  # the chunks are of what the layers return
    params = drawn(config)
    rng = np.random.default_rng(0)
    batch = {name: rng.integers(1, 91, (4, 24)).astype(np.int32) for name in ("tokens", "targets")}
    batch["segment_ids"] = np.ones((4, 24), np.int32)
    batch["positions"] = np.tile(np.arange(24, dtype=np.int32), (4, 1))
    batch["loss_weights"] = rng.integers(0, 2, (4, 24)).astype(np.float32)
    run = lambda: jax.jit(jax.value_and_grad(lambda p: summed_loss(config, p, batch)))(params)
    wanted, logprobs = run(), token_logprobs(config, params, batch)
    monkeypatch.setattr(loss_module, "PLAIN", 1)
    monkeypatch.setitem(loss_module.CHUNK, "cpu", 91 * 4 * 7)
    assert chunk_length((4, 24, 16), 91) == 6
    token_logprobs.clear_cache()
    np.testing.assert_allclose(token_logprobs(config, params, batch), logprobs, atol=1e-6)
    token_logprobs.clear_cache()
    found = run()
    assert float(found[0]) == pytest.approx(float(wanted[0]), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found[1], wanted[1])


@pytest.mark.parametrize("trainable", ["all", "lora"])
def test_at_v_152k_no_array_of_the_program_is_b_t_v(config, trainable):
    """Looks at every shape of the compiled step, not at an estimate."""
    from msm_jax.train.optimizer import make_optimizer, make_schedule, split_params
    from msm_jax.train.step import make_step

    rows, length, vocab = 2, 256, 151_936
    model = ModelConfig(vocab, 16, 1, 2, 1, 8, 16, lora_rank=2 * (trainable == "lora"))
    trained, frozen = split_params(abstract_params(model), trainable)
    optimizer = make_optimizer(config.optimizer)
    shape = lambda dtype: jax.ShapeDtypeStruct((rows, length), dtype)
    batch = dict.fromkeys(("tokens", "targets", "segment_ids", "positions"), shape(jnp.int32))
    batch["loss_weights"] = shape(jnp.float32)
    state = jax.eval_shape(optimizer.init, trained)
    shapes = trained, state, frozen, batch, make_schedule(config.optimizer, 10)
    compiled = make_step(model, optimizer).lower(*shapes).compile()
    sizes = {
        int(np.prod([int(n) for n in dims.split(",")]))
        for dims in re.findall(r"\b(?:f32|bf16|s32|u32|pred)\[([\d,]+)\]", compiled.as_text())
    }
    assert max(sizes) >= vocab * 16  # the head itself is there
    assert max(sizes) <= max(vocab * 16, loss_module.CHUNK["cpu"]) < rows * length * vocab / 4
    if trainable == "lora":  # a frozen head gets no gradient: nothing of its size in float32 twice
        assert compiled.memory_analysis().temp_size_in_bytes < 3 * 4 * loss_module.CHUNK["cpu"]
