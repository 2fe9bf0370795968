"""`benchmarks/gpu.py`, which has to work the first time it meets a card."""

import importlib
import json
import math

import pytest


@pytest.fixture
def gpu(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    return importlib.import_module("gpu")


def test_a_part_says_what_it_checked(gpu, capsys):
    gpu.run_part("packing", tiny=True)
    common = importlib.import_module("gpu_common")
    common.check("no number", math.nan, 1.0)
    common.figure("speed", ms=3.0)
    found = gpu.parsed(capsys.readouterr().out + '{"check": "half a li')
    assert [each["ok"] for each in found["checks"]] == [True, True, True, False]
    assert [each["name"] for each in found["figures"]] == ["machine", "speed"]


def test_a_part_that_fails_or_hangs_costs_only_itself(gpu, monkeypatch, tmp_path, capsys):
    part = """import json, signal, sys
name = sys.argv[1].removeprefix("--part=")
print(json.dumps({"figure": name, "ms": 1.0}), flush=True)
if name == "fails":
    raise MemoryError("this card is full")
if name == "hangs":
    signal.pause()
"""
    (tmp_path / "part.py").write_text(part, encoding="utf-8")
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "part.py"))
    monkeypatch.setattr(gpu, "PARTS", {"fails": ("", 20), "hangs": ("", 3), "works": ("", 20)})
    assert not gpu.measure(list(gpu.PARTS), str(tmp_path / "gpu.json"), tiny=True)
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert all(parts[name]["figures"][0] == {"name": name, "ms": 1.0} for name in gpu.PARTS)
    assert "MemoryError: this card is full" in parts["fails"]["error"]
    assert parts["hangs"]["error"] == "not finished after 3 s" and not parts["works"]["error"]
    assert "hangs: not finished" in capsys.readouterr().out


def test_all_parts_together_take_at_most_ten_minutes(gpu):
    assert sum(limit for _, limit in gpu.PARTS.values()) <= 600
