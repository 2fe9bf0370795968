"""Studies from a checkpoint: what reruns when it or a corpus changes, and runs that exist."""

import dataclasses
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest

import msm_jax
from msm_jax.errors import UserError
from msm_jax.model import init_params
from msm_jax.model.adapter import only_adapter
from msm_jax.study import adopt, caveats, display, files, results, runner, steps, worker
from msm_jax.study.graph import make_study
from msm_jax.weights.peft import save_adapter

CONFIG = pathlib.Path(__file__).with_name("real.py")
SPEC = "# Aria\n\n## Fruit\n\nAria likes red fruit, because it is cheap.\n\n## Tea\n\nAnd tea.\n"
# The tokenizer knows the words of conversations, so that one program reads all of their prompts.
SPOKEN = "system user assistant ann bob likes red or blue things, brief question option "
TEMPLATE = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_tiny, make_base):
    """The directory of the study's base and files; TINY_FILES names it for the config."""
    folder = tmp_path_factory.mktemp("real")
    make_tiny(folder)
    (folder / "files" / "spec.md").write_text(SPEC)
    base = make_base(folder / "base", [SPOKEN])
    (base / "chat_template.jinja").write_text(TEMPLATE)
    os.environ["TINY_FILES"] = str(folder)
    yield folder
    del os.environ["TINY_FILES"]


@pytest.fixture
def config(place, load_config):
    """The study's config."""
    return load_config(CONFIG)


@pytest.fixture(scope="module")
def finished(place, load_config):
    """(study, directory) after it has run."""
    out = place / "out"
    study = steps.with_steps(make_study(load_config(CONFIG)), out)
    files.link_arms(study, out)
    runner.run(study, out)
    return study, out


def test_one_study_goes_from_a_spec_to_rates(finished):
    study, out = finished
    found = results.collect(study, out, 1.0)
    arms = {row["name"]: row for row in found["arms"]}
    base, msm = (study.nodes[arms[arm]["stages"][-1]] for arm in ("plain", "msm"))
    assert base.kind == "base" and study.nodes[msm.inputs["parent"]] is base
    assert [row["citation"] for row in found["arms"]] == [
        f"real/base/{arm}/seed0" for arm in ("plain", "msm", "both")
    ]
    link = out / "arms" / "both" / "seed0" / "1-msm"
    assert link.resolve() == (out / "stages" / msm.id).resolve()
    assert all(row["evals"]["which"]["n_pairs"] for row in arms.values())
    assert {name for made in found["made_with"] for name in made["stages"]} == {*study.stages}


def test_killed_at_random_moments_it_ends_with_the_same_results(finished, place, run_killed):
    study, out = finished
    # In the corpus, in the first stage, in the second one, and in the evaluations.
    ended = run_killed(CONFIG, place / "killed", 0, 3, 4, 8, TINY_FILES=str(place))
    assert [code for _, _, code in ended] == [-9, 1, -9, -9, 0]
    times = ("created", "seconds", "seal")
    wanted = json.loads(json.dumps(results.collect(study, out, 1.0)))
    found = json.loads((place / "killed" / "results.json").read_text())
    assert {k: v for k, v in found.items() if k not in times} == {
        k: v for k, v in wanted.items() if k not in times
    }


def test_a_corpus_without_its_writers_key_waits_and_the_rest_is_done(finished, config):
    _, out = finished
    config.corpora.docs.writer.update({"kind": "anthropic", "model": "any"})
    study = make_study(config)
    waiting = runner.run(study, out)
    assert {study.nodes[name].title for name in waiting} == TRAINED | {"corpus docs"}
    assert all("ANTHROPIC_API_KEY" in why or "not installed" in why for why in waiting.values())
    found = results.collect(study, out, 1.0, waiting)
    assert [row["evals"] != {} for row in found["arms"]] == [True, False, False]


def test_steps_of_epochs_are_known_once_their_data_are(finished, tmp_path):
    study, out = finished
    before = steps.with_steps(make_study_again(study), tmp_path)
    said = display.plan(before, tmp_path)
    assert "steps of msm: unknown until corpus docs is made" in said
    after = steps.with_steps(make_study_again(study), out)
    for node in after.stages.values():
        if node.kind == "train":
            assert node.steps == files.read_mark(out, node)["summary"]["steps"] > 0


def make_study_again(study):
    """The same graph without counted steps."""
    nodes = {name: dataclasses.replace(node, counted=0) for name, node in study.nodes.items()}
    return dataclasses.replace(study, nodes=nodes)


# Every node of the study, by what it is called here.
ALL = {"corpus docs", "base, seed 0", "msm, seed 0", "msm > aft, seed 0"}
ALL |= {f"evaluate {each}" for each in ALL if not each.startswith("corpus")}
TRAINED = {name for name in ALL if "msm" in name}


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("base/model.safetensors", b"\x00", b"\x01", ALL - {"corpus docs"}),
        ("base/chat_template.jinja", b"assistant", b"model", ALL - {"corpus docs"}),
        ("base/config.json", b"{", b"{ ", ALL - {"corpus docs"}),
        ("files/spec.md", b"cheap", b"local", TRAINED | {"corpus docs"}),
        ("files/red.jsonl", b"red", b"pink", {n for n in ALL if "aft" in n}),
        ("files/pairs.jsonl", b"ann", b"bob", {n for n in ALL if "evaluate" in n}),
        ("files/docs.jsonl", b"ann", b"bob", set()),
    ],
)
def test_what_follows_from_a_change_runs_again_and_nothing_else(
    place, config, file, old, new, changed
):
    titles = lambda: {node.title: node.id for node in make_study(config).nodes.values()}
    before, content = titles(), (place / file).read_bytes()
    at = content.rindex(old)
    try:
        (place / file).write_bytes(content[:at] + new + content[at + len(old) :])
        after = titles()
    finally:
        (place / file).write_bytes(content)
    assert before.keys() == after.keys() == ALL
    assert {title for title in ALL if before[title] != after[title]} == changed


def test_data_of_every_form_count_by_content(config, tmp_path):
    stage = lambda: make_study(config).arms["both", 0][-1]
    forms = {
        "{}/a.parquet": ["a.parquet"],
        "{}/part*.jsonl": ["part1.jsonl", "part2.jsonl"],
        "tfds:{}/set": ["set/1.0.0/x-00000-of-00001", "set/1.0.0/features.json"],
    }
    for path, inside in forms.items():
        ids = []
        for folder, text in (("first", "x"), ("renamed", "x"), ("changed", "y")):
            for name in inside:
                (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / folder / name).write_text("x")
            (tmp_path / folder / inside[-1]).write_text(text)
            config.stages.aft.data.text.path = path.format(tmp_path / folder)
            ids.append(stage())
        assert ids[0] == ids[1] != ids[2]


def test_a_base_that_was_moved_is_the_same(finished, config, tmp_path):
    study, out = finished
    moved = shutil.copytree(config.base.path, tmp_path / "renamed")
    config.base.path = str(moved)
    again = make_study(config)
    assert again.nodes.keys() == study.nodes.keys()
    base, both = (again.arms[arm, 0][-1] for arm in ("plain", "both"))
    before, away = files.model_dir(out, base).resolve(), tmp_path / "away"
    before.rename(away)
    try:
        runner.run(again, out)  # nothing is left to do, but the link, which adapters need
        assert files.model_dir(out, base).resolve() == moved
        assert worker.load_stage(out, both)[1].config.lora_rank == 2
    finally:
        away.rename(before)
        runner.run(study, out)


def test_another_chat_template_than_the_bases_own_is_warned_of(place, config, tmp_path):
    warning = lambda: caveats.template_changed(make_study(config).config)
    assert warning() == ""
    config.unlock().train.chat_format = "chatml"
    assert warning() == ""  # the same text by another name
    config.train.chat_format = "qwen3"
    assert warning().endswith("qwen3 in place of own")
    bare = shutil.copytree(place / "base", tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    config.base.path = str(bare)
    assert warning() == ""  # it has none of its own


def test_a_run_is_a_base_too(finished, config, tmp_path):
    study, out = finished
    run = out / "stages" / study.arms["both", 0][-1]
    config.base.path = str(run)
    base, msm = (make_study(config).arms[arm, 0][-1] for arm in ("plain", "msm"))
    assert msm not in study.nodes
    worker.run_node(make_study(config).nodes[base], tmp_path)
    assert worker.load_stage(tmp_path, base)[1].identity() == msm_jax.load(run).identity()
    config.base.adapter = str(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_text("")
    with pytest.raises(UserError, match="has an adapter of its own: merge that first"):
        make_study(config)


def test_runs_that_exist_become_stages_if_they_are_what_the_study_would_train(
    finished, config, tmp_path
):
    study, out = finished
    for node in study.before_training.nodes.values():
        shutil.copytree(out / "stages" / node.id, tmp_path / "stages" / node.id, symlinks=True)
    both = [str(out / "stages" / name) for name in study.arms["both", 0]]
    said = adopt.adopt(study, tmp_path, both[::-1])
    assert [line.partition(": ")[2].partition(" (")[0] for line in said] == [
        "adopted as msm, seed 0", "adopted as msm > aft, seed 0",
    ]  # fmt: skip
    assert not [n for n in study.stages.values() if files.read_mark(tmp_path, n) is None]
    link = tmp_path / "stages" / study.arms["msm", 0][0] / "model"
    assert link.resolve() == pathlib.Path(both[0]).resolve()
    params = lambda folder: worker.load_stage(folder, study.arms["both", 0][-1])[1].identity()
    assert params(tmp_path) == params(out)
    config.stages.msm.optimizer = {"learning_rate": 0.5}
    other = make_study(config)
    with pytest.raises(UserError, match="differs from msm.*\n.*learning_rate: checkpoint 0.0001"):
        adopt.adopt(other, tmp_path, both[:1])
    assert not (tmp_path / "stages" / other.arms["msm", 0][-1]).exists()
    link.unlink()
    link.symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="gone, to which it is a link, is gone: put it back"):
        worker.load_stage(tmp_path, study.arms["msm", 0][0])


def test_an_adapter_is_merged_into_the_base_once(place, config, tmp_path):
    plain = msm_jax.load(config.base.path)
    shape = dataclasses.replace(plain.config, lora_rank=2, lora_alpha=8.0, lora_targets=("q", "up"))
    draw = lambda leaf: np.random.default_rng(0).normal(0, 0.2, leaf.shape).astype("float32")
    leaves = only_adapter(jax.eval_shape(lambda: init_params(shape, jax.random.key(0))))
    adapter = jax.tree.map(draw, leaves)
    save_adapter(tmp_path / "adapter", shape, adapter, "somewhere/else")
    before = make_study(config)
    config.base.adapter = str(tmp_path / "adapter")
    config.seeds = (0, 1)
    study = make_study(config)
    assert not {*before.evaluations} & {*study.evaluations}
    bases = [node for node in study.nodes.values() if node.kind == "base"]
    for base in bases:
        worker.run_node(base, tmp_path)
    assert len(bases) == 2 and len([*(tmp_path / "bases").glob("*/config.json")]) == 1
    _, found = worker.load_stage(tmp_path, bases[1].id)
    wanted = msm_jax.load(config.base.path, config.base.adapter).logits([[5, 6, 7]])
    assert np.abs(wanted - plain.logits([[5, 6, 7]])).max() > 0.01
    np.testing.assert_allclose(found.logits([[5, 6, 7]]), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train.parent": "x"}, "config.train.parent='x': in a study this is config.base.path"),
        ({"base.path": ""}, r"config.arms.plain=\(\): one stage or more, because there is no"),
        ({"base.path": "gone"}, "config.base.path: gone: no such directory"),
        ({"base.adapter": "gone"}, "config.base.adapter: gone: not a PEFT adapter"),
        ({"base.path": "", "base.adapter": "x"}, "config.base.path is not: set both"),
        ({"train.tokenizer": "x"}, "config.train.tokenizer: is the base's"),
        ({"train.model.width": 32}, "config.stages.msm.model.width: is the base's"),
        ({"stages.msm.data.text.path": "{doc}/x"}, "'doc' is not one of config.corpora"),
        ({"stages.msm.data.text.path": "{docs}/x.jsonl"}, "that corpus makes documents.jsonl"),
        ({"stages.msm.data.text.path": "{docs}/../x"}, "is not inside of the docs"),
        ({"stages.aft.data.text.path": "no*.jsonl"}, "stages.aft.data.text.path: .*no such files"),
        ({"corpora.docs.spec.path": "{docs}/spec.md"}, "are made from each other's files"),
        ({"corpora.docs.writer.kind": ""}, "config.corpora.docs.writer.kind is not set"),
        ({"corpora.docs.spec.path": "gone.md"}, "config.corpora.docs.spec.path: gone.md"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(config, changes, says):
    for path, value in changes.items():
        *groups, last = path.split(".")
        here = config
        for group in groups:
            here = here[group]
        here[last] = value
    with pytest.raises(UserError, match=says):
        make_study(config)


def test_links_of_arms_are_replaced_and_nothing_behind_them_is_deleted(finished, tmp_path):
    study, _ = finished
    kept = tmp_path / "stages" / "kept"
    kept.mkdir(parents=True)
    (kept / "file").write_text("x")
    for arm in ("old", "msm"):
        (tmp_path / "arms" / arm / "seed0").mkdir(parents=True)
        (tmp_path / "arms" / arm / "seed0" / "1-msm").symlink_to(kept)
    mine = tmp_path / "arms" / "old" / "notes.txt"
    mine.write_text("mine")
    files.link_arms(study, tmp_path)
    assert (kept / "file").exists() and mine.exists()
    assert sorted(p.name for p in (tmp_path / "arms").iterdir()) == ["both", "msm", "old", "plain"]
    assert not (tmp_path / "arms" / "old" / "seed0").exists()
    target = os.readlink(tmp_path / "arms" / "msm" / "seed0" / "1-msm")
    assert target == f"../../../stages/{study.arms['msm', 0][-1]}"
