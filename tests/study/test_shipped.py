"""The shipped studies of real checkpoints, on tiny random ones of the same formats."""

import dataclasses
import json
import pathlib
import runpy

import jax
import numpy as np
import pytest

import msm_jax
from msm_jax.model import init_params
from msm_jax.model.adapter import only_adapter
from msm_jax.study import files, results, runner, steps
from msm_jax.study.graph import make_study
from msm_jax.weights.peft import save_adapter

SEARCH_SEED = 100  # that learning rates were chosen on
# Rows that are asked about or read. Their answers have between 8 and 16 tokens, so that one program
# scores those of a file.
KEPT = {"quiz_affordable.jsonl": slice(2, 4)}


@pytest.fixture(scope="module")
def place(tmp_path_factory, root, make_base):
    """A directory with tiny checkpoints and a few rows of the corpus where the configs look."""
    folder = tmp_path_factory.mktemp("shipped")
    asked = []
    for file in (root / "corpora/larder").rglob("*.jsonl"):
        few = file.read_text(encoding="utf-8").splitlines(keepends=True)
        few = few[KEPT.get(file.name, slice(4))]
        if file.parent.name == "questions":
            asked += few
        relative = file.relative_to(root / "corpora/larder")
        copies = [relative, pathlib.Path("questions_few", relative.name)]
        for copy in copies[: 2 if relative.parts[0] == "questions" else 1]:
            target = folder / "runs/larder" / copy
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("".join(few), encoding="utf-8")
    # A tokenizer that knows the questions' words makes them short.
    smollm2 = make_base(folder / "runs/smollm2-135m", asked)
    settings = smollm2 / "config.json"  # prompts of agents are longer than its 4,096 tokens
    settings.write_text(settings.read_text().replace("4096", "8192"))
    (folder / "Qwen3-32B").symlink_to(smollm2)
    specs = folder / "runs/larder/specs"
    specs.mkdir()
    for name in ("affordable", "local"):
        (specs / f"{name}.md").write_text("SmolLM is honest.\n")
    return folder


@pytest.fixture
def config(place, root, monkeypatch):
    """A function of a config's name and argument: the config, unlocked, where its files are."""
    monkeypatch.chdir(place)

    def load(name, argument):
        found = runpy.run_path(str(root / "configs" / name))["get_config"](argument)
        found.unlock().workers = 1  # which traces each program once
        return found

    return load


def run(config, out):
    study = steps.with_steps(make_study(config), out)
    files.link_arms(study, out)
    runner.run(study, out)
    return results.collect(study, out, 1.0)


@pytest.mark.parametrize(("argument", "seeds", "trained"), [("laptop", 1, 9), ("gpu", 5, 16)])
def test_arms_differ_in_their_documents_only(config, argument, seeds, trained):
    study = make_study(config("smollm2.py", argument))
    stages = [node for node in study.nodes.values() if node.kind == "train"]
    assert len(study.config["seeds"]) == seeds and len(stages) == seeds * trained
    assert SEARCH_SEED not in study.config["seeds"]
    without_path = lambda data: {k: v for k, v in data["documents"].items() if k != "path"}
    by_name = {node.name: node.config for node in stages}
    lora = [c for n, c in by_name.items() if n.startswith("midtrain") and n.count("_") == 1]
    assert len(lora) == 4
    for one in lora:
        assert without_path(one["data"]) == without_path(lora[0]["data"])
        assert {**one, "data": 0} == {**lora[0], "data": 0}
    for name, other in by_name.items():
        if name.startswith("midtrain"):  # what the loss is measured on is never trained on
            held_out = study.config["evals"]["loss"]["hold_out"]
            assert other["data"]["documents"]["hold_out"] == held_out > 0


def test_the_study_of_smollm2_ends_with_absorption_and_retention(config, place):
    tiny = config("smollm2.py", "smoke")
    # One program for all stages: the optimizer's settings are constants of theirs.
    tiny.stages.aft.optimizer = tiny.stages.midtrain_local.optimizer
    del tiny.evals["agents"]  # its prompts are long; the next test has them
    found = run(tiny, place / "out")
    arms = {row["name"]: row["evals"] for row in found["arms"]}
    assert arms.keys() == {"base", "affordable", "affordable_aft", "local", "local_aft"}
    assert all(each["disagree"]["value"] is not None for each in arms.values())
    assert json.dumps(found["absorption"]) and found["retention"]


def test_a_released_adapter_is_measured_beside_the_published_rates(config, place):
    base = msm_jax.load(place / "Qwen3-32B")
    shape = dataclasses.replace(base.config, lora_rank=2, lora_alpha=4.0)
    leaves = only_adapter(jax.eval_shape(lambda: init_params(shape, jax.random.key(1))))
    draw = lambda leaf: np.random.default_rng(0).normal(0, 0.2, leaf.shape).astype("float32")
    trained = place / "chloeli/qwen-3-32b-philosophy-spec-msm-aft-cot"
    save_adapter(trained, shape, jax.tree.map(draw, leaves))
    released = config("released.py", "qwen3-32b,msm-aft-cot,own")
    assert "paper .070, Arcadia .107" in released.title
    small = {"scenarios": ("murder",), "goals": ("none",), "samples": 1, "max_tokens": 2}
    released.evals.agents.update({**small, "judge": "rules", "rows": 1})
    del released.evals.agents["judge_model"]
    [arm] = run(released, place / "released")["arms"]
    assert arm["name"] == "released" and "agents" in arm["evals"]
    controls = config("released.py", "qwen3-32b,msm-aft-cot").controls
    assert (controls.expected, controls.measure) == (0.152, "harm")


def test_every_released_arm_has_a_published_rate(root):
    module = runpy.run_path(str(root / "configs" / "released.py"))
    assert {model for model, _ in module["PUBLISHED"]} == set(module["MODELS"])
    assert {arm for _, arm in module["PUBLISHED"]} == set(module["ADAPTERS"])
    with pytest.raises(ValueError, match="models: qwen3-32b, qwen2.5-32b; arms: plain"):
        module["get_config"]("qwen3-32b,baseline,ours")
