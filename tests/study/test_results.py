"""Intervals over seeds in results.json, the table, the report and the figures."""

import json
import re
import statistics

import pytest

from msm_jax.study import curve_plots, curves, plots, report, tables
from msm_jax.study import numbers as found

PAIRS = 20


def rows(**rates):
    """Arms as results.json has them; arm=(rate of seed 0, of seed 1, ...), None for no rate."""
    return [
        {"name": arm, "seed": seed, "evals": {"e": {"measures": {"logprob": measure(rate)}}}}
        for arm, each in rates.items()
        for seed, rate in enumerate(each)
    ]


def measure(value, step=1 / PAIRS, low=0.0, high=1.0):
    """As an evaluation has it; its own interval is one that nobody could take for another."""
    known = value is not None
    bounds = (
        {"ci_low": 0.01, "ci_high": 0.99, "method": "own"}
        if known
        else dict.fromkeys(("ci_low", "ci_high", "method"))
    )
    return {
        "value": value, "n": PAIRS if known else 0, **bounds, "invalid": 0,
        "step": step if known else None, "low": low, "high": high,
    }  # fmt: skip


def mean_of(rows, arm):
    return found.over_seeds(found.by_seed(rows, arm, "e", "logprob"))


def contrast(rows, plus=("x",), minus=("y",)):
    side = lambda arms: [found.by_seed(rows, arm, "e", "logprob") for arm in arms]
    return found.difference(side(plus), side(minus))


def test_one_seed_has_no_interval_and_every_text_says_so():
    some = rows(x=[0.8], y=[0.5])
    mean, difference = mean_of(some, "x"), contrast(some)
    for numbers in (mean, difference):
        assert numbers["ci_low"] is None and numbers["method"] == "no interval: one seed"
    assert found.interval_text(mean) == "0.80 [0.01, 0.99] (one seed, n=20)"  # of the evaluation
    assert mean.pop("over_items")["method"] == "own"
    assert found.interval_text(mean) == "0.80 (no interval: one seed)"
    assert found.verdict(difference, 1) == "open: no interval: one seed"
    entry = {"name": "gap", "label": "x - y", "expected": 1, **difference}
    entry |= {"eval": "e", "measure": "logprob"}
    said = report.sentence({"config": {"figure": {"headline": "gap"}}, "contrasts": [entry]})
    assert said == "x - y: +0.30 (no interval: one seed). This shows no effect yet."
    assert "no interval" in svg_texts(plots.contrasts({"contrasts": [entry], "targets": []}))


def svg_texts(figure):
    return [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]


@pytest.mark.parametrize("rates", [[1.0] * 2, [0.0] * 4, [0.5] * 3])
def test_seeds_that_agree_have_intervals_within_range(rates):
    some = rows(x=rates, y=rates)
    mean, difference = mean_of(some, "x"), contrast(some)
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


def test_the_last_line_says_whose_interval_excludes_0():
    some = rows(a=[1.0, 0.9, 1.0], b=[0.0, 0.2, 0.1], c=[0.9, 1.0, 0.9])
    entries = [
        {"name": name, "eval": "e", **contrast(some, ("a",), (minus,))}
        for name, minus in (("gap", "b"), ("none", "c"), ("unnamed", "b"))
    ]
    assert entries[0]["sd"] == pytest.approx(statistics.stdev([1.0, 0.7, 0.9]))
    config = {"figure": {"summary": ("gap", "none")}, "evals": {"e": {}}}
    line = tables.last_line({"config": config, "contrasts": entries}, "r.html")
    assert re.fullmatch(
        r"report:  r\.html; gap \+0\.87 \[\+0\.\d\d, \+1\.00\], SD 0\.15, excludes 0; "
        r"none \+0\.03 \[-0\.\d\d, \+0\.\d\d\], SD 0\.12, the interval holds 0",
        line,
    ), line


def test_a_seed_without_a_rate_is_left_out_by_number():
    some = rows(x=[0.8, None, 0.9, 0.7], y=[0.5, 0.4, None, 0.4])
    mean, difference = mean_of(some, "x"), contrast(some)
    assert (mean["n"], difference["n_pairs"]) == (3, 2)
    assert mean["method"].endswith("; left out, without a value: seed 1")
    assert difference["method"].endswith("; left out, without a value: seed 1, 2")
    nothing = mean_of(rows(x=[None, None]), "x")
    assert nothing["mean"] is None and nothing["method"].startswith("no interval: no seeds")
    json.dumps([mean, difference, nothing], allow_nan=False)


def test_bars_without_an_interval_say_so():
    groups = {"g": {"label": "g", "arms": ["x", "y"], "eval": ""}}
    settings = {"eval": "e", "groups": groups, "measure": "", "axis": "chose x", "bars": []}
    some = rows(x=[0.8], y=[0.5])
    means = [{"arm": arm, "eval": "e", "measure": "logprob", **mean_of(some, arm)} for arm in "xy"]
    config = {"figure": settings, "evals": {"e": {"pairs": "x"}}, "seeds": [0]}
    for mean in means:
        del mean["over_items"]
    drawn = plots.bars({"config": config, "means": means, "arms": some, "targets": []})
    assert svg_texts(drawn).count("no interval") == 2


def test_what_has_no_bounds_has_students_interval_and_a_base_has_its_own():
    nats = {seed: measure(value, None, 0.0, None) for seed, value in enumerate([2.0, 2.2, 2.4])}
    mean = found.over_seeds(nats)
    assert mean["method"] == "t over seeds" and mean["ci_low"] == pytest.approx(1.703, abs=1e-3)
    fell = found.difference([nats], [{seed: measure(3.0, None, 0.0, None) for seed in nats}])
    assert fell["difference"] == pytest.approx(-0.8) and fell["ci_high"] == pytest.approx(
        -0.303, abs=1e-3
    )
    # The same weights with three seeds are one model: three equal values are no three runs.
    base = found.over_seeds({seed: measure(0.5) for seed in range(3)}, one_model=True)
    assert (base["n"], base["ci_low"]) == (PAIRS, 0.01) and base["method"].startswith("one model")


def test_a_curve_has_a_line_for_each_arm_and_other_value_and_says_what_it_lacks():
    arms = {"x": 1250, "x take=2500": 2500, "x take=80000": 80_000}
    some = rows(**{arm: [0.8, 0.6] for arm in arms}, y=[0.5, 0.4])
    made = {"keys": {"take": ["config.stages.x.take"], "t": ["config.evals.e.t"]}}
    made["arms"] = {arm: {"of": "x", "values": {"take": n}} for arm, n in arms.items()}
    made["evals"] = {n: {"of": "e", "values": {"t": t}} for n, t in (("e", 0.0), ("e t=1", 1.0))}
    config = {
        "arms": {arm: [arm] for arm in [*arms, "y"]},
        "sweep": {"made": made},
        "seeds": [0, 1],
    }
    config["evals"] = {"e": {"pairs": "items"}, "e t=1": {"pairs": "items"}}
    nothing = found.over_seeds({})
    means = [
        {"arm": arm, "eval": eval, "measure": "logprob", **numbers}
        for arm in config["arms"]
        for eval, numbers in (("e", mean_of(some, arm)), ("e t=1", nothing))
    ]
    by_take, by_t = curves.of_sweep(config, means)
    assert {point["line"] for point in by_take["points"]} == {"x t=0.0", "x t=1.0"}
    assert {p["line"] for p in by_t["points"]} == {*(f"x take={n}" for n in arms.values()), "y"}
    results = {"config": config, "arms": some, "targets": []}
    axes = curve_plots.draw(results, by_take, "e").axes[0]
    assert axes.get_xscale() == "log" and list(axes.get_xticks()) == [*arms.values()]
    assert 900 < axes.get_xlim()[0] < 1250 and axes.get_ylim() == (0, 1.02)
    intervals = [line for line in axes.lines if line.get_linewidth() == 1]
    assert [tuple(line.get_ydata()) for line in intervals] == [
        (mean["ci_low"], mean["ci_high"]) for mean in means[:6:2]
    ]
    assert curve_plots.draw(results, by_t, "e").axes[0].get_xscale() == "linear"
    head, *lines = curve_plots.table(config, by_take, "e")
    assert head == ["arm", "take=1250", "take=2500", "take=80000"]
    assert lines[1] == ["x t=1.0", *(("no valid answer", f"#e1a{arm}") for arm in range(3))]
