"""Intervals over seeds in results.json, the table, the report and the figures."""

import json

import pytest

from msm_jax.study import plots, report
from msm_jax.study import results as found

PAIRS = 20


def rows(**rates):
    """Arms as results.json has them; arm=(rate of seed 0, of seed 1, ...), None for no rate."""
    numbers = lambda rate: {"rate": rate, "n_pairs": PAIRS if rate is not None else 0}
    return [
        {
            "name": arm,
            "seed": seed,
            "evals": {"e": {**numbers(rate), "scorers": {"logprob": numbers(rate)}}},
        }
        for arm, each in rates.items()
        for seed, rate in enumerate(each)
    ]


def contrast(rows, plus=("x",), minus=("y",)):
    return found.difference({"plus": plus, "minus": minus, "eval": "e"}, rows, "logprob")


def test_one_seed_has_no_interval_and_every_text_says_so():
    some = rows(x=[0.8], y=[0.5])
    mean, difference = found.over_seeds(some, "x", "e"), contrast(some)
    for numbers in (mean, difference):
        assert numbers["ci_low"] is None and numbers["method"] == "no interval: one seed"
    assert found.interval_text(mean) == "0.80 (no interval: one seed)"
    assert found.verdict(difference, 1) == "open: no interval: one seed"
    entry = {"name": "gap", "label": "x - y", "expected": 1, **difference}
    said = report.sentence({"config": {"figure": {"headline": "gap"}}, "contrasts": [entry]})
    assert said == "x - y: +0.30 (no interval: one seed). This shows no effect yet."
    assert "no interval" in svg_texts(plots.contrasts({"contrasts": [entry]}))


def svg_texts(figure):
    return [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]


@pytest.mark.parametrize("rates", [[1.0] * 2, [0.0] * 4, [0.5] * 3])
def test_seeds_that_agree_have_intervals_within_range(rates):
    some = rows(x=rates, y=rates)
    mean, difference = found.over_seeds(some, "x", "e"), contrast(some)
    assert 0 <= mean["ci_low"] <= rates[0] <= mean["ci_high"] <= 1
    assert mean["ci_high"] - mean["ci_low"] > 1 / PAIRS
    assert -1 <= difference["ci_low"] < 0 < difference["ci_high"] <= 1
    assert found.verdict(difference, 1) == "open: the interval holds 0"


def test_a_difference_of_differences_lies_within_two():
    some = rows(a=[1.0, 0.9], b=[0.0, 0.2], c=[1.0, 0.8], d=[0.1, 0.0])
    widening = contrast(some, ("a", "c"), ("b", "d"))
    assert widening["difference"] == pytest.approx(1.7) and widening["ci_high"] == 2
    single = contrast(some, ("a",), ("b",))
    assert single["ci_high"] == 1


def test_a_seed_without_a_rate_is_left_out_by_number():
    some = rows(x=[0.8, None, 0.9, 0.7], y=[0.5, 0.4, None, 0.4])
    mean, difference = found.over_seeds(some, "x", "e"), contrast(some)
    assert (mean["n"], difference["n_pairs"]) == (3, 2)
    assert mean["method"].endswith("; left out, without a rate: seed 1")
    assert difference["method"].endswith("; left out, without a rate: seed 1, 2")
    nothing = found.over_seeds(rows(x=[None, None]), "x", "e")
    assert nothing["mean"] is None and nothing["method"].startswith("no interval: no seeds")
    json.dumps([mean, difference, nothing], allow_nan=False)


def test_bars_without_an_interval_say_so():
    groups = {"g": {"label": "g", "before": "x", "after": "y"}}
    settings = {"eval": "e", "groups": groups, "measure": "chose x"}
    some = rows(x=[0.8], y=[0.5])
    means = [
        {"arm": arm, "eval": "e", "scorer": "logprob", **found.over_seeds(some, arm, "e")}
        for arm in "xy"
    ]
    config = {"figure": settings, "evals": {"e": {"scorers": ["logprob"]}}}
    drawn = plots.bars({"config": config, "means": means, "arms": some})
    assert svg_texts(drawn).count("no interval") == 2
