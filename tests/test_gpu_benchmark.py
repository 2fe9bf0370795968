"""`benchmarks/gpu.py`, which has to work the first time it meets a card."""

import importlib.util
import json
import math

import pytest


@pytest.fixture
def gpu(root):
    spec = importlib.util.spec_from_file_location("gpu", root / "benchmarks" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_part_says_what_it_checked(gpu, capsys):
    gpu.packing(tiny=True)
    gpu.check("no number", math.nan, 1.0)
    gpu.figure("speed", ms=3.0)
    found = gpu.said(capsys.readouterr().out + '{"check": "half a li')
    assert [each["ok"] for each in found["checks"]] == [True, True, True, False]
    assert found["figures"] == [{"name": "speed", "ms": 3.0}]


def test_a_part_that_takes_too_long_costs_only_itself(gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(gpu.SECONDS, "sampler", 0.01)
    monkeypatch.setattr(gpu, "result", lambda name, tiny, limit, result=gpu.result: (
        result(name, tiny, limit) if name == "sampler"
        else {"checks": [], "figures": [], "error": "", "seconds": 1.0}
    ))  # fmt: skip
    assert not gpu.measure(["sampler", "packing"], str(tmp_path / "gpu.json"), tiny=True)
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert parts["sampler"]["error"] == "not finished after 0 s" and not parts["packing"]["error"]
    assert "sampler: not finished" in capsys.readouterr().out
