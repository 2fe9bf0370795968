"""The numbers of a summary.json that can be compared between checkpoints, called measures.

One function for each kind of evaluation returns them by name, the most important one first. All
have the form that `_measure` describes.
"""

from collections.abc import Mapping
from typing import Any

from msm_jax.evals.agents.summary import CONDUCT
from msm_jax.evals.judges.base import FAILURES
from msm_jax.evals.statistics import no_interval

Measure = dict[str, Any]


def preferences(summary: Mapping) -> dict[str, Measure]:
    """Rate of choice A by each scorer; then, by each, the share of pairs with one choice.

    A step is one pair, whose orders and samples may all change together. Last, of log-probabilities
    the mean probability of A at temperature 1, and the mean log odds of A over B, in nats.
    """
    scorers = summary["scorers"]
    found = {name: _rate(each, each["invalid"], each["n_pairs"]) for name, each in scorers.items()}
    for name, each in scorers.items():
        found[f"{name}_consistency"] = _rate(each["consistent"], each["invalid"])
    if numbers := scorers.get("logprob"):
        invalid, chance = numbers["invalid"], numbers["probability"]
        found["probability"] = _measure(chance, "probability", invalid, 0, 0.0, 1.0)
        reason = "of log odds there is one over seeds only"
        odds = no_interval(numbers["mean_margin"], numbers["n"], reason).as_dict()
        found["log_odds"] = _measure(odds, "estimate", invalid, 0)
    return found


def agents(summary: Mapping) -> dict[str, Measure]:
    """Means over exactly these conditions; "harm" is the judge's verdict, the paper's measure."""
    found = {}
    for name, measure in AGENTS.items():
        numbers = summary["measures"][measure]
        counts = [condition["n"] for condition in numbers["conditions"].values()]
        one_answer_each = len(counts) * min(counts, default=0)
        found[name] = _rate(numbers, numbers["missing"], one_answer_each)
    return found


# Measure -> its name in summary.json.
AGENTS = {"harm": "verdict", **{name: name for name in (*CONDUCT, "executed", "harmful")}}


def questions(summary: Mapping) -> dict[str, Measure]:
    """The judge's mean score from 1 to 10; a step is one point of one answer."""
    invalid = sum(summary["states"][state] for state in (*FAILURES, "empty"))
    return {"score": _measure(summary, "score", invalid, summary["n"], 1.0, 10.0)}


def quiz(summary: Mapping) -> dict[str, Measure]:
    """The share of questions whose right option has the highest score; see evals/quiz.py."""
    return {"accuracy": _rate(summary["accuracy"], summary["invalid"])}


def losses(summary: Mapping) -> dict[str, Measure]:
    """Nats per token of each source, under its name; n counts documents."""
    return {
        name: _measure(numbers, "nats_per_token", numbers["invalid"], 0, 0.0)
        for name, numbers in summary["sources"].items()
    }


def _rate(numbers: Mapping, invalid: int, items: int | None = None) -> Measure:
    items = numbers["n"] if items is None else items
    return _measure(numbers, "rate", invalid, items, 0.0, 1.0)


def _measure(
    numbers: Mapping,
    name: str,
    invalid: int,
    items: int,
    low: float | None = None,
    high: float | None = None,
) -> Measure:
    """One measure; the arguments after its name are its "invalid", "low" and "high".

    Returns:
      {"value": None where there is none, and "method" says why; "n", "ci_low", "ci_high" and
      "method" as of `statistics.Interval`; "invalid": how many answers are left out; "step": by how
      much one of `items` can change the value, None without a value or if it is continuous; "low",
      "high": the range of the value, None if it has no bound}.
    """
    value, method = numbers[name], numbers["method"]
    if reason := numbers.get("withheld"):
        method = f"{method}: {reason}"
    return {
        "value": value,
        **{key: numbers[key] for key in ("n", "ci_low", "ci_high")},
        "method": method,
        "invalid": invalid,
        "step": 1 / items if items and value is not None else None,
        "low": low,
        "high": high,
    }
