"""model.remat=auto: what it chooses, says and keeps."""

import io
import json
import shutil
import types

import jax
import numpy as np
import pytest

from msm_jax import accelerators
from msm_jax.errors import UserError
from msm_jax.model import ModelConfig
from msm_jax.train import remat
from msm_jax.train.loop import train
from msm_jax.weights.checkpoints import load_params

NEEDS = {"none": 900, "dots": 500, "attention": 300, "full": 200}


MODEL = ModelConfig(128, 16, 2, 4, 2, 8, 32, remat="auto")


def lowered(model):
    """A program whose arguments are updated in place, as those of a step."""
    sizes = {"argument": 100, "output": 60, "alias": 50, "temp": NEEDS[model.remat] - 110}
    sizes = {f"{name}_size_in_bytes": size * 2**20 for name, size in sizes.items()}
    compiled = types.SimpleNamespace(memory_analysis=lambda: types.SimpleNamespace(**sizes))
    return types.SimpleNamespace(compile=lambda: compiled)


@pytest.mark.parametrize(
    ("room", "chosen"),
    [(900, "none"), (899, "dots"), (499, "attention"), (299, "full"), (200, "full")],
)
def test_the_fastest_that_fits_is_chosen(room, chosen):
    memory = (room + 0.5) * 2**20 / (1 - remat.MARGIN)
    assert remat.choose(MODEL, lowered, memory)[0].remat == chosen


def test_an_error_names_all_needs_if_none_fits():
    def raises():
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm"
        )

    def gives_up(model):
        return types.SimpleNamespace(compile=raises) if model.remat == "none" else lowered(model)

    needs = "none needs inf MiB, dots needs 500 MiB, attention needs 300 MiB, full needs 200 MiB"
    with pytest.raises(UserError, match=needs):
        remat.choose(MODEL, gives_up, 199 * 2**20)


def test_the_choice_is_recorded_and_a_resumed_run_keeps_it(config, tmp_path, monkeypatch):
    """Needs are the compiler's; only the memory is made up."""
    config.model.remat, config.checkpoint_every, config.keep = "auto", 6, 2
    needs, needed = {}, remat._needed

    def measured(lowered):  # choices are tried in this order
        need = needed(lowered)
        needs.setdefault(remat.FASTEST_FIRST[len(needs) % 4], need)
        return need

    monkeypatch.setattr(remat, "_needed", measured)
    has = lambda size: monkeypatch.setattr(remat, "device_memory", lambda device: size)
    has(0)
    with pytest.raises(UserError, match=r"does not fit in memory: none needs .* full needs"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists() and needs["none"] > needs["dots"]
    has((needs["none"] - 1) / (1 - remat.MARGIN))
    log = io.StringIO()
    train(config, tmp_path / "run", log)
    assert "remat dots, the fastest that fits: none needs" in log.getvalue()
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["model"]["remat"] == "auto" and record["resolved_model"]["remat"] == "dots"
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "12")
    has(2 * needs["none"])
    log = io.StringIO()
    train(config, tmp_path / "again", log)
    assert "remat dots, as this run began" in log.getvalue()
    first, second = (load_params(tmp_path / name)[1] for name in ("run", "again"))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_a_gpu_has_as_much_memory_as_jax_takes_of_it():
    class Gpu:
        platform, device_kind = "gpu", "NVIDIA H200"

        def __init__(self, stats):
            self.memory_stats = stats

    def missing():
        raise jax.errors.JaxRuntimeError("only supported for addressable devices")

    assert remat.device_memory(Gpu(lambda: {"bytes_limit": 5.0})) == 5.0
    assert remat.device_memory(Gpu(missing)) == 0.75 * accelerators.find("NVIDIA H200").memory
