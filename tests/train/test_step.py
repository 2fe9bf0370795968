"""Properties of the loss and the step."""

import functools
import math
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from msm_jax.data.pipeline import load_data
from msm_jax.data.tokenizer import load_tokenizer
from msm_jax.errors import UserError
from msm_jax.model import ModelConfig, forward, make_mesh
from msm_jax.model.adapter import join
from msm_jax.model.decoder import Layer, bind, project
from msm_jax.train.config import stage
from msm_jax.train.evaluations import eval_sums
from msm_jax.train.loss import summed_loss, token_logprobs
from msm_jax.train.optimizer import (
    SCHEDULES,
    learning_rate,
    make_optimizer,
    make_schedule,
    split_params,
)
from msm_jax.train.step import make_step

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "model"))
from reference import drawn


@pytest.fixture(scope="module")
def batch(material):
    tokenizer = load_tokenizer(material / "t.model")
    source = {"path": str(material / "documents.jsonl"), "weight": 1.0, "loss_on": "all"}
    return load_data({"documents": source}, tokenizer, "compact", 40, 8, 0).rows(0)


sum_of = jax.jit(summed_loss, static_argnums=0)


def model(layers=2, **changes):
    return ModelConfig(128, 16, layers, 4, 2, 8, 32, **changes)


def test_packed_loss_is_the_sum_over_documents(batch):
    config = model()
    params = drawn(config)
    apart = {name: [] for name in batch}
    for row in range(8):
        ids = batch["segment_ids"][row]
        for segment in range(1, ids.max() + 1):
            here = np.flatnonzero(ids == segment)
            for name, value in batch.items():
                padded = np.zeros(40, value.dtype)
                padded[: here.size] = value[row, here]
                apart[name].append(padded)
    alone = {name: np.stack(rows) for name, rows in apart.items()}
    packed, single = sum_of(config, params, batch), sum_of(config, params, alone)
    assert float(packed) == pytest.approx(float(single), rel=1e-6)


def test_logprobs_against_a_plain_softmax(batch):
    from msm_jax.model import logits

    config = model()
    params = drawn(config)
    inputs = (batch[name] for name in ("tokens", "segment_ids", "positions"))
    hidden = jax.jit(forward, static_argnums=0)(config, params, *inputs)
    wanted = jax.nn.log_softmax(logits(config, params, hidden))
    wanted = np.take_along_axis(np.asarray(wanted), batch["targets"][..., None], -1)[..., 0]
    np.testing.assert_allclose(token_logprobs(config, params, batch), wanted, atol=1e-5)


def test_accumulated_is_one_batch_though_parts_weigh_differently(batch):
    config = model(layers=1)
    batch = dict(batch, loss_weights=batch["loss_weights"] * (np.arange(8) % 3 > 0)[:, None])
    results = []
    for parts in (1, 4):
        optimizer = optax.sgd(1.0)
        params = drawn(config)
        step = make_step(config, optimizer, parts)
        results.append(step(params, jax.jit(optimizer.init)(params), {}, batch))
    (whole, _, metrics), (cut, _, same_metrics) = results
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, cut)
    assert float(metrics["loss"]) == pytest.approx(float(same_metrics["loss"]), rel=1e-6)


@pytest.fixture(scope="module")
def bf16_lora(batch):
    """(base, adapter before, adapter after, losses) of 20 steps on a base in bfloat16."""
    config = model(dtype="bfloat16", param_dtype="bfloat16", lora_rank=4)
    params = drawn(config, adapter=0.0)
    trained, frozen = split_params(params, "lora")
    assert jax.tree.structure(join(trained, frozen)) == jax.tree.structure(params)
    before, optimizer, losses = jax.device_get(trained), optax.adam(1e-2), []
    state, step = jax.jit(optimizer.init)(trained), make_step(config, optimizer)
    for _ in range(20):
        trained, state, metrics = step(trained, state, frozen, batch)
        losses.append(float(metrics["loss"]))
    return frozen, before, trained, losses


def test_lora_moves_the_adapter_only(bf16_lora):
    _, before, after, _ = bf16_lora
    names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(after)}
    assert names == {"lora_a", "lora_b"}
    moved = jax.tree.map(lambda a, b: np.any(np.asarray(a) != np.asarray(b)), before, after)
    assert any(jax.tree.leaves(moved))
    with pytest.raises(UserError, match="lora_rank"):
        split_params(drawn(model()), "lora")


@pytest.fixture(scope="module")
def decayed():
    """(init, step) of an optimizer with weight decay, for batches in two parts."""
    recipe = stage().optimizer
    recipe.update({"learning_rate": 1e-2, "weight_decay": 0.5})
    optimizer, schedule = make_optimizer(recipe), make_schedule(recipe, 10)
    step = make_step(model(layers=1), optimizer, 2)
    return jax.jit(optimizer.init), functools.partial(step, schedule=schedule)


def test_a_batch_without_loss_tokens_changes_nothing_and_has_no_loss(batch, decayed):
    """Not by weight decay either, and not by the momentum of the steps before."""
    init, step = decayed
    params = drawn(model(layers=1))
    params, state, _ = step(params, init(params), {}, batch)
    before = jax.device_get((params, state))
    empty = dict(batch, loss_weights=np.zeros_like(batch["loss_weights"]))
    params, state, metrics = step(params, state, {}, empty)
    jax.tree.map(np.testing.assert_array_equal, before, (params, state))
    assert np.isnan(metrics["loss"]) and metrics["loss_tokens"] == metrics["skipped"] == 0


def test_eval_loss_and_probes_take_no_more_memory_than_a_step(config):
    """Their micro-batches and kernels are the step's: 8 rows in one would need 8 times as much."""
    shape, mesh = (8, 256), make_mesh({"data": 1, "fsdp": 1, "sequence": 1, "tensor": 1})
    # One layer: of more of them a step with remat="full" keeps more, and no other takes more.
    tall = model(layers=1, attention="plain", remat="full")
    rng = np.random.default_rng(0)
    long = {name: rng.integers(1, 128, shape).astype(np.int32) for name in ("tokens", "targets")}
    long["loss_weights"] = (long["tokens"] % 3 > 0).astype(np.float32)
    long["segment_ids"] = np.ones(shape, np.int32)
    long["positions"] = np.tile(np.arange(256, dtype=np.int32), (8, 1))
    params = drawn(tall)
    optimizer, schedule = make_optimizer(config.optimizer), make_schedule(config.optimizer, 10)
    temporary = lambda lowered: lowered.compile().memory_analysis().temp_size_in_bytes
    step = make_step(tall, optimizer, 8, mesh).lower(
        params, jax.eval_shape(optimizer.init, params), {}, long, schedule
    )
    cut = temporary(eval_sums.lower(tall, mesh, 8, params, long))
    assert 4 * cut < temporary(eval_sums.lower(tall, mesh, 1, params, long))
    assert cut < temporary(step)
    one = {name: array[:1] for name, array in long.items()}
    assert temporary(token_logprobs.lower(tall, params, one, mesh)) < temporary(step)
    whole, parts = (eval_sums(tall, mesh, number, params, long) for number in (1, 8))
    np.testing.assert_allclose(whole, parts, rtol=1e-6)
    assert float(whole[1]) == long["loss_weights"].sum()
    assert float(whole[0]) == pytest.approx(float(sum_of(tall, params, long)), rel=1e-6)


@pytest.mark.parametrize("form", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 10, 100])
def test_the_learning_rate_is_that_of_optax(form, warmup):
    """But that the first step of a warmup already moves; after the last step nothing does."""
    recipe = stage().optimizer
    recipe.update({"learning_rate": 3e-4, "warmup_fraction": warmup / 100, "schedule": form})
    schedule, decay = make_schedule(recipe, 100), max(100 - warmup, 1)
    after = {
        "cosine": optax.cosine_decay_schedule(3e-4, decay),
        "linear": optax.linear_schedule(3e-4, 0.0, decay),
        "constant": optax.constant_schedule(3e-4),
    }[form]
    rising = optax.linear_schedule(3e-4 / max(warmup, 1), 3e-4, max(warmup - 1, 1))
    wanted = optax.join_schedules([rising, after], [warmup])
    steps = np.arange(120)
    rates = jax.jit(functools.partial(learning_rate, form))(schedule, steps)
    assert rates.dtype == np.float32
    np.testing.assert_allclose(rates, jax.vmap(wanted)(steps), rtol=1e-5, atol=1e-10)
    assert rates[0] > 0 and rates[min(warmup, 99)] == np.float32(3e-4) == max(rates)


def test_stages_of_other_rates_and_lengths_are_one_program_which_is_optax_adamw(config):
    recipe, params = config.optimizer, {"w": jnp.linspace(-1.0, 1.0, 32).reshape(4, 8)}
    optimizer = make_optimizer(recipe)
    update = jax.jit(lambda *of, schedule: optimizer.update(*of, schedule=schedule))
    for peak, steps in ((1e-3, 4), (1e-2, 40)):
        recipe.learning_rate = peak
        schedule = make_schedule(recipe, steps)
        rate = functools.partial(learning_rate, recipe.schedule, schedule)
        words = {name: recipe[name] for name in ("b1", "b2", "eps", "weight_decay")}
        adamw = optax.adamw(rate, **words, mask={"w": True})
        theirs = optax.chain(optax.clip_by_global_norm(recipe.clip_norm), adamw)
        state, other = optimizer.init(params), theirs.init(params)
        assert jax.tree.structure(state.inner) == jax.tree.structure(other)
        for step in range(6):
            gradients = jax.tree.map(lambda array, step=step: jnp.sin(9 * array + step), params)
            ours, state = update(gradients, state, params, schedule=schedule)
            wanted, other = theirs.update(gradients, other, params)
            np.testing.assert_allclose(ours["w"], wanted["w"], rtol=1e-5, atol=1e-9)
    assert update._cache_size() == 1


def test_python_refuses_words_that_configs_refuse(config):
    with pytest.raises(UserError, match="trainable='lorra': one of"):
        split_params({}, "lorra")
    with config.unlocked():
        config.optimizer.schedule = "cosin"
    with pytest.raises(UserError, match="schedule='cosin': one of .'cosine', "):
        make_optimizer(config.optimizer)


def test_weight_decay_spares_norms(config):
    config.optimizer.update({"weight_decay": 0.5, "learning_rate": 0.1, "schedule": "constant"})
    config.optimizer.warmup_fraction = 0.0
    params = drawn(model())
    optimizer, schedule = make_optimizer(config.optimizer), make_schedule(config.optimizer, 10)
    zero = jax.tree.map(np.zeros_like, params)
    after_one = lambda *of: optimizer.update(zero, optimizer.init(params), params, schedule=of)
    updates, _ = jax.jit(after_one)(*schedule)
    assert not np.any(updates["final_norm"]["scale"])
    np.testing.assert_allclose(updates["embed"]["w"], -0.05 * params["embed"]["w"], rtol=1e-5)


def test_remat_changes_nothing_but_how_many_products_are_computed_again(batch):
    """Scores of plain attention; also o, gate, up; also q, k, v, and the sum over values."""
    results, products = [], []
    for remat in ("none", "dots", "attention", "full"):
        config = model(layers=1, remat=remat)  # each layer is like the others
        params = drawn(config)
        gradient = jax.jit(jax.grad(lambda p, b, c=config: summed_loss(c, p, b)))
        results.append(gradient(params, batch))
        products.append(gradient.lower(params, batch).as_text().count("dot_general"))
    for other in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), results[0], other)
    again = [each - products[0] for each in products]
    assert again == [0, 1, 1 + 3, 2 + 6]


def test_no_activation_is_kept_in_float32_and_no_weight_is_copied(batch, capsys):
    """Of 8 rows of 40 tokens, in 2 layers with bfloat16 products of float32 weights."""
    config = model(dtype="bfloat16")
    inputs = [batch[name] for name in ("tokens", "segment_ids", "positions")]
    params = drawn(config)
    total = lambda params: forward(config, params, *inputs).sum(dtype=jnp.float32)
    jax.ad_checkpoint.print_saved_residuals(total, params)
    shown = [line for line in capsys.readouterr().out.splitlines() if "argument" not in line]
    found = [re.match(r"(\w+)\[([\d,]*)\]", line).groups() for line in shown]
    activations = {dtype for dtype, shape in found if shape.endswith((",40,16", ",8", ",320,32"))}
    assert activations == {"bf16"}
    others = [shape.split(",") for _, shape in found if not {"40", "320"} & set(shape.split(","))]
    assert max(math.prod(map(int, shape)) for shape in others) == 2 * 16  # norms


def test_projections_of_the_same_vectors_share_one_product_with_their_adapters():
    """q, k and v, and gate and up: the values and gradients of each projection by itself."""
    config = model(lora_rank=4, lora_alpha=6.0)
    params = drawn(config)
    layer = jax.tree.map(lambda leaf: np.asarray(leaf)[0] + 0.1, params["layers"])
    x_BTD = np.random.default_rng(1).standard_normal((2, 5, config.width)).astype(np.float32)

    def total(layer, x, apart):
        bound = bind(Layer, config, layer)
        attention, mlp = bound.attention, bound.mlp
        groups = ((attention.q, attention.k, attention.v), (mlp.gate, mlp.up))
        found = [[p(x) for p in group] if apart else project(x, *group) for group in groups]
        return sum(jnp.sum(jnp.sin(each)) for each in jax.tree.leaves(found)), found

    run = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True), static_argnums=2)
    shared, apart = run(layer, x_BTD, False), run(layer, x_BTD, True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6), shared, apart)
    products = [run.lower(layer, x_BTD, apart).as_text().count("dot_general") for apart in (0, 1)]
    assert products == [3 * (5 + 5 + 2), 3 * (5 + 5 + 5)]


def test_lora_gradients_are_those_of_the_merged_model_projected(batch):
    """d/dB = s (dL/dW) A^T and d/dA = s B^T (dL/dW), by the chain rule on W + s B A."""
    adapted = model(lora_rank=4, lora_alpha=8.0, lora_targets=("q", "down"))
    params = drawn(adapted)
    trained, frozen = split_params(params, "lora")

    def merged(trained):
        layers = frozen["layers"]
        q, down = layers["attention"]["q"]["w"], layers["mlp"]["down"]["w"]
        a = trained["layers"]["attention"]["q"]
        m = trained["layers"]["mlp"]["down"]
        q = q + 2.0 * np.einsum("lhdr,lrm->lhdm", a["lora_b"], a["lora_a"])
        down = down + 2.0 * np.einsum("lmr,lrf->lmf", m["lora_b"], m["lora_a"])
        attention = {**layers["attention"], "q": {"w": q}}
        return {
            **frozen,
            "layers": {
                **layers,
                "attention": attention,
                "mlp": {**layers["mlp"], "down": {"w": down}},
            },
        }

    loss = lambda trained: summed_loss(adapted, join(trained, frozen), batch)
    found = jax.jit(jax.grad(loss))(trained)
    of_merged = jax.jit(jax.grad(lambda p: summed_loss(model(), p, batch)))
    of_w = of_merged(merged(trained))["layers"]
    down, m = of_w["mlp"]["down"]["w"], trained["layers"]["mlp"]["down"]
    wanted = {
        "lora_a": 2.0 * np.einsum("lmr,lmf->lrf", m["lora_b"], down),
        "lora_b": 2.0 * np.einsum("lmf,lrf->lmr", down, m["lora_a"]),
    }
    for name, value in wanted.items():
        ours = found["layers"]["mlp"]["down"][name]
        np.testing.assert_allclose(ours, value, rtol=1e-4, atol=1e-4)
    q, a = of_w["attention"]["q"]["w"], trained["layers"]["attention"]["q"]
    np.testing.assert_allclose(
        found["layers"]["attention"]["q"]["lora_b"],
        2.0 * np.einsum("lhdm,lrm->lhdr", q, a["lora_a"]),
        rtol=1e-4,
        atol=1e-4,
    )


def test_precision_of_the_two_regimes(bf16_lora):
    """bf16 products: full training keeps fp32 masters, LoRA a bf16 base under an fp32 adapter."""
    full = model(dtype="bfloat16")
    trained, _ = split_params(drawn(full), "all")
    assert {leaf.dtype for leaf in jax.tree.leaves(trained)} == {jnp.dtype("float32")}
    frozen, before, after, losses = bf16_lora
    assert {leaf.dtype for leaf in jax.tree.leaves(before)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(frozen)} == {jnp.dtype("bfloat16")}
    assert losses[-1] < losses[0] - 0.1
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype("float32")}


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(batch, decayed):
    init, step = decayed
    trained = drawn(model(layers=1))
    state = init(trained)
    bad = dict(batch, loss_weights=batch["loss_weights"] * np.float32(np.nan))
    counts = []
    for kind in (batch, bad, bad, batch):
        before = jax.device_get((trained, state.inner))
        trained, state, metrics = step(trained, state, {}, kind)
        counts.append((int(metrics["skipped"]), int(metrics["skipped_in_a_row"])))
        if kind is bad:
            jax.tree.map(np.testing.assert_array_equal, before, (trained, state.inner))
    assert counts == [(0, 0), (1, 1), (2, 2), (2, 0)]


def test_a_spike_is_skipped_by_finite_losses_only():
    from msm_jax.train.optimizer import SPIKE_WINDOW, skip_bad_steps

    optimizer = skip_bad_steps(optax.sgd(1.0), spikes=6.0)
    params = {"w": jnp.zeros(2)}
    state = optimizer.init(params)
    rng, update = np.random.default_rng(0), jax.jit(optimizer.update)
    feed = lambda state, loss: update({"w": jnp.ones(2)}, state, params, loss=jnp.float32(loss))[1]
    state = feed(state, 50.0)  # too early to tell
    state = feed(state, np.nan)
    for _ in range(SPIKE_WINDOW):
        state = feed(state, 2.0 + 0.01 * rng.normal())
    assert int(state.skipped) == 1
    state = feed(state, np.inf)
    state = feed(state, 3.0)
    assert (int(state.skipped), int(state.in_a_row)) == (3, 2)
    state = feed(state, 2.0)
    assert (int(state.skipped), int(state.in_a_row)) == (3, 0)
    assert bool(jnp.isfinite(state.recent).all())
