"""Programs for devices that are not here: what they need, reported truly."""

import importlib.util
import json
import pathlib
import sys

import pytest
from processes import Command

from msm_jax.errors import UserError
from msm_jax.train import hlo
from msm_jax.train.targets import gpu_devices

LIBTPU = pathlib.Path(sys.prefix, "tpu")  # where the Makefile puts it, apart from all else

PROGRAM = """
HloModule jit_step

%cond (p: (s32[], f32[8,4])) -> pred[] {
  %n = s32[] constant(6)
  %p = (s32[], f32[8,4]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%gathers (x: bf16[2,4]) -> bf16[8,4] {
  %x = bf16[2,4]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[8,4]{1,0} all-gather(%x), replica_groups=[1,4]<=[4], dimensions={0}
}

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[], f32[8,4]) parameter(0)
  %f = bf16[8,4]{1,0} fusion(%p), kind=kCustom, calls=%gathers
  %rs = f32[2,4]{1,0} reduce-scatter(%f), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %t = (s32[], f32[8,4]) tuple(%p)
}

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %w = (s32[], f32[8,4]) while(%t), condition=%cond, body=%body
  %known = (s32[]) while(%t), condition=%other, body=%gathers, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %ar = f32[8,4]{1,0} all-reduce(%a), replica_groups={}, to_apply=%add
}
"""  # noqa: E501


def test_collectives_are_counted_through_loops_and_fusions():
    found = hlo.collectives(PROGRAM)
    assert {kind: (one.count, one.bytes) for kind, one in found.items()} == {
        "all-gather": (6 + 3, (6 + 3) * 8 * 4 * 2),
        "reduce-scatter": (6, 6 * 2 * 4 * 4 * 4),
        "all-reduce": (1, 8 * 4 * 4),
    }


CONFIG = """
from msm_jax.train.config import stage

def get_config():
    config = stage()
    config.sequence_length, config.rows = 256, 8
    config.model.update({"vocab_size": 512, "width": 64, "layers": 5, "heads": 8, "kv_heads": 4,
                         "head_dim": 64, "mlp_width": 128, "dtype": "bfloat16", "remat": "full"})
    return config.lock()
"""


@pytest.fixture
def small(tmp_path):
    (tmp_path / "small.py").write_text(CONFIG)
    return tmp_path / "small.py"


def test_the_command_compiles_for_fake_devices(small, tmp_path):
    figures = tmp_path / "figures.json"
    options = [f"--config={small}", "--mesh=8", f"--json={figures}", "--rows=8", "--slots=128"]
    code, out, err = Command("msm_jax.compile", *options).finish()
    assert code == 0, err[-2000:]
    assert "all-gather" in out and "decode step, 2 x 4 rows" in out
    train, decode = json.loads(figures.read_text())
    weights = 512 * 64 + 64 + 5 * (2 * 64 * 512 + 2 * 64 * 256 + 3 * 64 * 128 + 2 * 64 + 2 * 64)
    # By fsdp=8 the weights and AdamW's two moments; norms of a head are replicated.
    assert abs(train["bytes"]["weights"] * 8 / (4 * weights) - 1) < 0.1
    assert abs(train["bytes"]["optimizer"] / (2 * train["bytes"]["weights"]) - 1) < 0.01
    # Of 6 per weight and token, and half of causal attention (12 H d T / 2 per layer).
    products = weights - 64 - 5 * 4 * 64
    per_token = 6 * products + 12 * 5 * 8 * 64 * 256 / 2
    assert train["flops"] == pytest.approx(per_token * 8 * 256 / 8)
    assert train["collectives"]["all-gather"]["count"] >= 5
    assert decode["bytes"]["cache"] > 0
    assert train["bound"] == {}  # of a CPU's peak nothing is known


def test_what_it_cannot_do_is_one_message(small):
    for options, message in (
        ([], "give --topology"),
        (["--mesh=8", "--config.mesh.tensor=3"], "impossible mesh"),
        (["--mesh=8", "--config.model.vocab_size=0"], "follows a tokenizer"),
    ):
        code, _, err = Command("msm_jax.compile", f"--config={small}", *options).finish()
        assert code == 2 and "Traceback" not in err
        assert message in err


LOWER = """
import importlib.util, sys
import jax
from msm_jax.train import aot
spec = importlib.util.spec_from_file_location("qwen", sys.argv[1])
qwen = importlib.util.module_from_spec(spec)
spec.loader.exec_module(qwen)
for model in ("qwen3-32b", "qwen2.5-32b", "qwen3-8b"):
    for mode in ("full", "lora"):
        for where, (chips, _, _) in qwen.SLICES.items():
            config = qwen.get_config(f"{model},{mode},{where}")
            with config.unlocked():
                config.model.attention = "auto"
                if config.model.remat == "auto":
                    config.model.remat = "full"
            aot.lower_step(config, jax.devices()[:chips])
            print(model, mode, where)
"""


def test_every_shipped_config_of_scale_lowers(run_program, root):
    flag = "--xla_force_host_platform_device_count=256"
    path = str(root / "configs" / "scale" / "qwen.py")
    done = run_program(LOWER, path, XLA_FLAGS=flag)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 3 * 2 * 5


@pytest.mark.skipif(not LIBTPU.is_dir(), reason="needs libtpu: make .venv/.installed-test")
def test_a_small_model_compiles_for_a_tpu_topology(small, tmp_path):
    figures = tmp_path / "figures.json"
    options = [f"--config={small}", f"--json={figures}", "--rows=8", "--slots=128"]
    run = lambda *more: Command("msm_jax.compile", *options, *more, cwd=LIBTPU).finish()
    code, out, err = run("--topology=v5e:2x4")
    assert code == 0, err[-2000:]
    assert "8 x TPU v5 lite" in out and "GiB of 15.75 GiB" in out
    train = json.loads(figures.read_text())[0]
    assert train["bound"]["products at peak"] == pytest.approx(train["done"] / 197e12)
    # Rows sharded by their tokens, with splash attention; an adapter on a base in 8 bits.
    long = ["--config.mesh.sequence=2", "--config.mesh.fsdp=-1", "--config.trainable=lora",
            "--config.model.lora_rank=4", "--config.model.param_dtype=int8"]  # fmt: skip
    code, out, err = run("--topology=v5e:2x4", *long)
    assert code == 0 and "sequence 2" in out, err[-2000:]
    assert "remat full, int8 weights" in out and "prompts of 128, int8 weights" in out
    code, _, err = run("--topology=v5e:3x7", "--nodecode")
    assert code == 2 and "topology=v5e:3x7" in err


def test_a_gpu_that_is_not_there_is_described_or_its_compiler_asked_for():
    if importlib.util.find_spec("jax_plugins"):
        assert [each.device_kind for each in gpu_devices("h200")] == ["NVIDIA H200"]
    else:
        with pytest.raises(UserError, match=r"topology=h200: .*pip install 'msm_jax\[gpu\]'"):
            gpu_devices("h200")
