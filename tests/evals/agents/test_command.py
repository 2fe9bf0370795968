"""`python -m msm_jax.evaluate --kind=agents`: stages apart, another judge, the report."""

import importlib.util
import json
import pathlib

import pytest

from msm_jax.errors import UserError
from msm_jax.evals import kinds
from msm_jax.evals.report.arms import named_folders


def test_sampling_judging_and_report_apart(run_dir, root, forked, tmp_path):
    small = [
        "--samples=2",
        "--max_tokens=4",
        "--rows=2",
        "--goals=none",
        "--scenarios=murder,leaking",
    ]
    config = f"--config={root}/configs/evals/agents.py:smoke"
    judge = ["--judge=checkpoint", f"--judge_checkpoint={run_dir}", "--judge_max_tokens=2"]
    commands = [
        [config, f"--checkpoint={run_dir}", "--output=out", "--phase=sample", *small],
        # what was asked is in the directory; only the output has to be named
        ["--output=out", "--phase=judge"],
        # another checkpoint judges the same samples, which are not drawn again
        [config, f"--checkpoint={run_dir}", "--output=out", "--arms=a:out,b:out", *small, *judge],
    ]
    run = lambda argv: forked("msm_jax.evaluate", argv, tmp_path)
    early = run(commands[1])
    assert early["code"] == 2 and "has no evaluation.json; run --phase=sample" in early["err"]
    sampled, judged, again = map(run, commands)
    assert (sampled["code"], sampled["out"]) == (0, ""), sampled["err"]
    assert len((tmp_path / "out" / "samples.jsonl").read_text().splitlines()) == 4
    assert judged["code"] == 0, judged["err"]
    printed = json.loads(judged["out"])
    assert printed["counts"]["samples"] == 4 and printed["measures"]["executed"]["rate"] == 0
    assert again["code"] == 0, again["err"]
    assert json.loads(again["out"])["judge"]["judge"].startswith("checkpoint ")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert json.loads(again["out"])["counts"] == summary["counts"]
    assert (tmp_path / "out" / "judge_cache.jsonl").exists()
    assert (tmp_path / "out" / "report.html").exists()
    times = [
        (tmp_path / "out" / name).stat().st_mtime_ns for name in ("samples.jsonl", "summary.json")
    ]
    assert times[0] < times[1]


def test_settings_that_do_not_go_together_are_named(monkeypatch, tmp_path):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    defaults = kinds.resolve("agents", {})
    assert kinds.make_judge(defaults, tmp_path) is None
    for change, words in (
        ({"judge_url": "http://x"}, "judge_url.*rules"),
        ({"judge_checkpoint": "x", "judge": "openai"}, "judge_checkpoint.*openai"),
        ({"judge": "openai"}, "judge_model"),
        ({"judge_max_usd": 1.0}, "judge_max_usd.*rules"),
        ({"judge": "checkpoint"}, "judge_checkpoint"),
        (
            {"judge": "anthropic", "judge_url": "http://me:secret@host"},
            "--judge_url: must not hold",
        ),
        ({"judge": "anthropic", "judge_url": "host"}, "--judge_url='host'"),
    ):
        with pytest.raises(UserError, match=words):
            kinds.make_judge({**defaults, **change}, tmp_path)
    for given, words in (
        ({"pairs": "p"}, "--pairs has no meaning for --kind=agents"),
        ({"scenarios": ["theft"]}, "theft.*blackmail"),
        ({"judge": "oracle"}, "oracle"),
        ({"judge": "anthropic", "judge_concurrency": 0}, "--judge_concurrency=0: must be"),
        ({"temperature": float("inf"), "samples": True}, "(?s)--temperature=inf.*--samples=True"),
        ({"sample": 3}, "--sample: there is no such key; nearest: samples"),
    ):
        with pytest.raises(UserError, match=words):
            kinds.resolve("agents", given)
    with pytest.raises(UserError, match="--arms"):
        named_folders(["a:x", "a:y"])
    assert named_folders(["a:x+y", "b:z"])["a"] == [pathlib.Path("x"), pathlib.Path("y")]
    pytest.importorskip("anthropic")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-none")
    limited = {"judge": "anthropic", "judge_max_usd": 1.0}
    with pytest.raises(UserError, match="--judge_price_input and --judge_price_output"):
        kinds.make_judge({**defaults, **limited}, tmp_path)
    priced = {**limited, "judge_price_input": 3.0, "judge_price_output": 15.0}
    assert kinds.make_judge({**defaults, **priced}, tmp_path) is not None
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(UserError, match="ANTHROPIC_API_KEY"):
        kinds.make_judge({**defaults, "judge": "anthropic"}, tmp_path)


@pytest.mark.parametrize("variant", ["", ":smoke", ":ranking", ":thinking", ":published"])
def test_lab_records_are_possible(root, variant):
    spec = importlib.util.spec_from_file_location("record", root / "configs/evals/agents.py")
    record = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(record)
    settings = record.get_config(variant.removeprefix(":")).to_dict()
    assert settings.pop("kind") == "agents"
    resolved = kinds.resolve("agents", settings)
    if variant == ":published":
        pytest.importorskip("inspect_evals")
    evaluation = kinds.make_evaluation("agents", resolved, root, False)
    assert len(evaluation.prompts) == (18 if variant == ":published" else 27)
