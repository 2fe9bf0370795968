"""The loop: what it learns, how it goes on after a kill, what it refuses."""

import contextlib
import dataclasses
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from processes import finish, interrupt, losses, start, wait_until, write_config

from msm_jax import load
from msm_jax.data.tokenizer import load_tokenizer
from msm_jax.errors import UserError
from msm_jax.model import abstract_params, batch_sharding, make_mesh
from msm_jax.train import hosts
from msm_jax.train.config import source
from msm_jax.train.evaluations import Probe
from msm_jax.train.loop import train
from msm_jax.train.stage import Stage
from msm_jax.weights.checkpoints import load_params


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Where the tests of this module keep one finished run, and what `train` returned for it."""
    return tmp_path_factory.mktemp("finished") / "run", {}


@pytest.fixture
def parent(config, finished):
    """A finished run of 12 steps, only to be read."""
    run, summary = finished
    if not summary:
        summary |= train(config, run)
    return run


@pytest.fixture(scope="module")
def adapters(tiny_stage, tmp_path_factory):
    """Runs: "base" in float32, "adapter" on it in bfloat16, and "next" with the same adapter.

    Only to be read. Their vocabulary makes the base large beside an adapter.
    """
    folder, config = tmp_path_factory.mktemp("adapters"), tiny_stage()
    config.model.update({"vocab_size": 4096, "param_dtype": "float32"})
    train(config, folder / "base")
    config.parent, config.trainable = str(folder / "base"), "lora"
    config.model.update({"lora_rank": 2, "lora_alpha": 4.0, "param_dtype": "bfloat16"})
    train(config, folder / "adapter")
    config.parent = str(folder / "adapter")
    train(config, folder / "next")
    return folder


@contextlib.contextmanager
def moved(folder):
    """Moves these runs to the path that this gives, and back; what replaces them is deleted."""
    away = folder.rename(folder.with_name(f"{folder.name}-away"))
    try:
        yield away
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        away.rename(folder)


def same_weights(first, second):
    jax.tree.map(np.testing.assert_array_equal, load_params(first)[1], load_params(second)[1])


def test_it_learns_and_leaves_the_promised_files(config, tmp_path):
    config.steps = config.checkpoint_every = 80
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


def test_same_seed_same_bits_and_a_terminal_sees_a_bar_a_file_lines(config, parent, tmp_path):
    terminal, file = Terminal(), io.StringIO()
    train(config, tmp_path / "same", terminal)
    assert losses(tmp_path / "same") == losses(parent)
    same_weights(tmp_path / "same", parent)
    config.seed = 1
    train(config, tmp_path / "other", file)
    assert losses(tmp_path / "other") != losses(parent)
    assert (
        "12/12" in terminal.getvalue()
        and "loss" in terminal.getvalue()
        and "\r" in terminal.getvalue()
    )
    assert "\r" not in file.getvalue() and "step 12: saved" in file.getvalue()


def test_killed_at_any_moment_it_ends_with_the_same_bits(config, tmp_path):
    config.steps = config.checkpoint_every = 80
    train(config, tmp_path / "straight")
    config.checkpoint_every = 7
    run, stage = tmp_path / "killed", write_config(config, tmp_path)
    for steps in (16, 11):
        started = start(stage, run)
        interrupt(started, run, signal.SIGKILL, started, steps)
        assert finish(started)[0][0] == -signal.SIGKILL
    train(config, run)
    assert losses(run) == losses(tmp_path / "straight")
    same_weights(run, tmp_path / "straight")


def test_a_closed_pipe_ends_nothing_and_a_hangup_saves(config, root, tmp_path):
    """As `train 2>&1 | head -1` in a terminal that is then lost."""
    config.steps, config.checkpoint_every = 100_000, 100_000
    command = [sys.executable, "-m", "msm_jax.train", f"--config={write_config(config, tmp_path)}"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen(
        [*command, f"--workdir={tmp_path}"], env=environment, stderr=subprocess.PIPE
    )
    assert b"step 0 of 100000" in process.stderr.readline()
    process.stderr.close()
    wait_until(lambda: len(losses(tmp_path)) > 50)
    process.send_signal(signal.SIGHUP)
    with contextlib.suppress(ProcessLookupError):  # from the shell and from the kernel
        process.send_signal(signal.SIGHUP)
    assert process.wait() == 75
    step = max(losses(tmp_path))
    assert load_params(tmp_path)[2]["step"] == step
    log = (tmp_path / "log.txt").read_text()
    assert "its first example" in log and f"step {step}: saved" in log


def test_a_stage_that_has_learned_nothing_is_an_error(config, tmp_path, monkeypatch):
    real = hosts.place_rows
    zeros = lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding)
    blank = lambda batch: dict(batch, loss_weights=zeros(batch["loss_weights"]))
    monkeypatch.setattr(hosts, "place_rows", lambda *given: blank(real(*given)))
    with pytest.raises(UserError, match="none of 12 steps had a loss token"):
        train(config, tmp_path)
    assert "done" not in (tmp_path / "log.txt").read_text()


def test_a_transfer_that_nobody_wrote_down_ends_the_loop(config, tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "place_rows", lambda rows_of, shape, place: rows_of(0, shape[0]))
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        train(config, tmp_path)


def test_a_finished_run_is_left_alone(config, parent, finished):
    _, first = finished
    again = train(config, parent)
    assert (again["steps"], again["loss"]) == (first["steps"], first["loss"])
    assert again["tokens_per_second"] is None


def test_child_starts_from_its_parent(config, parent, tmp_path):
    """It is of another length and rate, of which no program is compiled."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **more: compiled.append(str(more)) if "jaxpr_trace" in event else None
    )
    jax.jit(lambda x: x * 3)(np.float32(1))
    assert compiled, "this jax no longer reports compilations under that name"
    config.parent, config.steps, config.optimizer.learning_rate = str(parent), 7, 0.0
    train(config, tmp_path / "child")
    assert not any("step" in each for each in compiled), compiled
    same_weights(parent, tmp_path / "child")


def test_lora_stage_continues_the_same_adapter(adapters):
    base, first, second = (load_params(adapters / run)[1] for run in ("base", "adapter", "next"))
    q = lambda params: params["layers"]["attention"]["q"]
    for one, other in ((q(base), q(second)), (base["embed"], second["embed"])):
        np.testing.assert_array_equal(np.asarray(one["w"]).astype("bfloat16"), other["w"])
    cosine = np.vdot(q(first)["lora_a"], q(second)["lora_a"]) / (
        np.linalg.norm(q(first)["lora_a"]) * np.linalg.norm(q(second)["lora_a"])
    )
    assert cosine > 0.5 and np.any(q(first)["lora_b"] != q(second)["lora_b"])


def test_probes_end_the_stage_when_they_hold(config, material, tmp_path):
    """The loss on other data is then measured too, as after any last step."""
    config.optimizer.schedule = "constant"
    config.probe_every, config.eval.every = 5, 12
    config.probes.easy = ConfigDict({"path": str(material / "pairs.jsonl"), "at_least": 0.0})
    config.eval.data = ConfigDict({"held_out": source(str(material / "documents.jsonl"))})
    summary = train(config, tmp_path)
    assert summary["steps"] == 5 and 0 <= summary["probes"]["easy"] <= 1
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "eval_loss" in row] == [5]
    assert train(config, tmp_path)["steps"] == 5


def test_a_probe_may_ask_within_a_conversation(config, tmp_path):
    asked = [("system", "be brief."), ("user", "big?"), ("assistant", "old."), ("user", "new?")]
    turns = [{"role": role, "content": text} for role, text in asked]
    pair = {"options": ["small.", "old."], "a_index": 0}
    as_messages, as_question = tmp_path / "messages.jsonl", tmp_path / "question.jsonl"
    as_messages.write_text(json.dumps({**pair, "messages": turns[:2]}) + "\n")
    one = {**pair, "system": "be brief.", "question": "big?"}
    as_question.write_text(json.dumps(one) + "\n")
    tokenizer = load_tokenizer(config.tokenizer)
    rows = [Probe(p, tokenizer, config.chat_format, 64)._rows for p in (as_messages, as_question)]
    assert all(np.array_equal(rows[0][name], rows[1][name]) for name in rows[0])
    as_messages.write_text(json.dumps({**pair, "messages": turns}) + "\n")
    longer = Probe(as_messages, tokenizer, config.chat_format, 64)._rows
    assert np.count_nonzero(longer["segment_ids"]) > np.count_nonzero(rows[0]["segment_ids"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"options": ["small.", "old.", "new."]}, "options must have 2 entries, not 3"),
        ({"options": "ab"}, "options must be a list, not 'ab'"),
        ({"options": ["old.", "old."]}, "options must be two different texts"),
        ({"options": ["old.", 3]}, r"options\[1\] must be a text, not 3"),
        ({"options": ["old.", ""]}, "question and options must not be empty"),
        ({"question": ["big?"]}, r"question must be a text, not \['big"),
        ({"system": 3}, "system must be a text or null, not 3"),
        ({"a_index": 2}, "a_index must be 0 or 1, not 2"),
        ({"a_index": -1}, "a_index must be 0 or 1"),
        ({"a_index": "x"}, "a_index must be a whole number, not 'x'"),
        ({"a_index": True}, "a_index must be a whole number, not True"),
        ({"a_index": None}, "a_index must be a whole number, not None"),
        ({"messages": [{"role": "user"}]}, "message 0: "),
        (None, "options is missing"),
    ],
)
def test_a_probe_that_cannot_be_asked_is_refused_by_its_line(config, tmp_path, change, says):
    pair = {"question": "big?", "options": ["small.", "old."], "a_index": 0}
    wrong = {"question": "big?"} if change is None else {**pair, **change}
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{json.dumps(pair)}\n{json.dumps(wrong)}\n")
    tokenizer = load_tokenizer(config.tokenizer)
    with pytest.raises(UserError, match=rf"pairs.jsonl:2: not a pair: {says}"):
        Probe(path, tokenizer, config.chat_format, 24)
    path.write_text("")
    with pytest.raises(UserError, match="has no pairs"):
        Probe(path, tokenizer, config.chat_format, 24)


def test_a_probe_of_weights_that_are_not_numbers_has_nothing_right(config, material):
    tokenizer = load_tokenizer(config.tokenizer)
    probe = Probe(material / "pairs.jsonl", tokenizer, config.chat_format, 24)
    model, mesh = Stage(config).model, make_mesh(config.mesh)
    blank = lambda leaf: np.full(leaf.shape, math.nan, leaf.dtype)
    weights = jax.device_put(jax.tree.map(blank, abstract_params(model)))
    assert probe.rate(model, weights, 4, batch_sharding(mesh, 4, 24)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 24}, "steps: checkpoint 12, this run 24"),
        ({"seed": 1}, "seed: checkpoint 0, this run 1"),
        ({"rows": 8}, "rows: checkpoint 4, this run 8"),
    ],
)
def test_a_changed_resume_names_both_sides(config, parent, change, message):
    before = load_params(parent)
    config.update(change)
    with pytest.raises(UserError, match=message):
        train(config, parent)
    assert load_params(parent)[2] == before[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accumulation": 3}, "rows=4 is not a multiple"),
        ({"tokenizer": "/nowhere.model"}, "cannot be read"),
        ({"model": {"vocab_size": 5}}, "ids: set it to 0"),
        ({"model": {"kv_heads": 3}}, "not a multiple"),
        ({"parent": "/nowhere"}, "no checkpoints"),
        ({"optimizer": {"schedule": "zigzag"}}, "one of"),
        ({"samples": {"every": 2}}, "samples.prompts is empty"),
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


def test_a_parent_that_is_not_finite_is_named(config, parent, tmp_path):
    model = load(parent)
    broken = jax.tree.map(lambda leaf: leaf * math.nan, model.params)
    for name, form in (("broken", "huggingface"), ("broken_run", "orbax")):
        dataclasses.replace(model, params=broken).save(tmp_path / name, form)
        config.parent = str(tmp_path / name)
        with pytest.raises(UserError, match=rf"{name}.* not finite.*\n .*: \d+ of its numbers are"):
            train(config, tmp_path / "run")
        assert not (tmp_path / "run" / "config.json").exists()


def test_an_adapter_is_saved_without_its_base_and_knows_it(adapters, tmp_path):
    shutil.copytree(adapters, tmp_path / "runs")
    runs = tmp_path / "runs"
    size = lambda run: sum(f.stat().st_size for f in (run / "checkpoints").rglob("*"))
    assert size(runs / "adapter") < size(runs / "base") / 3
    model, params, _ = load_params(adapters / "next")
    base = load_params(adapters / "base")[1]
    assert params["embed"]["w"].dtype == "bfloat16" and model.lora_rank == 2
    np.testing.assert_array_equal(params["embed"]["w"], base["embed"]["w"].astype("bfloat16"))
    # All of them moved together are still whole; without the base there is an error.
    with moved(adapters):
        jax.tree.map(np.testing.assert_array_equal, load_params(runs / "next")[1], params)
        (runs / "base").rename(tmp_path / "elsewhere")
        with pytest.raises(UserError, match="adapter on the weights of .*base, which is not there"):
            load_params(runs / "next")


def test_a_changed_base_is_noticed(config, adapters):
    with moved(adapters) as kept:
        shutil.copytree(kept / "adapter", adapters / "adapter")
        config.model.update({"vocab_size": 4096, "param_dtype": "float32"})
        config.seed = 1
        train(config, adapters / "base")
        with pytest.raises(UserError, match="not those that the adapter"):
            load_params(adapters / "adapter")


def test_changed_data_under_a_run_is_refused(config, material, tmp_path):
    lines = (material / "documents.jsonl").read_text().splitlines(keepends=True)
    config.data.documents.path = str(tmp_path / "d.jsonl")
    (tmp_path / "d.jsonl").write_text("".join(lines))
    train(config, tmp_path / "run")
    (tmp_path / "d.jsonl").write_text("".join(lines[1:]))
    with pytest.raises(UserError, match=r"data\.documents\.content: checkpoint [0-9a-f]{12}, this"):
        train(config, tmp_path / "run")


def test_eval_loss_prompts_and_warnings_are_in_the_log(config, material, tmp_path):
    config.steps = config.checkpoint_every = 30
    config.eval.update({"every": 10, "batches": 2})
    config.eval.data = ConfigDict({"held_out": source(str(material / "documents.jsonl"))})
    config.samples.update({"every": 15, "prompts": ("red big",), "max_tokens": 6})
    config.profile.update({"start": 3, "steps": 2})
    train(config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    evals = {row["step"]: row["eval_loss"] for row in rows if "eval_loss" in row}
    assert list(evals) == [10, 20, 30] and evals[30] < evals[10]
    log = (tmp_path / "log.txt").read_text()
    assert log.count("'red big' -> ") == 2 and "30 optimizer steps are few" in log
    assert "attention plain" in log and "6 per trained weight" in log
    assert list((tmp_path / "tensorboard").rglob("*.xplane.pb"))


def test_steps_follow_from_epochs(config, tmp_path):
    config.mixture, config.steps, config.epochs = "epochs", 0, 2.0
    config.checkpoint_every = 1000
    summary = train(config, tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())["corpora"]
    assert summary["steps"] == -(-2 * record["all"]["rows"] // config.rows)
    assert summary["tokens"] == 2 * record["documents"]["tokens"]
    assert summary["loss_tokens"] == 2 * record["documents"]["loss_tokens"]


def test_documents_need_no_template_to_train_on_and_to_sample_from(config, tmp_path):
    config.chat_format, config.steps = "own", 2  # of which there is none
    train(config, tmp_path)
    model = load(tmp_path)
    ((answer,),) = model.sample(["red big"], 1, max_tokens=2)
    assert len(answer.tokens) <= 2
    with pytest.raises(UserError, match="has no chat template"):
        model.encode([{"role": "user", "content": "red"}])


def test_too_much_memory_is_said_with_what_to_change(config):
    from msm_jax.train.loop import _out_of_memory

    refused = pytest.raises(UserError, match=r"not fit in memory.*rows=4.*remat=none.*mesh.fsdp=1")
    with refused, _out_of_memory(Stage(config)):
        jax.block_until_ready(jax.jit(lambda: jax.numpy.zeros(2**45))())
