"""Metrics as files: one JSON object a line, and the same curves for TensorBoard."""

import json
import math
import os
import pathlib

from msm_jax import strict_json


class Metrics:
    """Appends to metrics.jsonl and tensorboard/ of a run.

    A run that goes on from step n forgets the lines after n that a killed process left, so that
    the file reads as if nothing had happened; TensorBoard is told to forget them as well. A value
    that is not finite is null there, and named in "not_finite".
    """

    def __init__(self, run_dir: str | os.PathLike, resumed_at: int):
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        run = pathlib.Path(run_dir)
        path = run / "metrics.jsonl"
        kept = _lines_up_to(path, resumed_at)
        aside = path.with_suffix(".partial")
        aside.write_text("".join(kept), encoding="utf-8")
        os.replace(aside, path)
        self._file = path.open("a", encoding="utf-8")
        self._events = EventFileWriter(str(run / "tensorboard"))
        begins = SessionLog(status=SessionLog.START)
        self._events.add_event(Event(step=resumed_at + 1, session_log=begins))

    def write(self, step: int, values: dict[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        row: dict = {"step": step, **values}
        if strange := {name: str(x) for name, x in values.items() if not math.isfinite(x)}:
            row["not_finite"] = strange
        self._file.write(strict_json.dumps(row) + "\n")
        self._file.flush()
        summary = Summary(
            value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        )
        self._events.add_event(Event(step=step, summary=summary))

    def close(self) -> None:
        self._file.close()
        self._events.close()


def _lines_up_to(path: pathlib.Path, step: int) -> list[str]:
    """Whole lines of steps up to `step`; others, as a kill leaves them, are left out."""
    kept: list[str] = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        try:
            if json.loads(line)["step"] <= step and line.endswith(b"\n"):
                kept.append(line.decode())
        except (KeyError, TypeError, ValueError):
            continue
    return kept
