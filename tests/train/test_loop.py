"""The loop: what it learns, how it goes on after a kill, what it refuses."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from msm_jax.errors import UserError
from msm_jax.train.loop import train
from msm_jax.weights.checkpoints import load_params


def losses(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def same_weights(first, second):
    jax.tree.map(np.testing.assert_array_equal, load_params(first)[1], load_params(second)[1])


def test_it_learns_and_leaves_the_promised_files(config, tmp_path):
    config.steps = 80
    summary = train(config, tmp_path)
    found = losses(tmp_path)
    assert list(found) == list(range(1, 81))
    assert found[80] < 0.6 * found[1] and summary["loss"] == found[80]
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["optimizer"]["learning_rate"] == config.optimizer.learning_rate
    assert list((tmp_path / "tensorboard").iterdir())
    assert load_params(tmp_path)[2]["step"] == 80
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(row["tokens_per_second"] > 0 for row in rows[1:])
    peak = max(row["learning_rate"] for row in rows)
    assert peak == pytest.approx(config.optimizer.learning_rate)
    log = (tmp_path / "log.txt").read_text().splitlines()
    assert "step 0 of 80" in log[0] and "spent on data" in log[-1]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_sees_a_bar_and_a_file_sees_lines(config, tmp_path):
    config.steps = 12
    terminal, file = Terminal(), io.StringIO()
    train(config, tmp_path / "a", terminal)
    train(config, tmp_path / "b", file)
    assert "/12  loss" in terminal.getvalue() and "\r" in terminal.getvalue()
    assert "\r" not in file.getvalue() and "step 12: saved" in file.getvalue()


def test_same_seed_same_bits_and_another_seed_differs(config, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config.seed = seed
        train(config, tmp_path / name)
    assert losses(tmp_path / "a") == losses(tmp_path / "b") != losses(tmp_path / "c")
    same_weights(tmp_path / "a", tmp_path / "b")


_SCRIPT = """
import json, sys
from ml_collections import ConfigDict
from msm_jax.train.loop import train
from msm_jax.train.config import stage
config = stage()
with config.unlocked():
    config.update(ConfigDict(json.loads(sys.argv[1])))
    config.model.lora_targets = tuple(config.model.lora_targets)
    config.keep_steps = tuple(config.keep_steps)
train(config, sys.argv[2])
"""


def _process(config, run):
    return subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, config.to_json(), str(run)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_killed_at_any_moment_it_ends_with_the_same_bits(config, tmp_path):
    config.steps, config.checkpoint_every = 400, 7
    train(config, tmp_path / "whole")
    run = tmp_path / "killed"
    rng = np.random.default_rng(0)
    for _ in range(3):
        process = _process(config, run)
        deadline = time.time() + 120
        start = len(losses(run)) if (run / "metrics.jsonl").exists() else 0
        # Kill once it has got somewhere new, at a moment of chance: also within a save.
        while process.poll() is None and time.time() < deadline:
            if (run / "metrics.jsonl").exists() and len(losses(run)) > start + 20:
                time.sleep(rng.uniform(0, 0.2))
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
        assert process.wait(timeout=60) == -signal.SIGKILL, "it ended before it was killed"
    train(config, run)
    assert losses(run) == losses(tmp_path / "whole")
    same_weights(run, tmp_path / "whole")


def test_a_finished_run_is_left_alone(config, tmp_path):
    first = train(config, tmp_path)
    again = train(config, tmp_path)
    assert (again["steps"], again["loss"]) == (first["steps"], first["loss"])
    assert again["tokens_per_second"] is None


def test_child_starts_from_its_parent(config, tmp_path):
    train(config, tmp_path / "parent")
    config.parent, config.optimizer.learning_rate = str(tmp_path / "parent"), 0.0
    train(config, tmp_path / "child")
    same_weights(tmp_path / "parent", tmp_path / "child")


def test_lora_stage_continues_the_same_adapter(config, tmp_path):
    train(config, tmp_path / "base")
    config.parent, config.trainable = str(tmp_path / "base"), "lora"
    config.model.update({"lora_rank": 4, "lora_alpha": 8.0})
    train(config, tmp_path / "first")
    config.parent = str(tmp_path / "first")
    train(config, tmp_path / "second")
    base, first, second = (load_params(tmp_path / n)[1] for n in ("base", "first", "second"))
    q = lambda params: params["layers"]["attention"]["q"]
    np.testing.assert_array_equal(q(base)["w"], q(second)["w"])
    np.testing.assert_array_equal(base["embed"]["w"], second["embed"]["w"])
    cosine = np.vdot(q(first)["lora_a"], q(second)["lora_a"]) / (
        np.linalg.norm(q(first)["lora_a"]) * np.linalg.norm(q(second)["lora_a"])
    )
    assert cosine > 0.5 and np.any(q(first)["lora_b"] != q(second)["lora_b"])


def test_probes_end_the_stage_when_they_hold(config, material, tmp_path):
    config.optimizer.schedule, config.probe_every = "constant", 5
    config.probes.easy = ConfigDict({"path": str(material / "pairs.jsonl"), "at_least": 0.0})
    summary = train(config, tmp_path)
    assert summary["steps"] == 5 and 0 <= summary["probes"]["easy"] <= 1
    assert train(config, tmp_path)["steps"] == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 24}, "steps: checkpoint 12, this run 24"),
        ({"seed": 1}, "seed: checkpoint 0, this run 1"),
        ({"rows": 8}, "data: checkpoint"),
    ],
)
def test_a_changed_resume_names_both_sides(config, tmp_path, change, message):
    train(config, tmp_path)
    before = load_params(tmp_path)
    config.update(change)
    with pytest.raises(UserError, match=message):
        train(config, tmp_path)
    assert load_params(tmp_path)[2] == before[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accumulation": 3}, "rows=4 cannot be cut"),
        ({"tokenizer": "/nowhere.model"}, "cannot be read"),
        ({"model": {"vocab_size": 5}}, "ids: set it to 0"),
        ({"model": {"kv_heads": 3}}, "not a multiple"),
        ({"parent": "/nowhere"}, "no checkpoints"),
        ({"optimizer": {"schedule": "zigzag"}}, "one of"),
    ],
)
def test_what_cannot_be_is_refused(config, tmp_path, change, message):
    config.update(change)
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "run")


def test_weights_that_are_not_finite_are_never_saved(config, tmp_path):
    config.optimizer.update({"learning_rate": 1e30, "clip_norm": 0.0, "warmup_fraction": 0.0})
    with pytest.raises(UserError, match="not saved"):
        train(config, tmp_path)
    with pytest.raises(UserError, match="has no checkpoint"):
        load_params(tmp_path)
