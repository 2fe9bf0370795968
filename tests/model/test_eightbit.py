"""Weights in 8 bits: how they are rounded, and that a model computes what its rounded weights are.

The rounding and the weights that the 8 bits stand for are computed here, in numpy and float64.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from msm_jax.errors import UserError
from msm_jax.model import ModelConfig, abstract_params, decode
from msm_jax.model.adapter import join, merge
from msm_jax.model.decoder import UNROLLED_LAYERS
from msm_jax.model.eightbit import quantized, to_eight_bits
from msm_jax.sample import sample
from msm_jax.train.loss import summed_loss
from msm_jax.train.optimizer import split_params
from msm_jax.weights.dtypes import as_stored


def rounded(w, kind):
    """(q, scale) of channels [C, I], from the definition."""
    top = np.abs(w).max(-1)
    if kind == "int8":
        scale = (top.astype(np.float32) * np.float32(1 / 127)).astype(ml_dtypes.bfloat16)
        scale = np.maximum(scale.astype(np.float64), 2.0**-100)
        steps = np.floor(np.abs(w) / scale[:, None] + 0.5)
        return np.sign(w) * np.minimum(steps, 127), scale
    scale = 2.0 ** (np.floor(np.log2(np.maximum(top, 2.0**-100))) - 7)
    return (w / scale[:, None]).astype(ml_dtypes.float8_e4m3fn).astype(np.float64), scale


@pytest.mark.parametrize(("kind", "worst"), [("int8", 0.6 / 127), ("float8", 2.0**-4)])
def test_every_channel_is_rounded_to_its_own_scale(kind, worst):
    rng = np.random.default_rng(0)
    w = (rng.standard_normal((96, 500)) * 10.0 ** rng.integers(-9, 3, (96, 1))).astype(
        ml_dtypes.bfloat16
    )
    w[0] = 0
    w[1] = np.where(np.arange(500) % 2, 1.5, 127)  # scale 1: halves
    q, scale = jax.jit(quantized, static_argnums=(1, 2))(jnp.asarray(w), kind, 1)
    w, q, scale = (np.asarray(x, np.float64) for x in (w, q, scale))
    wanted_q, wanted_scale = rounded(w, kind)
    np.testing.assert_array_equal(scale, wanted_scale)
    np.testing.assert_array_equal(q, wanted_q)
    assert (np.abs(q * scale[:, None] - w) <= worst * np.abs(w).max(-1, keepdims=True)).all()


def model(**changes):
    return ModelConfig(128, 16, 2, 4, 2, 8, 32, lora_rank=3, **changes)


def plain_weights(params):
    """The same tree with float32 weights, from the numbers and their scales."""
    if not isinstance(params, dict):
        return np.asarray(params, np.float32)
    found = {name: plain_weights(leaf) for name, leaf in params.items() if name != "w_scale"}
    if "w_scale" in params:
        scale = np.asarray(params["w_scale"], np.float64)
        q = np.asarray(params["w"], np.float64)
        found["w"] = (q * scale.reshape(scale.shape + (1,) * (q.ndim - scale.ndim))).astype("f4")
    return found


@pytest.fixture(scope="module", params=["int8", "float8"])
def both(request):
    """(config in 8 bits, its parameters), (config in float32, parameters of the same numbers)."""
    eight, plain = model(param_dtype=request.param), model()
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name, numbers = path[-1].key, rng.standard_normal(leaf.shape)
        if name == "w_scale":
            numbers = (0.2 + numbers**2) / 500
        elif leaf.dtype.itemsize == 1:
            numbers = np.clip(np.round(40 * numbers), -127, 127)
        else:
            numbers = numbers * 0.2 + (name == "scale")
        return jnp.asarray(numbers.astype(leaf.dtype))

    params = jax.tree_util.tree_map_with_path(draw, abstract_params(eight))
    return (eight, params), (plain, jax.tree.map(jnp.asarray, plain_weights(params)))


def random_batch(shape=(2, 24)):
    draw = lambda seed: np.random.default_rng(seed).integers(1, 128, shape).astype(np.int32)
    ids = np.repeat([[1] * 10 + [2] * 12 + [0] * 2], shape[0], 0).astype(np.int32)
    at = np.concatenate([np.arange(10), np.arange(12), np.zeros(2)]).astype(np.int32)
    batch = {"tokens": draw(1), "targets": draw(2), "segment_ids": ids}
    return batch | {"positions": np.tile(at, (shape[0], 1)), "loss_weights": 1.0 * (ids > 0)}


def test_a_lora_step_is_that_over_the_weights_that_the_8_bits_stand_for(both):
    """The loss, so the forward pass, and the adapter's gradient; the base has none."""

    def step(config, params):
        # The base is an argument: as a constant it would make another program of the same model.
        loss = lambda *parts: summed_loss(config, join(*parts), random_batch())
        return jax.jit(jax.value_and_grad(loss))(*split_params(params, "lora"))

    (eight, params), (plain, same) = both
    loss, found = step(eight, params)
    wanted_loss, wanted = step(plain, same)
    assert float(loss) == pytest.approx(float(wanted_loss), rel=1e-6)
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())
    jax.tree.map(near, found, wanted)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))


def test_the_sampler_draws_the_same(both):
    prompts = [[3, 4, 5], [9] * 20]
    found, wanted = (sample(*each, prompts, n=2, max_tokens=8, rows=4) for each in both)
    for a, b in zip(sum(found, []), sum(wanted, []), strict=True):
        assert a.tokens == b.tokens
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)


def test_a_model_is_stored_in_8_bits_and_back(both):
    (eight, params), (plain, same) = both
    back = as_stored(plain, jax.tree.map(jnp.copy, params))
    jax.tree.map(np.testing.assert_array_equal, back, jax.tree.map(np.asarray, same))
    again = as_stored(eight, back)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    bound = {"int8": 0.01, "float8": 2.0**-4}[eight.param_dtype]
    for name in ("q", "o"):
        found, wanted = (
            plain_weights(x["layers"]["attention"][name])["w"] for x in (again, params)
        )
        assert np.abs(found - wanted).max() <= bound * np.abs(wanted).max()
    with pytest.raises(UserError, match="8 bits .*cannot be merged.*--dtype=bfloat16.*--to=peft"):
        merge(eight, params)


def test_scales_are_placed_with_their_channels():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tensor"))
    spec = jax.sharding.PartitionSpec(None, "tensor", None, "fsdp")
    place = jax.sharding.NamedSharding(mesh, spec)
    found = to_eight_bits(jax.device_put(jnp.ones((2, 4, 8, 6)), place), "int8", 3)
    assert found["w"].sharding.spec == spec and found["w"].shape == (2, 4, 8, 6)
    assert found["w_scale"].sharding.spec[:2] == spec[:2] and found["w_scale"].shape == (2, 4, 8)


@pytest.mark.parametrize("kind", ["int8", "float8"])
def test_for_cuda_a_matrix_is_converted_within_its_product_only(kind):
    """Layers in a loop: what is lowered converts a layer's matrix, and only to multiply by it."""
    bf16 = {"dtype": "bfloat16", "param_dtype": kind, "remat": "full"}
    config = dataclasses.replace(model(**bf16), layers=UNROLLED_LAYERS + 1)
    trained, frozen = split_params(abstract_params(config), "lora")
    loss = lambda trained, frozen: summed_loss(config, join(trained, frozen), random_batch())
    step = jax.jit(jax.value_and_grad(loss)).trace(trained, frozen)
    unstacked = jax.eval_shape(decode.unstacked, abstract_params(config))
    ids, lengths = jax.ShapeDtypeStruct((3, 8), jnp.int32), jax.ShapeDtypeStruct((3,), jnp.int32)
    prefill = jax.jit(decode.prefill, static_argnums=0).trace(config, unstacked, ids, lengths)
    stored = {"int8": "i8", "float8": "f8E4M3FN"}[kind]
    # Seven matrices forward, six again for remat, seven backward; in a prefill those of all layers,
    # of the last one only for its keys and values.
    for traced, products in ((step, 7 + 6 + 7), (prefill, 7 * config.layers - 5)):
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        converted = re.findall(rf"(%\S+) = stablehlo.convert .*tensor<[\dx]+x{stored}>\)", text)
        shapes = re.findall(rf"convert .*tensor<([\dx]+)x{stored}>\) -> tensor<\1xbf16>", text)
        assert len(shapes) == len(converted) == products
        assert all(shape.count("x") == 1 for shape in shapes)
        for name in converted:
            uses = re.findall(rf"stablehlo\.(\w+) .*{name}\b(?!\w)", text)
            assert "dot_general" in uses
