"""Figures and tables of the paper's studies, of made-up values: legible, complete, as files."""

import csv
import functools
import itertools
import random
import runpy

import pytest

from msm_jax.errors import UserError
from msm_jax.study import caveats, evaluations, graph, plots, results, tables, targets

FIGURES = {"fig2": "", "fig4": "qwen2.5-32b", "fig7": "qwen2.5-14b", "fig12": "qwen3-32b"}
PIXELS = 96  # of a page, in an inch


@pytest.fixture(scope="module")
def config_of(root):
    """A function of a figure: its config, without the base that nobody has here."""

    def load(name):
        path = str(root / "configs" / "paper" / f"{name}.py")
        config = runpy.run_path(path)["get_config"](FIGURES[name]).unlock()
        config.base.update({"path": "", "adapter": ""})
        config.stages.base = {}
        for arm, path in config.arms.items():
            config.arms[arm] = path or ("base",)
        config.absorption.stages = {}
        return config

    return load


@pytest.fixture(scope="module")
def found_of(config_of):
    """A function of a figure: what results.json would have, with values by chance."""

    def make(name):
        config = graph.checked(config_of(name))
        arms, rng = [], random.Random(0)
        for arm, seed in itertools.product(config["arms"], config["seeds"]):
            mine = [e for e in config["evals"] if arm in evaluations.arms_of(config, e)]
            row = {"name": arm, "seed": seed, "evals": {e: entry(config, e, rng) for e in mine}}
            arms.append(row)
        means = results._means(config, arms)
        contrasts = [
            {"name": each, **results._contrast(config, one, arms)}
            for each, one in config["contrasts"].items()
        ]
        compared = targets.compared(config, means, contrasts)
        found = {"config": config, "arms": arms, "means": means, "contrasts": contrasts}
        return {**found, "targets": compared}

    return functools.cache(make)


def entry(config, eval, rng):
    """An evaluation's measure that is compared; its interval is of 40 answers."""
    measure = evaluations.measure_of(config, eval)
    low, high = (1.0, 10.0) if measure == "score" else (0.0, 1.0)
    value = low + (high - low) * rng.random()
    bounds = {"ci_low": max(low, value - 0.1), "ci_high": min(high, value + 0.1)}
    numbers = {"value": value, "n": 40, "invalid": 1, "step": 1 / 40, "low": low, "high": high}
    return {"measure": measure, "measures": {measure: {**numbers, **bounds, "method": "own"}}}


def texts_of(axes):
    """The labels of ticks that are in view, and all other texts of the axes."""
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        yield from (tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)
        yield axis.label
    yield from axes.texts


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_legible_as_the_page_shows_them(name, found_of):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    found = found_of(name)
    drawn = [plots.bars(found)]
    if name == "fig4":
        drawn += [plots.contrasts(found), plots.arms(found, "agents")]
    for figure in drawn:
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        assert figure.get_figwidth() * PIXELS <= 980  # the page's width: it is not made smaller
        texts = [text for axes in figure.axes for text in texts_of(axes) if text.get_text()]
        labels = [text.get_window_extent(renderer) for text in texts]
        texts += [text for legend in figure.legends for text in legend.get_texts()]
        assert min(text.get_fontsize() for text in texts) >= 8
        inside = figure.bbox.padded(1)
        for text in texts:
            corners = text.get_window_extent(renderer).corners()
            assert all(inside.contains(*corner) for corner in corners), text
        for one, other in itertools.combinations(range(len(labels)), 2):
            assert not labels[one].overlaps(labels[other]), (texts[one], texts[other])


def test_a_figure_has_the_papers_bars_and_published_numbers_as_marks(found_of):
    found = found_of("fig4")
    agents, questions = plots.bars(found).axes
    assert len(agents.patches) == len(questions.patches) == 6
    assert agents.get_ylim() == (0, 1.02) and questions.get_ylim() == (1, 10.18)
    marked = {round(float(y), 3) for each in agents.collections for _, y in each.get_offsets()}
    assert {0.68, 0.53, 0.70, 0.48, 0.22, 0.05, 0.674, 0.033} <= marked
    legend = [text.get_text() for text in plots.bars(found).legends[0].get_texts()]
    assert {"paper (published)", "Arcadia (published)", "MSM + AFT with reasoning"} <= {*legend}


def test_a_published_difference_is_stated_or_that_of_the_published_arms(found_of):
    rows = [row for row in found_of("fig4")["targets"] if row["label"] == "paper"]
    by_name = {row["name"]: row for row in rows if row["eval"] == "agents"}
    gain = by_name["agents: msm_philosophy_aft_reasoning - aft_reasoning"]
    assert gain["target"] == pytest.approx(-0.43)
    assert gain["difference"] == pytest.approx(gain["ours"] + 0.43)
    assert "agents: msm_philosophy_aft - neutral_aft" not in by_name


def test_targets_of_what_there_is_not_are_refused(config_of):
    for path, value, says in (
        ("arms", {"aft_cot": 0.1}, r"arms: 'aft_cot' is not one of config\.arms"),
        ("contrasts", {"gain": 0.1}, r"contrasts: 'gain' is not one of config\.contrasts"),
        ("contrasts", {"questions: msm_philosophy_aft - aft": 0.1}, "compares 'questions'"),
        ("eval", "harm", r"eval: 'harm' is not one of config\.evals"),
        ("measure", "score", r"measure='score'.*measures: harm"),
        ("source", "", "say in label and source"),
    ):
        config = config_of("fig4")
        config.targets["paper: agents"][path] = value
        with pytest.raises(UserError, match=f"targets.paper: agents.*{says}"):
            graph.checked(config)


def test_tables_have_every_digit_as_csv_and_are_escaped_as_latex(found_of, tmp_path):
    found = found_of("fig2")
    records = tables.figure_records(found)
    records[0]["bar"] = "50 % of a_b & {c}\\"
    made = tables.write(tmp_path, {"figure": records, "dose": []}, found["config"], "x\ny")
    assert made == ["tables/figure.csv", "tables/figure.tex"]
    with (tmp_path / "tables" / "figure.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    mean = results.mean_of(found, "mix", "affordability")
    assert [float(rows[0][key]) for key in ("mean", "ci_low", "ci_high")] == [
        mean[key] for key in ("mean", "ci_low", "ci_high")
    ]
    assert float(rows[0]["paper"]) == 0.23
    assert float(rows[0]["ours - paper"]) == mean["mean"] - 0.23
    lines = (tmp_path / "tables" / "figure.tex").read_text().splitlines()
    assert lines[:3] == ["% x y", rf"\begin{{tabular}}{{{'l' * 15}}}", r"\toprule"]
    assert r"50 \% of a\_b \& \{c\}\textbackslash{}" in lines[5]
    tables.write(tmp_path, {"figure": []}, found["config"], "")
    assert not [*(tmp_path / "tables").iterdir()]


# ------------------------------------------------------------------ warnings


def test_each_warning_begins_at_its_threshold(found_of):
    stage = lambda steps: {"kind": "train", "path": ["aft"], "steps": steps}
    assert "aft 99" in caveats.few_steps([stage(99)]) and not caveats.few_steps([stage(100)])
    contrast = lambda seeds: {"contrasts": [{"label": "x - y", "seeds": [{}] * seeds}]}
    assert "x - y" in caveats.few_seeds(contrast(1)) and not caveats.few_seeds(contrast(2))

    def answers(invalid, undecided=0.0):
        measures = {"harm": {"invalid": invalid, "n": 100 - invalid}}
        measures["undecided"] = {"value": undecided}
        entry = {"measure": "harm", "measures": measures}
        return [{"name": "x", "seed": 3, "evals": {"e": entry}}]

    assert "e of x, seed 3: 6%" in caveats.invalid(answers(6)) and not caveats.invalid(answers(5))
    assert "6%" in caveats.invalid(answers(0, 0.06))

    found = found_of("fig4")
    assert not caveats.saturated(found["config"], found["arms"], found["means"])
    means = [{**mean, "mean": 0.05} for mean in found["means"] if mean["eval"] == "agents"]
    saturated = lambda: caveats.saturated(found["config"], found["arms"], means)
    assert saturated().endswith("agents: harm (all near 0)")
    means[3]["mean"] = 0.06
    assert not saturated()
    entry = {"label": "MSM(A)", "passed": True}
    assert not caveats.not_absorbed([entry])
    assert "MSM(A)" in caveats.not_absorbed([{**entry, "passed": None}])


def test_compared_arms_with_other_numbers_of_tokens_are_named(tmp_path, make_tiny, load_config):
    study = graph.make_study(load_config(make_tiny(tmp_path)))
    ids = {arm: study.arms[arm, 0] for arm in "xy"}
    stages = lambda **tokens: [
        {"kind": "train", "id": each, "tokens": tokens[study.nodes[each].name]}
        for each in {*ids["x"], *ids["y"]}
    ]
    assert not caveats.unmatched_tokens(study, stages(base=900, x=100, y=50))
    found = caveats.unmatched_tokens(study, stages(base=900, x=100, y=49))
    assert found.endswith("x - y (1,000 and 949)")
