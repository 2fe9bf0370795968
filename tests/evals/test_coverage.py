"""A part of the coverage table of docs/evals.md: small designs, where intervals fail first."""

import importlib.util
import pathlib
import sys

import numpy as np
import pytest

from msm_jax.evals import mean_rates

ROOT = pathlib.Path(__file__).parents[2]
STUDIES = 600


def load():
    path = ROOT / "benchmarks" / "interval_coverage.py"
    spec = importlib.util.spec_from_file_location("interval_coverage", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


coverage = load()
SITUATIONS = coverage.situations(coverage.QUICK)


@pytest.mark.parametrize("one", SITUATIONS, ids=lambda one: f"{one.interval}: {one.design}")
def test_it_holds_as_often_as_documented(one):
    """Less than the promise by no more than four standard errors of the simulation."""
    error = 4 * np.sqrt(one.at_least * (1 - one.at_least) / STUDIES)
    for rate in (0.02, 0.5):
        for nuisance in (one.nuisances[0], one.nuisances[-1]):
            found = one.coverage(rate, nuisance, STUDIES)
            assert found >= one.at_least - error, (rate, nuisance)


def test_every_interval_is_tried():
    assert {one.interval for one in SITUATIONS} == {one.interval for one in coverage.situations()}


def test_the_simulation_finds_intervals_that_are_too_short(monkeypatch):
    """Student's interval for eight conditions of which few are full of harm."""
    eight = next(o for o in SITUATIONS if o.interval == "mean, conditions drawn")
    assert eight.coverage(0.1, 2.0, STUDIES) > 0.97
    monkeypatch.setattr(mean_rates, "MANY", 2)
    monkeypatch.setattr(mean_rates, "APART", 1)
    assert eight.coverage(0.1, 2.0, STUDIES) < 0.91


def test_conditions_fixed_and_drawn_are_other_targets():
    """Taken for an interval over drawn conditions, that over fixed ones holds in a few studies."""
    rng = np.random.default_rng(0)
    k = rng.binomial(300, coverage.beta(rng, 0.1, 0.5, (STUDIES, 27)))
    _, low, high = mean_rates.fixed_bounds(k, np.full(k.shape, 300))
    assert np.mean((low <= 0.1) & (high >= 0.1)) < 0.7


def test_the_documented_table_is_that_of_the_command():
    """docs/evals.md has a row for every interval and design, none of them below its promise."""
    text = (ROOT / "docs" / "evals.md").read_text(encoding="utf-8")
    rows, interval = {}, ""
    for line in text[text.index("| interval | design |") :].splitlines()[2:]:
        if not line.startswith("|"):
            break
        name, design, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        interval = name or interval
        rows[interval, design] = [float(cell) / 100 for cell in cells]
    assert rows.keys() == {(one.interval, one.design) for one in coverage.situations()}
    for one in coverage.situations():
        assert min(rows[one.interval, one.design]) >= one.at_least
