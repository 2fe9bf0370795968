"""Every attention equals the oracle within segments, forward and backward."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from attention_cases import case, compare
from attention_cases import small_model as model

from msm_jax.errors import UserError
from msm_jax.model import cudnn, kernels
from msm_jax.model.attention import attend, attend_by_head, segment_mask
from msm_jax.model.blockwise import blockwise_attention
from msm_jax.model.kernels import choose_attention, splash


@pytest.mark.parametrize(
    ("T", "block", "segments", "H", "K"),
    [
        (64, 16, [(64,), (5, 11, 16, 30)], 6, 2),
        # Not whole blocks, and padding.
        (50, 16, [(50,), (1, 1, 40), (17, -9, 20), (-50,)], 4, 4),
        (50, 16, [(50,), (1, 1, 40), (17, -9, 20), (-50,)], 6, 2),
        (40, 64, [(13, 20)], 4, 4),  # a block longer than the row
    ],
)
def test_blockwise_is_plain(T, block, segments, H, K):
    attention = lambda *a: blockwise_attention(*a, block=block)
    compare(attention, *case(T, H, K, 8, segments), atol=1e-5)


def test_blockwise_in_bfloat16(T=64):
    attention = lambda *a: blockwise_attention(*a, block=16)
    compare(attention, *case(T, 4, 2, 16, [(40, 20)], "bfloat16"), atol=0.06)


def test_blockwise_visits_blocks_of_its_own_documents_only():
    """What it never looks at may be anything, even NaN."""
    q, k, v, _, ids = case(64, 2, 2, 8, [(32, 32)])
    spoilt = np.where(np.arange(64)[:, None, None] < 32, np.float32(np.nan), k)
    attention = jax.jit(lambda k: blockwise_attention(q, k, v, ids, block=16))
    out, wanted = attention(spoilt), attention(k)
    np.testing.assert_array_equal(out[:, 32:], wanted[:, 32:])


@pytest.mark.parametrize(("T", "parts"), [(64, 2), (32, 4)])
def test_blockwise_of_parts_of_rows_is_that_of_the_rows(T, parts):
    """As a device has them, where the sequence axis cuts rows: two blocks each, or half of one."""

    def attention(q, k, v, ids):
        length = q.shape[1] // parts
        one = lambda i: blockwise_attention(
            q[:, i * length : (i + 1) * length], k, v, ids, jnp.int32(i * length), block=16
        )
        return jnp.concatenate([one(i) for i in range(parts)], axis=1)

    compare(attention, *case(T, 6, 2, 16, [(T,), (5, 11, T // 4, -T // 4)]), atol=2e-5)


def test_splash_in_interpret_mode_is_plain(monkeypatch):
    monkeypatch.setattr(kernels, "INTERPRET", True)
    compare(splash, *case(256, 2, 1, 64, [(100, 130)]), atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "length", "platform", "kind"),
    [
        ({}, 4096, "cpu", "blockwise"),
        ({}, 64, "cpu", "plain"),
        ({}, 4096, "tpu", "splash"),
        ({}, 4000, "tpu", "blockwise"),
        ({"dtype": "bfloat16"}, 4096, "gpu", "cudnn"),
        ({}, 4096, "gpu", "plain"),
        ({"attention": "plain"}, 4096, "tpu", "plain"),
    ],
)
def test_which_one_runs(changes, length, platform, kind):
    found, why = choose_attention(model(**changes), length, platform)
    assert found == kind and why


def test_what_cannot_run_is_refused():
    with pytest.raises(UserError, match="runs on TPUs, this is cpu"):
        choose_attention(model(attention="splash"), 4096, "cpu")
    with pytest.raises(UserError, match="model.dtype=bfloat16, not float32"):
        choose_attention(model(attention="cudnn"), 4096, "gpu")
    with pytest.raises(UserError, match="model.attention='flash'"):
        model(attention="flash")


@pytest.mark.parametrize("capability, kind", [(7.5, "plain"), (8.0, "cudnn"), (10.0, "cudnn")])
def test_old_gpus_do_without_cudnn(monkeypatch, capability, kind):
    monkeypatch.setattr(cudnn, "compute_capability", lambda: capability)
    found, why = choose_attention(model(dtype="bfloat16"), 4096, "gpu")
    assert found == kind and ("Ampere" in why) == (kind == "plain")


def test_blockwise_runs_on_a_gpu_only_where_nothing_else_fits():
    kind, why = choose_attention(model(), 32768, "gpu")
    assert kind == "blockwise" and "no cudnn: " in why and "no plain: its scores take 24.0" in why


def test_plain_by_head_is_plain():
    compare(attend_by_head, *case(50, 6, 2, 8, [(50,), (17, -9, 20)]), atol=1e-5)
    q, k, v, _, ids = case(64, 6, 2, 8, [(40, 20)])
    part, whole = jax.jit(
        lambda q, k, v, ids: (
            attend_by_head(q[:, 16:32], k, v, ids, jnp.int32(16)),
            attend(q, k, v, segment_mask(ids)),
        )
    )(q, k, v, ids)
    np.testing.assert_allclose(part[0], whole[0, 16:32], atol=1e-5)
