"""The studies of the paper's figures: their graphs, controls and targets."""

import dataclasses
import itertools
import pathlib
import re
import runpy

import jax
import pytest

from msm_jax.model import ModelConfig, abstract_params
from msm_jax.study import design, display, steps, times
from msm_jax.study.config import CONTROLS
from msm_jax.study.graph import make_study
from msm_jax.tiny import tiny_checkpoint
from msm_jax.train.optimizer import split_params

FIGURES = {
    "fig2": ("",),
    "fig3": ("environment", "individualism"),
    "fig4": ("qwen3-32b", "qwen2.5-32b"),
    "fig5": ("qwen3-32b",),
    "fig7": ("qwen2.5-14b", "qwen3-32b"),
    "fig8": ("qwen2.5-32b",),
    "fig10": ("affordability",),
    "fig12": ("qwen3-32b",),
    "fig19": ("",),
    "fig20": ("",),
}
REAL = [(name, argument) for name, arguments in FIGURES.items() for argument in arguments]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny checkpoint in place of every base."""
    return tiny_checkpoint(tmp_path_factory.mktemp("paper") / "base", ["cheap or near"], width=16)


@pytest.fixture
def load(root, base, tmp_path, monkeypatch):
    """A function of a figure and its argument: the config, with stand-ins for base and files."""
    monkeypatch.chdir(tmp_path)

    def load(name, argument):
        path = str(root / "configs" / "paper" / f"{name}.py")
        config = runpy.run_path(path)["get_config"](argument).unlock()
        if argument != "miniature":
            config.base.update({"path": str(base), "adapter": ""})
            config.train.chat_format, config.seeds = "", (0,)
            for file in files_of(config):
                pathlib.Path(file).parent.mkdir(exist_ok=True)
                pathlib.Path(file.replace("*", "jsonl")).write_text(f'{{"text": "{file}"}}\n')
        return config

    return load


def files_of(config):
    """Every file of the user's that a config names."""
    for stage in config.stages.values():
        yield from (source.path for source in stage.data.values())
    for asked in config.evals.values():
        yield from (asked[key] for key in ("pairs", "context", "spec") if key in asked)
        yield from (entry.partition("=")[2] for entry in asked.get("documents", ()))


def test_there_is_a_test_of_every_figure(root):
    assert {path.stem for path in (root / "configs" / "paper").glob("*.py")} == {*FIGURES}


@pytest.mark.parametrize(("name", "argument"), REAL)
def test_a_figure_is_a_graph_of_one_recipe_and_matched_tokens_with_a_plan(
    load, name, argument, monkeypatch, tmp_path
):
    monkeypatch.setattr(steps, "_count", lambda study, workdir, node: 300)
    study = steps.with_steps(make_study(load(name, argument)), tmp_path)
    assert len({node.id for node in study.evaluations.values()}) == len(
        {stages[-1] for stages in study.arms.values()}
    )
    trained = [node.config for node in study.nodes.values() if node.kind == "train"]
    for one in trained:
        assert (one["model"]["lora_rank"], one["model"]["lora_alpha"]) == (64, 128.0)
        assert {**one, "data": 0} == {**trained[0], "data": 0}
    about = [one["data"]["documents"] for one in trained if "documents" in one["data"]]
    assert len({(each["take_tokens"], each["hold_out"]) for each in about}) <= 1
    assert all(each["take_tokens"] > 0 for each in about)
    for one in trained:  # only what the assistant says is learned from chats
        for role, data in one["data"].items():
            assert data["loss_on"] == ("all" if role in ("documents", "ordinary") else "assistant")
    plan = display.plan(study, tmp_path)
    tokens = sum(300 * one["rows"] * one["sequence_length"] for one in trained)
    assert f"{len(study.stages)} stages ({300 * len(trained):,} steps, {tokens:,} tokens" in plan
    assert f"{len(study.judges)} judged by another model" in plan or not study.judges
    assert "time: unknown until" in plan and "cost: unknown" in plan
    assert ("disk: an estimate of" in plan) == bool(trained)


def test_the_disk_of_checkpoints_is_that_of_their_arrays(tmp_path):
    config = ModelConfig(64, 16, 2, 4, 2, 8, 24, tied_embeddings=False, lora_rank=2)
    for mode in ("lora", "all"):
        trained, _ = split_params(abstract_params(config), mode)
        paths = jax.tree_util.tree_leaves_with_path(trained)
        wanted = sum(leaf.size for path, leaf in paths if "norm" not in str(path))
        assert times._trained(dataclasses.asdict(config), mode) == wanted


def test_figure_4_has_all_controls_and_says_which_one_is_taken_away(load):
    config = load("fig4", "qwen3-32b")
    has, *more = design.sentences(make_study(config).config, brief=True)
    assert not more and all(f"{control} (" in has for control in CONTROLS)
    arms = config.arms.to_dict()
    both, mix = {"aft", "aft_reasoning"}, ("msm_philosophy", "mix")
    assert arms["plain"] == () and tuple(arms["msm_philosophy_mix"]) == mix
    assert {arms[f"reversed_philosophy_{each}"][0] for each in both} == both
    assert config.evals.agents_with_philosophy.arms == ("plain", "mix")
    config.without = ("neutral_aft", "neutral_aft_reasoning")
    _, lacks, left_out = design.sentences(make_study(config).config, brief=True)
    assert lacks == "missing controls: neutral"
    assert left_out == "left out by config.without: neutral_aft, neutral_aft_reasoning"


def test_figure_5_is_a_sweep_whose_draws_are_nested_and_whose_controls_have_one_size(load):
    tree = make_study(load("fig5", "qwen3-32b")).config
    sizes = [1_250, 2_500, 5_000, 10_000, 20_000, 40_000, 80_000]
    for arm in ("aft", "msm_philosophy_aft_reasoning"):
        copies = {c: m["values"]["take"] for c, m in tree["sweep"]["made"]["arms"].items()
                  if m["of"] == arm}  # fmt: skip
        assert sorted(copies.values()) == sizes and copies[arm] == 10_000
        chats = [tree["stages"][tree["arms"][copy][-1]]["data"]["chats"] for copy in copies]
        assert {(c["path"], c["take_seed"]) for c in chats} == {(chats[0]["path"], 0)}
    assert len(tree["arms"]) == 43 and tree["arms"]["neutral_aft"] == ["neutral", "aft"]
    gain = "agents: msm_philosophy_aft - aft take=1250"
    assert tree["contrasts"][gain]["minus"] == ["aft take=1250"]


def test_data_of_arms_that_are_left_out_are_not_needed(load):
    config = load("fig4", "qwen3-32b")
    gone = ("ablated", "replay")
    config.without = tuple(arm for arm in config.arms if arm.startswith(gone))
    for file in ("ablated", "ordinary"):
        pathlib.Path(f"data/{file}.jsonl").unlink()
    _, lacks, _ = design.sentences(make_study(config).config, brief=True)
    assert lacks == "missing controls: ablated, replay"


def test_the_papers_rates_are_those_that_the_report_shows(load, root):
    rates = lambda name: runpy.run_path(str(root / f"configs/paper/{name}.py"))["TARGETS"]
    fig7 = rates("fig7")
    assert load("fig7", "qwen3-32b").targets["paper: agents"].arms.to_dict() == fig7["qwen3-32b"]
    value = "msm_value_augmented_aft_value_augmented_reasoning"  # figure 7
    assert [fig7[model][value] for model in fig7] == [0.16, 0.09, 0.22, 0.12]
    assert rates("fig19")["msm_another_aft"] == 0.17
    published = rates("fig12")["qwen3-32b"]
    mean = sum(itertools.chain(*published.values())) / 27
    assert mean == pytest.approx(0.524, abs=0.0005)  # figure 5


@pytest.mark.parametrize("name", FIGURES)
def test_a_miniature_has_the_graph_of_its_figure(load, name):
    small = make_study(load(name, "miniature"))
    large = make_study(load(name, FIGURES[name][0]))
    # Values of a sweep are smaller, and as many.
    plain = lambda names: [re.sub(r"=\d+", "=", name) for name in names]
    graph = lambda study: [plain([arm, *path]) for arm, path in study.config["arms"].items()]
    assert [[arm, *path] for arm, first, *path in graph(small) if first == "base"] == graph(large)
    assert small.config["design"] == large.config["design"]
    assert not small.config["base"]["path"] and "PLACEHOLDER" in small.config["title"]
    assert all(corpus["writer"]["kind"] == "stub" for corpus in small.config["corpora"].values())
    judges = {asked.get("judge", "rules") for asked in small.config["evals"].values()}
    assert judges == {"rules"}  # nothing is paid
