"""What a study asks of its models: identity, measures that exist, absorption in words."""

import json

import pytest

from msm_jax.errors import UserError
from msm_jax.evals.kinds import KINDS
from msm_jax.study import absorption, evaluations
from msm_jax.study.graph import make_study

FILES = {"pairs": "a.jsonl", "spec": "a.jsonl", "documents": ("a=a.jsonl",)}


def identity(kind, **settings):
    """(of the samples, of the verdicts), for files whose content is their path."""
    own = {key: value for key, value in FILES.items() if key in KINDS[kind].keys}
    tree = {"evals": {"e": {"kind": kind, **own, **settings}}, "dose": {"measure": ""}}
    found = evaluations.settings_of(tree, "e", 0, None, lambda path, where: path)
    return evaluations.samples_identity(found), evaluations.verdicts_identity(found)


def other(key):
    """Another value than the default."""
    if key.item:
        one = next((c for c in key.item.choices if (c,) != key.default), "b.jsonl")
        return (one,)
    if key.choices:
        return next(choice for choice in key.choices if choice != key.default)
    if key.kind is bool:
        return not key.default
    if key.kind in (int, float):
        return (key.default or 0) + (1 if key.kind is int else 0.25)
    return "b.jsonl"


@pytest.mark.parametrize("kind", KINDS)
def test_each_setting_of_an_evaluation_counts_or_is_declared_harmless(kind):
    begun = identity(kind)
    for name, key in KINDS[kind].keys.items():
        if name == "judge_cache":
            with pytest.raises(UserError, match=r"evals\.e\.judge_cache: a study keeps"):
                identity(kind, judge_cache="x")
            continue
        samples, verdicts = identity(kind, **{name: other(key)})
        if name == "judge_checkpoint":  # its weights count, which the graph reads
            assert (samples, verdicts) == begun
        elif key.harmless:
            assert (samples, verdicts) == begun, name
        else:
            of_judge = "judge" in name or name == "max_error_share"
            of_judge |= kind == "questions" and name in ("spec", "assistant")
            assert (samples == begun[0]) is of_judge and (verdicts == begun[1]) is not of_judge


def refused(config, says, **changes):
    for path, value in changes.items():
        *groups, name = path.split("__")
        place = config
        for group in groups:
            place = place[group]
        place[name] = value
    with pytest.raises(UserError, match=says):
        make_study(config)


def test_measures_and_settings_that_do_not_exist_are_refused(tmp_path, make_tiny, load_config):
    path = make_tiny(tmp_path)
    tiny = lambda: load_config(path)
    refused(tiny(), r"evals\.facts\.measure='score'.*accuracy", evals__facts__measure="score")
    refused(tiny(), r"contrasts\.gap\.measure='harm': .*logprob", contrasts__gap__measure="harm")
    refused(tiny(), r"evals\.facts: samples has no meaning", evals__facts__samples=3)
    refused(tiny(), r"stages\.x\.own.*'green'.*red, blue", absorption__stages__x__own="green")
    refused(tiny(), r"contrasts\.gap: arm 'y' is not asked 'which'", evals__which__arms=("x",))
    refused(tiny(), "of kind quiz; it must be of kind loss", absorption__eval="facts")
    refused(tiny(), "no loss before it", arms__x=("x",), arms__y=("base", "y"))
    refused(tiny(), r"config\.retention: 'mmlu'", retention=("mmlu",))
    refused(tiny(), r"config\.dose\.eval: 'mmlu'", dose__eval="mmlu")
    refused(tiny(), r"config\.dose\.eval: is empty", dose__steps=(4,))
    refused(tiny(), r"config\.contrasts\.gap\.plus: 'z' is not one", contrasts__gap__plus=("z",))
    config = tiny()
    del config.evals.which["pairs"]
    refused(config, r"evals\.which\.pairs: must be given")


def test_absorption_and_retention_are_asked_of_what_they_compare_with(
    tmp_path, make_tiny, load_config
):
    config = load_config(make_tiny(tmp_path))
    config.evals.held.arms = config.evals.facts.arms = ("x",)
    asked = evaluations.asked_of(make_study(config).config)
    assert set(asked["base",]) == {"held", "facts"}
    assert set(asked["base", "y"]) == {"which", "said", "held"}


# ------------------------------------------------------------------ absorption


def loss(value):
    return {
        "value": value, "n": 9, "ci_low": None, "ci_high": None, "method": "", "invalid": 0,
        "step": None, "low": 0.0, "high": None,
    }  # fmt: skip


def rows(*seeds):
    """Each seed: own and control loss before, and after."""
    found = []
    for seed, (before, after) in enumerate(seeds):
        for name, (own, control) in ((("b",), before), (("b", "x"), after)):
            measures = {"a": loss(own), "c": loss(control)}
            evals = {"held": {"kind": "loss", "measures": measures}}
            found.append({"name": name, "seed": seed, "evals": evals})
    return found


CONFIG = {
    "arms": {"b": ["b"], "x": ["b", "x"], "x_aft": ["b", "x", "aft"]},
    "evals": {"held": {"kind": "loss", "documents": ["a=a.jsonl", "c=c.jsonl"]}},
    "absorption": {
        "eval": "held",
        "at_least": 0.15,
        "stages": {"x": {"own": "a", "control": "c", "quiz": "", "label": "MSM(A)"}},
    },
}


def test_what_is_not_absorbed_is_no_evidence_and_says_so():
    learned = rows(((2.6, 3.0), (2.39, 2.98)), ((2.6, 3.0), (2.4, 2.99)))
    (found,) = absorption.absorbed(CONFIG, learned)
    assert found["passed"] and found["more_than_control"]["difference"] == pytest.approx(0.19)
    assert found["sentence"].startswith(
        "MSM(A): held-out loss on its own documents fell by 0.205 nats per token ["
    )
    assert "(8 %), control text fell by 0.015 [" in found["sentence"]
    assert found["sentence"].endswith(": absorbed")
    weak = rows(((2.6, 3.0), (2.39, 2.98)), ((2.6, 3.0), (2.5, 3.02)))
    (found,) = absorption.absorbed(CONFIG, weak)
    assert (found["passed"], found["failed_seeds"], found["arms"]) == (False, [1], ["x", "x_aft"])
    assert found["sentence"].endswith(
        "not absorbed in seed 1 (the difference must be at least 0.15): do not read the behaviour "
        "of x, x_aft as evidence"
    )
    diverged = rows(*[((2.6, 3.0), (2.39, 2.98))] * 2, ((2.6, 3.0), (None, None)))
    (found,) = absorption.absorbed(CONFIG, diverged)
    assert found["passed"] is False and found["failed_seeds"] == [2]
    assert "not absorbed in seed 2" in found["sentence"]
    (found,) = absorption.absorbed(CONFIG, [])
    assert found["passed"] is None and "nothing shows that it was absorbed" in found["sentence"]
    json.dumps(found, allow_nan=False)
    both = {**CONFIG, "arms": {**CONFIG["arms"], "reversed": ["b", "aft", "x"]}}
    labels = [entry["label"] for entry in absorption.absorbed(both, [])]
    assert labels == ["MSM(A)", "MSM(A) after b > aft"]
