"""What a study's stages and answers are named by, and what its records say of themselves."""

import json
import shutil

import pytest
from ml_collections import ConfigDict

from msm_jax.data.chat import CHAT_FORMATS
from msm_jax.data.tokenizer import train_sentencepiece
from msm_jax.errors import UserError
from msm_jax.evals import kinds
from msm_jax.settings import Form, Named
from msm_jax.study import caveats, files, worker
from msm_jax.study.config import STUDY, evaluation
from msm_jax.study.graph import make_study
from msm_jax.train.config import MODEL, probe, source

# Values where the default's neighbour could not be; None: another test's, or what has no meaning
# by itself.
OTHER = {
    "seeds": (1,),
    "platform": "gpu",
    "world.builder": None,
    "tokenizer.corpus": "docs.jsonl",
    "train.tokenizer": None,
    "train.parent": None,  # refused: base
    "base.path": None,
    "base.adapter": None,  # refused without a path
    "corpora": None,
    "train.seed": None,  # refused: seeds
    "train.chat_format": "chatml",
    "stages": None,
    "arms": None,
    "dose.stages": None,
    "dose.eval": None,
    "dose.measure": None,
    "absorption.eval": None,
    "retention": ("which",),
    "figure.eval": None,
    "figure.measure": "generated",
    "figure.headline": None,
    "contrasts.gap.measure": "generated",
    "controls.measure": None,
    "controls.eval": "which",
    "controls.arms": ("x",),
}


@pytest.fixture
def tiny(tmp_path, make_tiny, load_config, monkeypatch):
    """The tiny study's config, with probes and eval data, beside its files."""
    config = load_config(make_tiny(tmp_path))
    monkeypatch.chdir(tmp_path / "files")
    with config.unlocked():
        config.train.probes.easy = probe("pairs.jsonl")
        config.train.eval.data.held = source("docs.jsonl")
    return config


def leaves(form, config, path=""):
    for name, part in form.keys.items():
        value = config[name]
        if isinstance(part, Form):
            yield from leaves(part, value, f"{path}{name}.")
        elif isinstance(part, Named) and part.sparse:
            continue  # the keys of train, by stage
        elif isinstance(part, Named) and isinstance(part.entry, Form):
            for key in value:
                yield from leaves(part.entry, value[key], f"{path}{name}.{key}.")
        elif not isinstance(part, Named):
            yield f"{path}{name}", value, part


def other(path, value, key):
    if path in OTHER:
        return OTHER[path]
    if key.choices:
        return next(choice for choice in key.choices if choice != value)
    if key.kind is tuple:
        return (key.item.choices or (("red",) if key.item.kind is str else (2,)))[:1]
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value / 2 or 0.25
    if isinstance(value, int):
        return value - 1 if value == key.at_most else value + 1
    return "red.jsonl" if path.endswith(("path", "pairs")) else f"{value}2"


def names(config):
    """Ids of stages, and of evaluations."""
    study = make_study(config)
    return sorted(study.stages), sorted(node.id for node in study.evaluations.values())


def test_each_key_of_a_study_counts_or_is_declared_harmless(tiny):
    begun, wrong, tried = names(tiny), [], 0
    for path, value, key in list(leaves(STUDY, tiny)):
        changed = other(path, value, key)
        if changed is None:
            continue
        tried += 1
        config = ConfigDict(json.loads(tiny.to_json()))
        place = config
        for part in path.split(".")[:-1]:
            place = place[part]
        with config.unlocked():
            place[path.split(".")[-1]] = changed
        try:
            counts = names(config) != begun
        except UserError:
            continue  # refused: nothing is taken for something else
        harmless = bool(key.harmless) and path != "train.keep_steps"  # they are evaluated
        if counts == harmless:
            wrong.append((path, changed))
    assert not wrong and tried > 90


@pytest.fixture
def parent(tmp_path, tiny):
    """A directory that looks like a Hugging Face checkpoint from outside."""
    folder = tmp_path / "base"
    folder.mkdir()
    controls = CHAT_FORMATS["compact"].control_tokens
    train_sentencepiece("corpus.txt", folder / "tokenizer.model", 60, controls)
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "generation_config.json").write_text('{"eos_token_id": 3}')
    with tiny.unlocked():
        tiny.base.path = str(folder)
        for key in ("width", "layers", "heads", "kv_heads", "head_dim", "mlp_width"):
            tiny.train.model[key] = MODEL.keys[key].default
    return folder


def test_the_checkpoint_that_a_study_starts_from_counts_by_content(tiny, parent):
    begun = names(tiny)[0]
    assert len(begun) == 4  # no tokenizer is trained: it is the base's

    now = lambda: names(tiny)[0]

    moved = shutil.copytree(parent, parent.parent / "moved")
    tiny.base.path = str(moved)
    assert now() == begun
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        before = (moved / name).read_bytes()
        (moved / name).write_bytes(before[:-1] + b" }")
        assert not set(now()) & set(begun)
        (moved / name).write_bytes(before)
    assert now() == begun
    controls = (*CHAT_FORMATS["compact"].control_tokens, "<|more|>")
    train_sentencepiece("corpus.txt", moved / "tokenizer.model", 60, controls)
    assert not set(now()) & set(begun)
    shutil.rmtree(moved)
    with pytest.raises(UserError, match="moved"):
        now()


def test_the_base_of_arms_in_8_bits_is_evaluated_in_8_bits(tiny, parent):
    base = lambda: next(node for node in make_study(tiny).stages.values() if node.kind == "base")
    plain = base()
    assert "dtype" not in plain.config
    tiny.train.model.param_dtype = "int8"
    assert base().config == {**plain.config, "dtype": "int8"} and base().digest != plain.digest


def test_how_the_parents_template_writes_chats_counts(tiny, parent):
    (parent / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    tiny.train.chat_format = "own"
    begun = names(tiny)[0]
    line = ("Be kind.", "Be brief.")  # the default system line
    tools = ("{% for turn", "{% if tools %}{{ tools }}{% endif %}{% for turn")
    for change in (line, tools):
        other = {"chat_template": TEMPLATE.replace(*change)}
        (parent / "tokenizer_config.json").write_text(json.dumps(other))
        assert not set(names(tiny)[0]) & set(begun)


TEMPLATE = (
    "{% if messages[0].role != 'system' %}<|system|>Be kind.<|end|>{% endif %}"
    "{% for turn in messages %}<|{{ turn.role }}|>{{ turn.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_numbers_of_several_versions_are_a_warning_that_names_what_differs():
    made = [
        {"code": {"source": "aaa", "jax": "0.10.2"}, "stages": ["1", "2"], "evals": []},
        {"code": {"source": "bbb", "jax": "0.10.2"}, "stages": ["3"], "evals": ["3"]},
    ]
    text = caveats.mixed_code(made)
    assert "2 stages and 0 evaluated: source aaa; 1 stages and 1 evaluated: source bbb" in text
    assert "jax" not in text


def test_nothing_outside_of_a_studys_directory_is_deleted_whatever_evals_json_names(tmp_path):
    precious, folder = tmp_path / "precious", tmp_path / "evals"
    for place in (precious, folder / "old", folder / "kept"):
        place.mkdir(parents=True)
        (place / "file").write_text("x")
    (folder / "link").symlink_to(precious)
    names = (str(precious), "../precious", "link", "link/file", ".", "..", "", "old", "gone")
    asked = {"kind": "preferences", **kinds.resolve("preferences", {"pairs": "p", "samples": 1})}
    asked = json.loads(json.dumps({**asked, "step": None, "content": {"pairs": "p"}}))
    before = {name: {**asked, "samples": 2} for name in names} | {"kept": asked, "odd": 3}
    (folder / "evals.json").write_text(json.dumps({"digest": "x", "config": before}))
    worker.delete_outdated(folder, {"kept": {**asked, "rows": 9}})
    left = [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("file")]
    assert sorted(left) == ["evals/kept/file", "precious/file"]
    assert "digest" not in (folder / "evals.json").read_text()


@pytest.mark.parametrize("name", ["/tmp/x", "a/b", "", "which@3", "~"])
def test_an_evaluation_is_not_named_like_a_path(tiny, name):
    with tiny.unlocked():
        tiny.evals = {name: evaluation(pairs="pairs.jsonl").to_dict()}
    tiny.contrasts, tiny.figure.groups = {}, {}
    with pytest.raises(UserError, match="cannot be the name of a directory"):
        make_study(tiny)


@pytest.mark.parametrize("path", ["{world}/../pairs.jsonl", "{world}//etc/passwd"])
def test_a_file_of_the_world_is_in_the_world(tiny, path):
    tiny.world.builder = "msm_jax.miniature.build:build"
    tiny.evals.which.pairs = path
    with pytest.raises(UserError, match=r"config\.evals\.which\.pairs=.*not inside of the world"):
        make_study(tiny)


@pytest.mark.parametrize("content", ["{}", "[]", '{"digest": "x"}', "{", "[" * 99_999, "\0"])
def test_a_stage_json_that_is_not_ours_is_named(tiny, tmp_path, content):
    study = make_study(tiny)
    stage = next(iter(study.stages.values()))
    file = files.stage_dir(tmp_path, stage.id) / "stage.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(UserError, match=r"stage\.json: "):
        files.read_mark(tmp_path, stage)
