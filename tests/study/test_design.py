"""Controls are named in the report, those that are missing too; an arm can be left out."""

import pytest

from msm_jax.errors import UserError
from msm_jax.study import design
from msm_jax.study.graph import make_study


@pytest.fixture
def tiny(tmp_path, make_tiny, load_config):
    config = load_config(make_tiny(tmp_path)).unlock()
    config.arms.neutral = ("base",)
    config.contrasts.kept = {**config.contrasts.gap.to_dict(), "minus": ("neutral",)}
    config.figure.summary = ("gap", "kept")
    config.design.msm, config.design.neutral = ("x", "y"), ("neutral",)
    return config


def test_without_an_arm_the_rest_of_a_study_is_the_same(tiny):
    whole = make_study(tiny)
    tiny.without = ("y",)
    part = make_study(tiny)
    assert set(part.nodes) < set(whole.nodes)
    gone = {whole.nodes[name].path for name in set(whole.nodes) - set(part.nodes)}
    assert gone == {("base", "y")}
    assert set(part.config["contrasts"]) == {"kept"} and not part.config["figure"]["groups"]
    assert part.config["figure"]["headline"] == "" and part.config["figure"]["summary"] == ["kept"]
    assert "y" not in part.config["stages"]
    assert set(part.config["absorption"]["stages"]) == {"x"}
    # The evaluation of absorption and dose goes with its last arm.
    tiny.evals.held.arms, tiny.dose.eval = ("y",), "held"
    tiny.dose.stages, tiny.dose.steps = ("x", "y"), (2,)
    left = make_study(tiny).config
    assert not left["absorption"]["stages"] and not left["dose"]["steps"]


def test_missing_controls_and_arms_left_out_are_named(tiny):
    tiny.without = ("y", "neutral")
    tree = make_study(tiny).config
    has, lacks, left_out = design.sentences(tree, brief=True)
    assert has == "controls: msm (x)"
    assert lacks.startswith("missing controls: plain, mix, aft") and "neutral" in lacks
    assert left_out == "left out by config.without: y, neutral"
    by_name = {entry["control"]: entry["arms"] for entry in design.controls_of(tree)}
    assert by_name["msm"] == ["x"] and by_name["neutral"] == []


def test_what_cannot_be_left_out_or_is_no_control_is_refused(tiny):
    tiny.without = ("z",)
    with pytest.raises(UserError, match=r"config\.without: 'z' is not one of config\.arms"):
        make_study(tiny)
    tiny.without = ("x", "y", "neutral")
    with pytest.raises(UserError, match="no arm is left"):
        make_study(tiny)
    tiny.without, tiny.design.mix = ("y",), ("mixx",)
    with pytest.raises(UserError, match=r"design\.mix: 'mixx' is not one of config\.arms"):
        make_study(tiny)
    tiny.without, tiny.design.mix = (), ()
    tiny.design.context = ("which",)
    with pytest.raises(UserError, match=r"design\.context: 'which' is not one of config\.evals wi"):
        make_study(tiny)
    tiny.design.context, tiny.design.aft = (), ("which",)
    with pytest.raises(UserError, match=r"design\.aft: 'which' is not one of config\.arms"):
        make_study(tiny)
