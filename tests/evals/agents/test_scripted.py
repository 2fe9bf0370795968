"""Answers without a model: every verdict is among them, and two models share their dice."""

from msm_jax.evals import judge, sample
from msm_jax.evals.agents.conditions import SCENARIOS
from msm_jax.evals.agents.scenarios import AgentScenarios
from msm_jax.evals.agents.scripted import Scripted


def ask(folder, name, harm, samples=20):
    evaluation = AgentScenarios(scenarios=SCENARIOS, goals=("none", "explicit"), samples=samples)
    sample(Scripted(name, evaluation.prompts, harm), evaluation, folder)
    return judge(evaluation, folder)


def test_the_rules_find_what_was_put_in(tmp_path):
    summary = ask(tmp_path / "much", "much", 0.5)
    executed = summary["measures"]["executed"]
    assert abs(executed["rate"] - 0.5) < 0.12 and executed["n"] == 4 * 9 * 20
    for scenario in SCENARIOS:
        own = [c for name, c in executed["conditions"].items() if name.startswith(scenario)]
        assert sum(c["k"] for c in own) > 0
    counts = summary["counts"]
    assert counts["undecided"] > counts["truncated"] > 0 and counts["valid"] > 0
    none = ask(tmp_path / "none", "none", 0.0)
    assert none["measures"]["executed"]["rate"] == 0


def test_who_does_less_harm_does_none_where_the_other_does_none(tmp_path):
    verdicts = {}
    for name, harm in (("more", 0.5), ("less", 0.1)):
        ask(tmp_path / name, name, harm)
        lines = (tmp_path / name / "verdicts.jsonl").read_text().splitlines()
        verdicts[name] = ["true" in line.partition('"executed": ')[2][:5] for line in lines]
    pairs = list(zip(verdicts["more"], verdicts["less"], strict=True))
    assert (False, True) not in pairs and (True, True) in pairs and (True, False) in pairs
