"""Meshes that cannot be are refused with both sides named."""

import jax
import pytest

from msm_jax.errors import UserError
from msm_jax.model import ModelConfig, batch_sharding, make_mesh, param_shardings
from msm_jax.model.sharding import AXES

MODEL = ModelConfig(
    vocab_size=64, width=16, layers=2, heads=4, kv_heads=2, head_dim=8, mlp_width=32
)


def sizes(data, fsdp, tensor):
    return {"data": data, "fsdp": fsdp, "sequence": 1, "tensor": tensor}


def abstract(*shape):
    return jax.sharding.AbstractMesh(shape, AXES)


def test_what_is_left_is_found():
    devices = jax.devices() * 8
    assert make_mesh(sizes(2, -1, 2), devices).shape == sizes(2, 2, 2)
    assert make_mesh(sizes(1, -1, 1), devices[:1]).shape == sizes(1, 1, 1)


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, -1, 1), (1, 4, 4)])
def test_a_mesh_of_other_than_all_devices_is_refused(shape):
    with pytest.raises(UserError, match=r"mesh\.data=\d.*impossible mesh.*has 8"):
        make_mesh(sizes(*shape), jax.devices() * 8)


@pytest.mark.parametrize("shape", [(-1, -1, 1), (0, 1, 1), (-2, 1, 1)])
def test_sizes_that_mean_nothing_are_refused(shape):
    with pytest.raises(UserError, match="one of them may be -1"):
        make_mesh(sizes(*shape))


def test_dimensions_that_cannot_be_cut_are_all_named():
    with pytest.raises(UserError) as refused:
        param_shardings(MODEL, abstract(1, 3, 1, 4))
    for part in ("kv_heads has 2, mesh.tensor=4", "embed has 16, mesh.fsdp=3 x mesh.sequence=1"):
        assert part in str(refused.value)


def test_a_mesh_without_our_axes_is_refused():
    with pytest.raises(UserError, match=r"axes \('data', 'model'\) and lacks \['fsdp'"):
        param_shardings(MODEL, jax.sharding.AbstractMesh((1, 1), ("data", "model")))


def test_rows_that_cannot_be_dealt_are_refused():
    with pytest.raises(UserError, match=r"rows=6.*mesh\.data=2 x mesh\.fsdp=2"):
        batch_sharding(abstract(2, 2, 1, 1), 6, 8)
    with pytest.raises(UserError, match=r"sequence_length=10.*mesh\.sequence=4"):
        batch_sharding(abstract(1, 1, 4, 1), 6, 10)


def test_every_matrix_is_cut_by_both_weight_axes():
    shardings = param_shardings(MODEL, abstract(1, 2, 1, 2))
    for path, sharding in jax.tree_util.tree_leaves_with_path(shardings):
        cut = {axis[0] if isinstance(axis, tuple) else axis for axis in sharding.spec if axis}
        name = jax.tree_util.keystr(path)
        wanted = {"fsdp", "tensor"} if "'w'" in name else {"fsdp"}
        if "q_norm" in name or "k_norm" in name:
            wanted = set()
        assert cut == wanted, name
