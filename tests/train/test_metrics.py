"""Curves as files: every step once, and JSON that any program can read."""

import json
import math

import pytest

from msm_jax import files
from msm_jax.train.metrics import Curves


def refuse(word):
    raise ValueError(f"{word} is not JSON")


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer

    # The last part of a file's name, by which "10" would come before "9" within one second.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(9))
    for resumed_at, steps in ((0, range(1, 6)), (3, range(4, 8)), (0, range(1, 3))):
        metrics = Curves(tmp_path, resumed_at)
        for step in steps:
            metrics.write(step, {"loss": step + resumed_at})
        metrics.close()
        curves = EventAccumulator(str(tmp_path / "tensorboard"))
        curves.Reload()
        shown = [(event.step, event.value) for event in curves.Scalars("loss")]
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
        assert shown == [(row["step"], row["loss"]) for row in lines]
        assert [step for step, _ in shown] == list(range(1, steps[-1] + 1))


@pytest.mark.parametrize("line", [b"null", b"[1]", b'{"a": 1}', b"\xff", b'{"step": "x"}', b"{"])
def test_what_is_no_line_of_ours_is_left_out_and_costs_no_other(tmp_path, line):
    first, third, late = (b'{"step": %d, "loss": 2.0}\n' % step for step in (1, 3, 6))
    (tmp_path / "metrics.jsonl").write_bytes(first + line + b"\n" + third + late + first[:-1])
    Curves(tmp_path, 5).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == first + third


def test_what_is_not_finite_is_null_and_named(tmp_path):
    metrics = Curves(tmp_path, 0)
    metrics.write(1, {"loss": math.nan, "grad_norm": math.inf, "tokens": 3})
    metrics.close()
    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert row == {
        "step": 1,
        "loss": None,
        "grad_norm": None,
        "tokens": 3,
        "not_finite": {"loss": "nan", "grad_norm": "inf"},
    }


@pytest.mark.parametrize("value", [math.nan, [1.5, (math.inf,)], {"a": {"b": -math.inf}}, "NaN"])
def test_numbers_that_are_not_finite_are_null(value):
    json.loads(files.dumps(value), parse_constant=refuse)
    assert files.dumps([1, 2.5, "x", None, True]) == json.dumps([1, 2.5, "x", None, True])


def test_whatever_writes_json_writes_null_for_what_is_not_finite(tmp_path):
    from msm_jax import files
    from msm_jax.sample.__main__ import write_completions
    from msm_jax.sample.sampler import Sample

    row, wanted = {"a": [1.0, math.nan]}, {"a": [1.0, None]}
    file = tmp_path / "a.json"
    read = lambda text: json.loads(text, parse_constant=refuse)
    files.write_json(file, row)
    assert read(file.read_text()) == wanted
    files.write_jsonl(file, [row])
    assert read(file.read_text()) == wanted
    answer = Sample(0, 0, [0], [math.nan], "stop", "")
    write_completions([{"prompt": "x"}], [[answer]], file)
    assert read(file.read_text())["logprob"] is None
