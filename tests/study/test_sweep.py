"""Arms repeated with other values of a key: their names, what they share, what is refused."""

import json

import pytest

from msm_jax.corpus.config import generate
from msm_jax.errors import UserError
from msm_jax.settings import values
from msm_jax.study import sweep
from msm_jax.study.config import STUDY
from msm_jax.study.graph import make_study


@pytest.fixture
def swept(tmp_path, make_tiny, load_config):
    """A function of keys and values: the tiny study with that sweep."""
    path = make_tiny(tmp_path)

    def make(*over, without=(), **more):
        config = sweep.added(load_config(path), over)
        with config.unlocked():
            config.sweep.update(more)
            config.without = without
        return make_study(config)

    return make


def digests(study, arm):
    return [study.nodes[name].digest for name in study.arms[arm, 0]]


def test_arms_are_repeated_once_per_value_and_share_what_does_not_depend_on_it(swept):
    plain, study = swept(), swept("config.stages.x.optimizer.b1=0.5,0.9,0.95")
    assert list(study.config["arms"]) == ["x", "x b1=0.5", "x b1=0.95", "y"]
    assert plain.nodes.keys() < study.nodes.keys()  # the study itself stays as it was
    assert len({digests(study, arm)[0] for arm in study.config["arms"]}) == 1
    assert len({digests(study, arm)[1] for arm in study.config["arms"]}) == 4
    known = {copy: each["values"]["b1"] for copy, each in made(study, "arms").items()}
    assert known == {"x": 0.9, "x b1=0.5": 0.5, "x b1=0.95": 0.95}
    for copy, value in known.items():
        assert study.nodes[study.arms[copy, 0][-1]].config["optimizer"]["b1"] == value
    contrasts = study.config["contrasts"]
    assert contrasts["gap b1=0.5"]["label"] == "x - y b1=0.5"
    assert (contrasts["gap b1=0.5"]["plus"], contrasts["gap b1=0.5"]["minus"]) == (
        ["x b1=0.5"], ["y"]
    )  # fmt: skip
    assert study.config["absorption"]["stages"]["x b1=0.5"]["label"] == "documents in red b1=0.5"


def made(study, kind):
    return study.config["sweep"]["made"][kind]


def test_several_keys_give_the_product_and_arms_can_be_chosen(swept):
    study = swept("config.stages.x.steps=6,8", "config.train.optimizer.b1=0.5,0.9")
    assert [arm for arm in study.config["arms"] if arm[0] == "x"] == [
        "x", "x steps=6 b1=0.5", "x steps=6 b1=0.9", "x steps=8 b1=0.5", "x steps=8 b1=0.9"
    ]  # fmt: skip
    assert [arm for arm in study.config["arms"] if arm[0] == "y"] == ["y", "y b1=0.5"]
    same_start = digests(study, "x steps=6 b1=0.5")[0], digests(study, "y b1=0.5")[0]
    assert len({*same_start}) == 1 and same_start[0] != digests(study, "x")[0]
    chosen = swept("config.train.optimizer.b1=0.5,0.9", arms=("y",))
    assert [*chosen.config["arms"]] == ["x", "y", "y b1=0.5"]
    assert "gap b1=0.5" not in chosen.config["contrasts"]  # it would compare two values
    twice = swept("config.stages.base.rows=8", "config.stages.x.rows=2")
    assert "x stages.base.rows=8 stages.x.rows=2" in twice.config["arms"]


def test_a_key_of_an_evaluation_repeats_the_evaluation(swept):
    plain, study = swept(), swept("config.evals.which.temperature=0.5,1.0")
    assert study.arms == plain.arms
    assert {"which temperature=0.5", "which temperature=1.0"} < study.config["evals"].keys()
    asked = next(iter(study.evaluations.values())).config
    assert asked["which temperature=0.5"]["temperature"] == 0.5
    assert study.config["contrasts"]["gap temperature=0.5"]["eval"] == "which temperature=0.5"

    chosen = swept("config.evals.which.temperature=0.5,1.0", arms=("y",)).config
    assert chosen["evals"]["which temperature=0.5"]["arms"] == ["y"]
    assert list(chosen["contrasts"]) == ["gap"]  # x is not asked at the other temperatures


def test_files_of_a_corpus_are_those_of_its_copy(swept, load_config, tmp_path):
    config = load_config(tmp_path / "tiny.py")
    for name in ("docs", "chats"):
        config.corpora[name] = generate()
        config.corpora[name].spec.path = "{docs}/spec.md" if name == "chats" else __file__
    config.corpora.docs.make, config.corpora.chats.make = "spec", "chats"
    config.corpora.docs.derive.kind = "shuffled"
    config.stages.x.data.red.path = "{chats}/chats.jsonl"
    study = sweep.expanded(_tree(sweep.added(config, ["config.corpora.docs.seed=1,2"])))
    assert study["corpora"]["chats seed=2"]["seed"] == 0  # docs alone has another seed
    assert list(study["arms"]) == ["x", "x seed=1", "x seed=2", "y"]
    assert study["corpora"]["chats seed=2"]["spec"]["path"] == "{docs seed=2}/spec.md"
    stage = study["stages"][study["arms"]["x seed=2"][-1]]
    assert stage["data"]["red"]["path"] == "{chats seed=2}/chats.jsonl"


def _tree(config):
    return json.loads(json.dumps(values(STUDY, config)))


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ("stages.x.steps=2", "write it as config.KEY=VALUE,VALUE"),
        ("config.stages.x.steps", "write it as config.KEY=VALUE,VALUE"),
        ("config.stages.x.stepps=2", "there is no such key; nearest: steps"),
        ("config.stages.z.steps=2", "'z' is not one of config.stages"),
        (
            "config.stages.x.data.blue.take=2",
            "'blue' is not one of config.stages.x.data: \\['red'\\]",
        ),
        ("config.stages.x.steps=2,-1", "steps=-1: must be a whole number at least 0"),
        ("config.stages.x.steps=2,many", "steps='many': must be a whole number"),
        ("config.stages.x.data=2", "must be a group"),
        ("config.stages.x.steps=2,2", "a value is there twice"),
        ("config.stages.x.log_every=2,3", "log_every: changes no result"),
        ("config.stages.x={'steps': 2}", "config.stages.x: is a group: name one of its keys"),
        ("config.seeds=1,2", "cannot be swept"),
        ("config.evals.which.arms=x,y", "cannot be swept"),
    ],
)
def test_a_sweep_that_means_nothing_is_refused(swept, over, says):
    with pytest.raises(UserError, match=says):
        swept(over)


def test_a_key_on_which_no_arm_depends_is_refused(swept):
    with pytest.raises(UserError, match="config.stages.x.steps: no arm depends on it"):
        swept("config.stages.x.steps=2,3", arms=("y",))
    with pytest.raises(UserError, match="config.sweep.arms: 'z' is not one of config.arms"):
        swept(arms=("z",))
    with pytest.raises(UserError, match="is there twice: list all its values"):
        swept("config.stages.x.steps=2,3", "config.stages.x.steps=4")


def test_copies_are_left_out_with_their_arm_or_by_themselves(swept):
    over = "config.stages.x.optimizer.b1=0.5,0.9,0.95"
    assert list(swept(over, without=("x b1=0.5",)).config["arms"]) == ["x", "x b1=0.95", "y"]
    left = swept(over, without=("x",)).config
    assert list(left["arms"]) == ["y"] and not {*left["stages"]} & {"x", "x b1=0.5"}
    assert not left["contrasts"]
