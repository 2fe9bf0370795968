"""cuDNN's attention without cuDNN: its contract, computed in JAX, and what is lowered for CUDA."""

import dataclasses
import json
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from attention_cases import case, compare, segment_ids
from attention_cases import small_model as model
from reference import drawn

from msm_jax.model import ModelConfig, abstract_params, cudnn, decode, init_params, kernels
from msm_jax.model.attention import attend
from msm_jax.model.cudnn import choose_way, documents_in, find_rows
from msm_jax.model.decoder import UNROLLED_LAYERS
from msm_jax.train.config import stage
from msm_jax.train.loss import summed_loss
from msm_jax.train.optimizer import make_optimizer, make_schedule, split_params
from msm_jax.train.step import make_step


def random_segments(rows, T, most, seed=0):
    """Lengths of up to `most` documents, negative for padding, as `case` takes them."""
    rng, found = np.random.default_rng(seed), [(T,), (-T,), (T - 9,)]
    for _ in range(rows):
        ends = np.sort(rng.choice(np.arange(1, T), rng.integers(1, most), replace=False))
        found.append(tuple(int(each) for each in np.diff([0, *ends])))
    return found


def contract(ids_BT=None):
    """What cuDNN promises of `_packed_call`: attention within the runs, and NaN everywhere else.

    With `ids_BT` it also leaves NaN on padding, forward and backward, as if no run had it.
    """

    def owner(starts_Bm, lengths_Bn, T):
        at_T = jnp.arange(T)[None, None]
        starts, lengths = starts_Bm[:, :-1, None], lengths_Bn[..., None]
        inside_BnT = (at_T >= starts) & (at_T < starts + lengths) & (starts >= 0)
        owner_BT = jnp.where(inside_BnT.any(1), jnp.argmax(inside_BnT, axis=1), -1)
        return owner_BT if ids_BT is None else jnp.where(ids_BT > 0, owner_BT, -1)

    def within(q, k, v, owner_BT):
        T = q.shape[1]
        mask = (owner_BT[:, :, None] == owner_BT[:, None]) & (owner_BT >= 0)[:, :, None]
        return attend(q, k, v, mask & jnp.tril(jnp.ones((1, T, T), bool)))

    written = lambda x, owner_BT: jnp.where((owner_BT >= 0)[..., None, None], x, jnp.nan)

    @jax.custom_vjp
    def call(q, k, v, starts_Bm, lengths_Bn):
        return forward(q, k, v, starts_Bm, lengths_Bn)[0]

    def forward(q, k, v, starts_Bm, lengths_Bn):
        owner_BT = owner(starts_Bm, lengths_Bn, q.shape[1])
        return written(within(q, k, v, owner_BT), owner_BT), (q, k, v, owner_BT)

    def backward(kept, cotangent):
        q, k, v, owner_BT = kept
        _, back = jax.vjp(lambda *qkv: within(*qkv, owner_BT), q, k, v)
        return *(written(d, owner_BT) for d in back(cotangent)), None, None

    call.defvjp(forward, backward)
    return call


def spoilt(ids, *arrays):
    """With NaN on padding."""
    return [jnp.where((ids > 0)[..., None, None], x, jnp.nan) for x in arrays]


@pytest.mark.parametrize(
    ("unwritten", "repeated", "documents"), [(True, True, 9), (True, False, 40), (False, False, 9)]
)
def test_packed_is_plain_whatever_is_on_padding(monkeypatch, unwritten, repeated, documents, T=48):
    q, k, v, cotangent, ids = case(T, 6, 2, 8, [*random_segments(5, T, 9), (7, -5, 20), (-3, 9)])
    keys = []

    def call(q, k, *rest):
        keys.append(k.shape[2])
        return contract(ids if unwritten else None)(q, k, *rest)

    monkeypatch.setattr(cudnn, "_packed_call", call)
    monkeypatch.setattr(cudnn, "GROUPED_OFFSETS", (99,) if repeated else (0,))
    packed = lambda q, k, v, ids: cudnn.packed(*spoilt(ids, q, k, v), find_rows(ids, documents))
    compare(packed, q, k, v, cotangent, ids, atol=1e-5)
    assert set(keys) == {6 if repeated else 2}


def test_every_token_is_in_one_run(T=48):
    ids = segment_ids(T, random_segments(8, T, 12, seed=1))
    rows = jax.device_get(jax.jit(find_rows, static_argnums=1)(ids, documents_in(ids)))
    assert rows.fits_B.all()
    for starts, lengths in zip(rows.starts_Bm, rows.lengths_Bn, strict=True):
        used = np.asarray(lengths) > 0
        assert lengths.sum() + np.sum(~used) == T  # -1 where there is none
        assert starts[-1] == -1 and len(starts) == len(lengths) + 1
        ends = np.cumsum(lengths[used])
        np.testing.assert_array_equal(starts[:-1][used], [0, *ends[:-1]])
        np.testing.assert_array_equal(starts[:-1][~used], -1)


def test_jax_passes_on_where_each_run_begins(monkeypatch, T=48):
    """With the strides of what it is given: JAX before 0.11.2 would take those of the queries."""
    passed = {}

    def call(q, k, v, starts_Bm, lengths_Bn):
        fix = cudnn._fused_attention()._fix_seqlen_offsets
        passed["all"] = fix(lengths_Bn, lengths_Bn, starts_Bm, starts_Bm, q, k)
        passed["strides"] = [x.shape[2] * x.shape[3] for x in (q, k)]
        return q

    monkeypatch.setattr(cudnn, "_packed_call", call)
    ids = segment_ids(T, random_segments(3, T, 9))

    @jax.jit
    def run(ids):
        make = lambda heads: jnp.zeros((*ids.shape, heads, 8))
        cudnn.packed(make(6), make(2), make(2), find_rows(ids, 9))
        return passed["all"]

    found = [np.asarray(x).ravel() for x in run(ids)]
    new = np.pad(ids[:, 1:] != ids[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    begins = np.flatnonzero(new)
    sizes = np.diff([*begins, ids.size])
    for lengths, offsets, stride in zip(found[:2], found[2:], passed["strides"], strict=True):
        np.testing.assert_array_equal(lengths[: len(sizes)], sizes)
        np.testing.assert_array_equal(offsets[: len(sizes)], begins * stride)
        assert not lengths[len(sizes) :].any()


def test_causal_is_plain_and_more_documents_than_promised_give_nan(monkeypatch, T=32):
    seen = jnp.tril(jnp.ones((1, T, T), bool))
    monkeypatch.setattr(cudnn, "_causal_call", lambda q, k, v: attend(q, k, v, seen))
    monkeypatch.setattr(cudnn, "_packed_call", contract())
    causal = lambda q, k, v, ids: cudnn.causal(*spoilt(ids, q, k, v), find_rows(ids, 1))
    compare(causal, *case(T, 4, 2, 8, [(T,), (20,), (-T,), (30,), (9,)]), atol=1e-5)
    q, k, v, _, ids = case(T, 4, 2, 8, [(20,), (5, 6), (-3, 9), (4, 4, 4, 4), (4,) * 5])

    def nan_rows(run, documents):
        out = jax.jit(lambda q, k, v, ids: run(q, k, v, find_rows(ids, documents)))(q, k, v, ids)
        bad = np.isnan(np.asarray(out)).reshape(len(ids), -1)
        assert (bad.any(1) == bad.all(1)).all()
        return np.flatnonzero(bad.all(1)).tolist()

    assert nan_rows(cudnn.causal, 1) == [1, 2, 3, 4]
    assert nan_rows(cudnn.packed, 3) == [3, 4]
    assert nan_rows(cudnn.packed, 5) == []
    assert documents_in(np.asarray(ids)) == 5 and documents_in(np.asarray(ids[:1])) == 1


def small(**changes):
    return ModelConfig(96, 16, 1, 4, 2, 8, 32, **changes)


def test_a_models_gradient_is_that_of_plain_attention(monkeypatch):
    """With NaN wherever cuDNN would not write, and activations kept and computed again."""
    ids = segment_ids(48, random_segments(1, 48, 6))
    draw = lambda seed: np.random.default_rng(seed).integers(1, 96, ids.shape).astype(np.int32)
    weights = ((ids > 0) * (draw(3) % 4 > 0)).astype(np.float32)
    batch = {"tokens": draw(1), "targets": draw(2), "loss_weights": weights, "segment_ids": ids}
    batch["positions"] = np.broadcast_to(np.arange(48, dtype=np.int32), ids.shape)
    params = drawn(small())
    monkeypatch.setattr(kernels, "platform_of", lambda mesh: "gpu")
    monkeypatch.setattr(kernels, "_no_cudnn", lambda *_: "")
    monkeypatch.setattr(cudnn, "no_packed", lambda: "")
    monkeypatch.setattr(cudnn, "_packed_call", contract(jnp.asarray(ids)))
    plain, packed = small(attention="plain"), small(attention="cudnn", remat="attention")

    @jax.jit
    def both(params):
        loss = lambda config, documents: jax.value_and_grad(
            lambda params: summed_loss(config, params, batch, None, documents)
        )(params)
        return loss(plain, None), loss(packed, documents_in(ids))

    wanted, found = both(params)
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    jax.tree.map(near, found, wanted)


# ------------------------------------------------------------------ lowered for CUDA, on a CPU


@pytest.fixture
def hopper(monkeypatch):
    """What JAX asks of the machine, answered as an H100 would."""
    fused = cudnn._fused_attention()
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(cudnn, "compute_capability", lambda: 9.0)
    monkeypatch.setattr(kernels, "platform_of", lambda mesh: "gpu")
    return fused


def lowered(f, *arguments):
    """The program for CUDA as text."""
    return jax.jit(f).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


def attention_calls(text):
    """(name, mask type, largest number of segments) of each call of cuDNN's attention."""
    found = []
    for line in text.splitlines():
        if not (name := re.search(r"custom_call @(__cudnn\$fmha\w+)", line)):
            continue
        settings = re.search(r'backend_config = "(.*?)"[,}]', line)[1].replace("\\22", '"')
        settings = json.loads(settings)["cudnn_fmha_backend_config"]
        found.append((name[1], settings["mask_type"], settings["max_seg_per_batch"]))
    return found


FORWARD, BACKWARD = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"
T = 136  # no other axis has this length


def has_scores(text):
    return bool(re.search(rf"(?<!\d){T}x{T}x", text))


def test_which_way_documents_are_kept_apart(hopper, monkeypatch):
    assert choose_way(12)[0] == "packed" and choose_way(1)[0] == "causal"
    assert choose_way(None)[0] == choose_way(12, parts=2)[0] == "mask"
    monkeypatch.setattr(hopper, "check_cudnn_version", lambda: 90500)
    assert choose_way(12) == ("mask", "cuDNN packs rows from version 90600, this is 90500")
    monkeypatch.setattr(hopper, "dot_product_attention", lambda query, key, value: None)
    way, why = choose_way(12)
    assert way == "mask" and "lacks kv_offsets, kv_seqlen, mask_type" in why
    monkeypatch.setattr(cudnn, "compute_capability", lambda: 8.9)
    assert "Hopper" in choose_way(12)[1] and choose_way(1)[0] == "causal"
    bf16 = model(dtype="bfloat16")
    text = kernels.describe_attention(bf16, 4096, None, 12)
    assert text.startswith("cudnn (auto on gpu), mask (cuDNN packs rows from compute capability")
    assert kernels.describe_attention(model(), 4096, None, 12).startswith("plain (no cudnn: ")


@pytest.mark.parametrize(
    ("documents", "mask_type", "segments"), [(7, "PADDING_CAUSAL", 8), (1, "CAUSAL", 1)]
)
def test_attention_is_lowered_without_scores(hopper, documents, mask_type, segments):
    q, k, v, cotangent, ids = case(T, 8, 2, 64, [(40, 90), (T,)], "bfloat16")

    def run(q, k, v, cotangent, ids):
        config = model(dtype="bfloat16")
        attention = kernels.packed_attention(config, ids, None, documents=documents)
        out, back = jax.vjp(attention, q, k, v)
        return out, back(cotangent)

    text = lowered(run, q, k, v, cotangent, ids)
    calls = attention_calls(text)
    assert calls == [(FORWARD, mask_type, segments), (BACKWARD, mask_type, segments)]
    assert not has_scores(text)
    # What is read here would be seen: the mask and its scores.
    assert has_scores(lowered(lambda *a: cudnn.masked(*a), q, k, v, ids))


def test_prefill_and_decode_are_lowered_without_scores(hopper):
    config = model(dtype="bfloat16", param_dtype="bfloat16")
    params = jax.eval_shape(lambda: decode.unstacked(init_params(config, jax.random.key(0))))
    ids, lengths = jax.ShapeDtypeStruct((3, T), jnp.int32), jax.ShapeDtypeStruct((3,), jnp.int32)
    text = lowered(lambda *a: decode.prefill(config, *a), params, ids, lengths)
    # Of the last layer only the keys and values are kept.
    assert attention_calls(text) == [(FORWARD, "CAUSAL", 1)] * (config.layers - 1)
    assert not has_scores(text)
    prompts = jax.eval_shape(lambda: decode.empty(config, 3, T))
    rings = jax.eval_shape(lambda: decode.empty_rings(config, 3, 2, 32))
    chunk = jax.eval_shape(lambda: decode.empty_chunk(decode.empty_rings(config, 3, 2, 32)))
    tokens = jax.ShapeDtypeStruct((3, 2), jnp.int32)
    step = lambda *a: decode.decode(config, *a)
    text = lowered(step, params, prompts, rings, chunk, tokens, tokens)
    assert not attention_calls(text) and not has_scores(text)


@pytest.mark.parametrize(
    ("trainable", "remat"),
    [
        ("lora", "full"),
        ("lora", "dots"),
        ("lora", "attention"),
        ("lora", "offload"),
        ("all", "none"),
    ],
)
def test_a_training_step_is_lowered_without_scores(hopper, trainable, remat):
    """Two micro-batches; layers in a loop, so that every call is in the program once."""
    rank = 4 if trainable == "lora" else 0
    config = model(dtype="bfloat16", remat=remat, lora_rank=rank)
    config = dataclasses.replace(config, layers=UNROLLED_LAYERS + 1)
    params = abstract_params(config)
    trained, frozen = split_params(params, trainable)
    recipe = stage().optimizer
    optimizer, schedule = make_optimizer(recipe), make_schedule(recipe, 10)
    state = jax.eval_shape(optimizer.init, trained)
    of = lambda dtype: jax.ShapeDtypeStruct((4, T), dtype)
    names = ("tokens", "targets", "segment_ids", "positions")
    batch = {**dict.fromkeys(names, of(jnp.int32)), "loss_weights": of(jnp.float32)}
    step = make_step(config, optimizer, 2, None, documents=7)
    traced = step.trace(trained, state, frozen, batch, schedule)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    again = [(FORWARD, "PADDING_CAUSAL", 8)] if remat in ("full", "offload") else []
    assert attention_calls(text) == [
        (FORWARD, "PADDING_CAUSAL", 8), *again, (BACKWARD, "PADDING_CAUSAL", 8)
    ]  # fmt: skip
    assert not has_scores(text)
