"""What a run says of itself is so: its identity, its parent, the formats it was trained on."""

import json
import pathlib

import pytest
from ml_collections import ConfigDict

from msm_jax.errors import UserError
from msm_jax.settings import Form, Named
from msm_jax.train import record
from msm_jax.train.config import STAGE, probe, source
from msm_jax.train.loop import train
from msm_jax.train.stage import Stage
from msm_jax.weights.damage import differences

# Values other than the default's neighbours, where those could not be.
OTHER = {
    "mixture": "epochs",
    "packing.rows": "documents",
    "packing.too_long": "cut",
    "trainable": "lora",
    "chat_format": "own",
    "model.dtype": "bfloat16",
    "model.param_dtype": "bfloat16",
    "model.heads": 4,
    "model.kv_heads": 2,
    "model.head_dim": 16,
    "model.remat": "full",
    "model.attention": "plain",
    "model.lora_targets": ("q",),
    "optimizer.schedule": "linear",
    "samples.prompts": ("blue",),
    "keep_steps": (2,),
    "token_cache": "tokens",
    "data.documents.take_tokens": 100,
    "eval.data.held_out.take_tokens": 100,
    "data.documents.part": "held_out",
    "eval.data.held_out.part": "held_out",
    "data.documents.loss_on": "assistant",
    "data.documents.encoding_errors": "replace",
    "eval.data.held_out.loss_on": "assistant",
    "eval.data.held_out.encoding_errors": "replace",
}
# Of a preset's model the shape is not ours to say; the tokenizer and files are tried by content.
BY_CONTENT = ("model.preset", "tokenizer", "parent", "topology")


def leaves(form, config, path=""):
    """(path, value, why it is harmless) of each key of a config."""
    for name, part in form.keys.items():
        value = config[name]
        if isinstance(part, Form):
            yield from leaves(part, value, f"{path}{name}.")
        elif isinstance(part, Named):
            for key in value:
                yield from leaves(part.entry, value[key], f"{path}{name}.{key}.")
        else:
            yield f"{path}{name}", value, part.harmless


def other(path, value):
    if path in OTHER:
        return OTHER[path]
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else f"{value}2"


@pytest.fixture
def full(config, material):
    """Every kind of entry that a stage can have."""
    config.model.lora_rank, config.optimizer.schedule = 2, "constant"
    config.samples.prompts = ("red",)
    config.eval.data = ConfigDict({"held_out": source(str(material / "documents.jsonl"))})
    config.probes.easy = probe(str(material / "pairs.jsonl"))
    return config


def test_each_key_counts_by_name_or_is_declared_harmless_with_a_reason(full, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun, wrong, tried = record.facts(Stage(full)), [], 0
    for path, value, harmless in list(leaves(STAGE, full)):
        tried += 1
        if path in BY_CONTENT:
            continue
        config = ConfigDict(json.loads(full.to_json()))
        if path.endswith(".path"):
            lines = pathlib.Path(value).read_text().splitlines(keepends=True)
            value = tmp_path / f"{path}.jsonl"
            value.write_text("".join(lines[1:]))
            value = str(value)
        else:
            value = other(path, value)
        with config.unlocked():
            place = config
            for part in path.split(".")[:-1]:
                place = place[part]
            place[path.split(".")[-1]] = value
        try:
            changed = differences(begun, record.facts(Stage(config)))
            named = [line.partition(":")[0] for line in changed]
        except UserError as error:
            named = [str(error)]  # it cannot even be tried with these files
        name = path.removesuffix("path") + "content" if path.endswith(".path") else path
        counts = any(name in each for each in named)
        if counts == bool(harmless):
            wrong.append((path, named))
    assert not wrong and tried > 80


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tmp_path_factory.mktemp("finished")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rows": 8}, ["rows: checkpoint 4, this run 8"]),
        (
            {"sequence_length": 32, "seed": 3},
            ["sequence_length: checkpoint 24, this run 32", "seed: checkpoint 0, this run 3"],
        ),
        (
            {"packing.rows": "documents"},
            ["packing.rows: checkpoint 'packed', this run 'documents'"],
        ),
        ({"chat_format": "chatml"}, ["chat_format.name: checkpoint 'compact', this run 'chatml'"]),
        ({"optimizer.b1": 0.5}, ["optimizer.b1: checkpoint 0.9, this run 0.5"]),
        ({"eval.data.held_out.take": 3}, ["eval.data.held_out.take: checkpoint 0, this run 3"]),
        ({"watchdog": 9.0, "log_every": 7}, []),
    ],
)
def test_a_refused_resume_names_each_key_and_writes_nothing(
    config, finished, material, changes, says
):
    config.eval.every, run = 4, finished / "run"
    config.eval.data = ConfigDict({"held_out": source(str(material / "documents.jsonl"))})
    if not run.exists():
        train(config, run)
    kept = lambda: {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    before = kept()
    config.update_from_flattened_dict(changes)
    if not says:
        assert train(config, run)["steps"] == config.steps
        return
    with pytest.raises(UserError, match="is another run's") as refused:
        train(config, run)
    assert set(says) <= {line.strip() for line in str(refused.value).splitlines()}
    assert {p: t for p, t in kept().items() if p.name != "lock"} == {
        p: t for p, t in before.items() if p.name != "lock"
    }


def test_a_run_goes_on_under_its_own_parent_only(config, tmp_path):
    train(config, tmp_path / "one")
    config.seed = 1
    train(config, tmp_path / "two")
    config.parent = str(tmp_path / "one")
    train(config, tmp_path / "child")
    written = (tmp_path / "child/config.json").read_bytes()
    config.parent = str(tmp_path / "two")
    with pytest.raises(UserError, match=r"parent: .* [0-9a-f]{12} \(hashes: its content"):
        train(config, tmp_path / "child")
    config.parent = str(tmp_path / "child")
    with pytest.raises(UserError, match="its own directory|is the run's own directory"):
        train(config, tmp_path / "child")
    assert (tmp_path / "child/config.json").read_bytes() == written
    # The same weights elsewhere are the same parent.
    (tmp_path / "one").rename(tmp_path / "moved")
    config.parent = str(tmp_path / "moved")
    assert train(config, tmp_path / "child")["steps"] == config.steps


def test_a_hugging_face_checkpoint_is_no_working_directory(config, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is a Hugging Face checkpoint"):
        train(config, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
