"""A setting is declared once, and what it may not be is refused wherever it comes from."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from msm_jax import settings
from msm_jax.corpus.config import GENERATE
from msm_jax.errors import UserError
from msm_jax.evals import kinds
from msm_jax.evals.kinds import EVALUATE
from msm_jax.miniature.world import WORLD
from msm_jax.settings import SAMPLING, Form, Key, Named, checked, form, group, key, named, values
from msm_jax.study.config import ABSORPTION, CONTRAST, EVALUATION, FIGURE_GROUP, STUDY
from msm_jax.train.config import PROBE, SOURCE, STAGE, source, stage

FORMS = (
    STAGE, SOURCE, PROBE, STUDY, EVALUATION, CONTRAST, ABSORPTION, FIGURE_GROUP, GENERATE, EVALUATE,
    WORLD, SAMPLING,
)  # fmt: skip
KEYS = {f"{form.name}.{path}": (form, path) for form in FORMS for path in form.paths()}


def wrong_values(key: Key) -> list:
    """Values of another type, or just outside of the range."""
    if key.item:
        wrong = [(value,) for value in wrong_values(key.item)]
        return [*wrong, "text", 3] + ([key.default[:1]] if key.length else [])
    wrong: list = [[], {}, {"a": 1}]
    wrong += [] if key.default is None else [None]
    if key.kind in (int, float):
        wrong += ["1", True, math.nan, math.inf, -math.inf, 1j]
        step = 1 if key.kind is int else 1e-9
        wrong += [] if key.kind is float else [1.5, 1.0, 2**200]
        wrong += [1e-50, 1e39] if key.kind is float and key.single else []
        wrong += [] if key.at_least is None else [key.at_least - step]
        wrong += [] if key.at_most is None else [key.at_most + step]
        wrong += [limit for limit in (key.above, key.below) if limit is not None]
        return wrong
    if key.kind is bool:
        return [*wrong, 0, 1, "True"]
    return [*wrong, 1, True, b"text"] + (["none of these"] if key.choices else [])


def nested(path: str, value) -> dict:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


@pytest.mark.parametrize("path", KEYS)
def test_what_a_key_may_not_be_is_refused_by_its_path(path):
    form, inner = KEYS[path]
    declared = form.paths()[inner]
    if isinstance(declared, Named):
        wrong = ["text", 3, ("a",), {"a.b": {}}, {1: {}}]
    else:
        wrong = wrong_values(declared)
    for value in wrong:
        with pytest.raises(UserError, match=rf"^config\.{inner}\b") as raised:
            values(form, nested(inner, value))
        assert "must be" in str(raised.value) or "is no name" in str(raised.value), value


@pytest.mark.parametrize("path", KEYS)
def test_defaults_are_allowed_and_every_key_has_a_meaning(path):
    form, inner = KEYS[path]
    declared = form.paths()[inner]
    assert declared.meaning or form is kinds.EVALUATE
    if isinstance(declared, Key) and declared.default is not None:
        assert values(form, nested(inner, declared.default)) == values(form, {})


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_misspelt_key_is_an_error_that_names_the_nearest(form):
    for path, declared in form.paths().items():
        place, _, name = path.rpartition(".")
        misspelt = f"{name[:1]}{name}"
        if misspelt in form.keys:
            continue
        spot = f"{place}.{misspelt}" if place else misspelt
        with pytest.raises(UserError, match=f"^config.{spot}: there is no such key; nearest: "):
            values(form, nested(spot, getattr(declared, "default", {})))


def test_a_key_of_another_group_is_found():
    for wrong, right in (("clip_norm", "optimizer.clip_norm"), ("lora_rank", "model.lora_rank")):
        with pytest.raises(UserError, match=f"no such key; nearest: {right}$"):
            values(STAGE, {wrong: 1})
    with pytest.raises(
        UserError, match="no such key; known: rows, documents_per_row, too_long, long_chats$"
    ):
        values(STAGE, {"packing": {"qqq": 1}})


def test_all_problems_are_told_at_once():
    wrong = {"seed": -1, "optimizer": {"clip_norm": -1, "b1": 1}, "data": {"x": {"repeat": 0}}}
    with pytest.raises(UserError) as raised:
        checked(STAGE, wrong)
    assert str(raised.value).splitlines() == [
        "4 settings are wrong:",
        "  config.seed=-1: must be a whole number at least 0 and at most 4,294,967,295",
        "  config.optimizer.clip_norm=-1: must be a number at least 0",
        "  config.optimizer.b1=1: must be a number at least 0 and below 1",
        "  config.data.x.repeat=0: must be a whole number at least 1",
    ]


def test_numbers_that_cannot_be_printed_are_named_all_the_same():
    for huge in (10**400, 10**5000):
        with pytest.raises(UserError, match=r"^config.optimizer.eps=.{0,210}: must be a number"):
            values(STAGE, {"optimizer": {"eps": huge}})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"optimizer": {"eps": 1e-50}}, "optimizer.eps=1e-50: is 0 in 32 bits"),
        ({"optimizer": {"b2": 1 - 1e-12}}, "optimizer.b2=.*: is 1 in 32 bits"),
        ({"optimizer": {"weight_decay": 1e39}}, "optimizer.weight_decay=1e.39: is inf in 32 bits"),
        ({"steps": 2**31}, "steps=2147483648: does not fit 32 bits"),
    ],
)
def test_what_32_bits_make_another_number_of_is_refused(given, says):
    with pytest.raises(UserError, match=rf"^config\.{says}: must be "):
        values(STAGE, given)
    assert values(SAMPLING, {"temperature": 1e-300})["temperature"] == 1e-300  # the draw's to limit
    for kept in ({"eps": 1e-30}, {"b2": 0.9999}, {"clip_norm": 1e30}):
        assert values(STAGE, {"optimizer": kept})["optimizer"].items() >= kept.items()


def test_equal_values_of_other_types_become_the_keys_type():
    given = {
        "seed": np.int64(3),
        "epochs": 2,
        "optimizer": {"eps": np.float32(0.5)},
        "keep_steps": [1, 2],
        "data": {"x": ConfigDict({"path": "p", "weight": 1})},
    }
    found = checked(STAGE, given)
    assert json.loads(found.to_json())["seed"] == 3
    assert (type(found.seed), type(found.epochs), type(found.optimizer.eps)) == (int, float, float)
    assert found.keep_steps == (1, 2)
    assert found.data.x.weight == 1.0 and found.data.x.repeat == 1
    assert found.is_locked and found.data.is_locked


def test_what_is_not_given_has_its_default_and_layers_go_over_it():
    assert checked(STAGE, {}).to_dict() == stage().to_dict()
    layers = [
        STAGE.read(given, "config", settings.Problems(STAGE))
        for given in (
            {"rows": 4, "data": {"a": {"path": "a", "weight": 3}}},
            {"steps": 7, "data": {"a": {"weight": 2}, "b": {"path": "b"}}},
        )
    ]
    found = STAGE.fill(*layers)
    assert (found["rows"], found["steps"], found["log_every"]) == (4, 7, 20)
    assert found["data"]["a"] == {**source("a", 2.0).to_dict()}
    assert list(found["data"]) == ["a", "b"]


def test_forms_are_locked_from_the_start_but_for_names_of_the_users():
    config = stage()
    config.data.mine = source("documents.jsonl")
    config.eval.data.theirs = source("documents.jsonl")
    for place, name in ((config, "stepps"), (config.optimizer, "lr"), (config.data.mine, "wait")):
        with pytest.raises(AttributeError, match=name):
            setattr(place, name, 1)
    with pytest.raises(UserError, match=r"^source.weight=-1: must be a number at least 0$"):
        source("documents.jsonl", weight=-1)


def test_configs_copied_and_read_back_are_the_same():
    config = stage()
    config.data.mine = source("documents.jsonl")
    again = ConfigDict(json.loads(config.to_json()))
    assert checked(STAGE, again).to_dict() == checked(STAGE, copy.deepcopy(config)).to_dict()


def test_names_of_the_users_stay_in_their_order():
    config = ConfigDict({"arms": ConfigDict({"z": ("a",), "b": ("a",)})})
    assert list(values(STUDY, config)["arms"]) == ["z", "b"]


def test_options_of_a_builder_without_a_form_are_plain_values():
    given = {"world": {"options": {"a": 1, "b": [1, {"c": "x"}]}}}
    assert values(STUDY, given)["world"]["options"] == given["world"]["options"]
    for wrong in (object(), math.nan, {1, 2}):
        with pytest.raises(UserError, match=r"^config\.world\.options\.a="):
            values(STUDY, {"world": {"options": {"a": wrong}}})


def test_a_group_that_is_no_group_is_refused():
    for which, given in ((STAGE, {"model": 3}), (STAGE, {"data": {"x": "path"}}), (STAGE, [])):
        with pytest.raises(UserError, match="must be a group of: "):
            values(which, given)


def test_a_form_of_ones_own():
    mine = form(
        "mine",
        "Mine.",
        size=key(2, "how many", at_least=1),
        inner=group("inside", names=key((), "texts", of=str, length=2)),
        more=named(key(0.5, "share", **settings.SHARE), "by name"),
    )
    assert mine.config(size=3).to_dict() == {"size": 3, "inner": {"names": ()}, "more": {}}
    assert mine.under("elsewhere", size=key(1, "one")).config().size == 1
    assert isinstance(mine, Form) and mine.paths().keys() == {"size", "inner.names", "more"}
    with pytest.raises(UserError, match=r"config.inner.names=\('a',\): must be a tuple, 2 values"):
        values(mine, {"inner": {"names": ("a",)}})
    with pytest.raises(UserError, match=r"config.more.x=2: must be a number at least 0"):
        values(mine, {"more": {"x": 2}})


def test_fields_of_a_dataclass_are_its_form():
    @dataclasses.dataclass(frozen=True)
    class Knobs:
        """Some knobs."""

        share: float = settings.field(0.5, "a share", **settings.SHARE)

    assert Knobs().share == 0.5
    with pytest.raises(UserError, match="^share=2: must be"):
        values(settings.form_of(Knobs), {"share": 2}, "")


def test_choices_are_those_that_the_code_knows():
    from msm_jax.data import packing, pipeline, store
    from msm_jax.evals import preferences
    from msm_jax.model import config as model
    from msm_jax.train import optimizer

    choices = lambda form, path: (form.paths()[path].item or form.paths()[path]).choices
    for path, known in {
        "mixture": pipeline.MIXTURES,
        "packing.rows": packing.ROWS,
        "packing.too_long": packing.TOO_LONG,
        "trainable": optimizer.TRAINABLE,
        "optimizer.schedule": optimizer.SCHEDULES,
        "model.lora_targets": model.PROJECTIONS,
        "model.remat": model.REMATS,
        "model.attention": model.ATTENTIONS,
    }.items():
        assert set(choices(STAGE, path)) == set(known), path
    assert set(choices(SOURCE, "loss_on")) == set(store.LOSS_ON)
    assert choices(EVALUATION, "scorers") == choices(EVALUATE, "scorers") == preferences.SCORERS


def test_the_keys_of_a_model_are_those_of_its_config():
    from msm_jax.model import ModelConfig

    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    assert set(STAGE.keys["model"].keys) == fields - {"rope_scaling"} | {"preset"}
