"""What a run reports while it trains: metrics.jsonl, TensorBoard curves, log.txt and a bar."""

import contextlib
import datetime
import functools
import math
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any, TextIO

import jax
import numpy as np

from msm_jax.errors import UserError
from msm_jax.files import jsonl_line, open_own, parse_json, write_bytes
from msm_jax.limits import open_regular
from msm_jax.links import below
from msm_jax.progress import progress_bar
from msm_jax.train import hosts
from msm_jax.train.flops import flops_per_token, peak_flops
from msm_jax.train.optimizer import learning_rate, make_schedule
from msm_jax.train.stage import Stage

LOWER = "lower optimizer.learning_rate or clip_norm, and run again: it resumes from a checkpoint"


class Curves:
    """Appends to metrics.jsonl and tensorboard/ of a run.

    A run that resumes at a step drops the lines after it that a killed process left, so that the
    files read as if nothing had happened. A value that is not finite is null, and named in
    "not_finite".
    """

    def __init__(self, run: str | os.PathLike, resumed_at: int):
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._path, events = below(run, "metrics.jsonl"), below(run, "tensorboard")
        write_bytes(self._path, _lines_up_to(self._path, resumed_at))
        self._file = open_own(self._path, "a", encoding="utf-8")
        # TensorBoard reads files in the order of their names, in which the second comes first.
        while any(events.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
            time.sleep(0.05)
        self._events = EventFileWriter(str(events))
        begins = SessionLog(status=SessionLog.START)
        self._events.add_event(Event(step=resumed_at + 1, session_log=begins))

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line, and one point of each curve."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        row: dict[str, Any] = {"step": step, **values}
        if strange := {name: str(x) for name, x in values.items() if not math.isfinite(x)}:
            row["not_finite"] = strange
        self._file.write(jsonl_line(row))
        self._file.flush()
        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._events.add_event(Event(step=step, summary=Summary(value=points)))

    def sync(self) -> None:
        """Put the lines so far onto the disk, as a run that resumes does not write them again.

        The file is closed, because a bucket that gcsfuse mounts stores it only then.
        """
        self._events.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = open_own(self._path, "a", encoding="utf-8")

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        self._events.close()


def _lines_up_to(path: pathlib.Path, step: int) -> bytes:
    """The complete lines of steps up to `step`; a kill may leave others."""
    kept = []
    with contextlib.suppress(FileNotFoundError), open_regular(path) as file:
        for line in file:
            with contextlib.suppress(KeyError, TypeError, ValueError):
                if parse_json(line)["step"] <= step and line.endswith(b"\n"):
                    kept.append(line)
    return b"".join(kept)


class Metrics:
    """Curves, log.txt, a bar where `out` is a terminal, and where the time goes.

    All processes but the first write and show nothing. `mfu` is left out where the FLOP/s of the
    devices are not known.

    Args:
      out: where the bar, or the lines of log.txt, are shown; None shows nothing.
    """

    def __init__(self, stage: Stage, run: pathlib.Path, resumed_at: int, out: TextIO | None):
        self._config, self._run, self._first = stage.config, run, hosts.is_first()
        self._out = out = out if self._first else None
        self._rate = jax.jit(functools.partial(learning_rate, stage.config.optimizer.schedule))
        self._schedule = make_schedule(stage.config.optimizer, stage.steps)
        length, trainable = stage.config.sequence_length, stage.config.trainable
        self._flops = flops_per_token(stage.model, length, trainable)
        self._peak = peak_flops(stage.mesh.devices.flatten())
        self._curves = Curves(run, resumed_at) if self._first else None
        self._bar = progress_bar(stage.steps, "", "steps", resumed_at, out, hidden=out is None)
        self._profiling = False
        self._begin: float | None = None  # when the first step of this process ended
        self._now, self._waited = 0.0, 0.0
        self._first_tokens, self._tokens = 0, 0

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """The time inside counts as time spent on data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def read(self, step: int, state: Any, values: Any, log: bool = False) -> None:
        """Wait for a step's metrics, and add its tokens to the state's.

        `log` writes them also between two steps that are logged. UserError that ends a run whose
        every step is skipped.
        """
        found = {name: float(value) for name, value in jax.device_get(values).items()}
        tokens, _ = found.pop("tokens"), found.pop("stop", None)
        state.tokens += int(tokens)
        state.loss_tokens += int(found["loss_tokens"])
        state.empty += found["loss_tokens"] == 0
        self._now, self._tokens = time.perf_counter(), state.tokens
        if self._begin is None:
            self._begin, self._first_tokens, self._waited = self._now, state.tokens, 0.0
        if log or step % self._config.log_every == 0:
            self._log(step, state, found)
        if found["skipped_in_a_row"] > self._config.max_skipped:
            raise UserError(
                f"{self._run}: step {step}: loss {found['loss']}, gradient norm "
                f"{found['grad_norm']}: {found['skipped_in_a_row']:.0f} steps in a row were "
                f"skipped, max_skipped={self._config.max_skipped}: not saved; {LOWER}"
            )

    def _log(self, step: int, state: Any, found: dict[str, float]) -> None:
        shown = {name: value for name, value in found.items() if not name.startswith("skipped")}
        if skipped := int(found["skipped"]):
            shown["skipped"] = skipped
        good = max(step - 1 - skipped - state.empty, 0)  # the schedule counts good steps only
        of = jax.device_put((self._schedule, np.int32(good)))
        shown["learning_rate"] = float(jax.device_get(self._rate(*of)))
        shown["tokens"] = state.tokens
        speed = self.speed()["tokens_per_second"]
        if speed:
            shown["tokens_per_second"] = speed
            if self._peak:
                shown["mfu"] = speed * self._flops / self._peak
        if self._curves:
            self._curves.write(step, shown)
        text = f"loss {shown['loss']:.3f}" + (f", {speed:,.0f} tokens/s" if speed else "")
        text += f", mfu {shown['mfu']:.1%}" if "mfu" in shown else ""
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(step - self._bar.n)

    def sync(self) -> None:
        """Put the lines so far onto the disk."""
        if self._curves:
            self._curves.sync()

    def evaluated(self, step: int, values: dict[str, float]) -> None:
        """Write what an evaluation during training measured."""
        if self._curves:
            self._curves.write(step, values)
        names = ", ".join(f"{name.removeprefix('probe/')} {x:.3f}" for name, x in values.items())
        self.say(f"step {step}: {names}")

    def saved(self, step: int | None) -> None:
        """Reports a checkpoint, once it is committed and was opened again."""
        if step is not None:
            self.say(f"step {step}: saved")

    def say(self, text: str) -> None:
        """A line of log.txt. If nobody reads `out` any more, training goes on without it."""
        if self._first:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            with open_own(self._run / "log.txt", "a", encoding="utf-8") as file:
                file.write(f"{now} {text}\n")
        try:
            if self._out is not None:
                self._bar.write(text, file=self._out)
                self._out.flush()
        except (OSError, ValueError):  # a pipe or a terminal that is gone, a closed file
            self._out = None

    def profile(self, step: int) -> None:
        """Opens the profiler's window before step `profile.start`, closes it after its length."""
        start = self._config.profile.start
        stop = start + self._config.profile.steps
        if self._first and start <= step < stop and not self._profiling:
            jax.profiler.start_trace(str(self._run / "tensorboard"))
            self._profiling = True
        elif step >= stop:
            self._end_profile()

    def _end_profile(self) -> None:
        if self._profiling:
            jax.profiler.stop_trace()
            self._profiling = False
            self.say("profile written: tensorboard --logdir shows it")

    def mfu_convention(self) -> str:
        """How `mfu` is counted, in words."""
        peak = f"of {self._peak / 1e12:,.0f} TFLOP/s peak" if self._peak else ""
        return (
            f"{self._flops:.3g} FLOP per token = 6 per trained weight, 4 per frozen one, half of "
            f"causal attention over the row; {peak or 'no peak is known for this device'}"
        )

    def speed(self) -> dict[str, float | None]:
        """Speed since the first step, whose compilation is left out; None before the second."""
        if self._begin is None or self._now <= self._begin:
            return {"tokens_per_second": None, "data_share": None}
        seconds = self._now - self._begin
        return {
            "tokens_per_second": (self._tokens - self._first_tokens) / seconds,
            "data_share": self._waited / seconds,
        }

    def close(self) -> None:
        """End the profile, the bar and the files."""
        self._end_profile()
        self._bar.close()
        if self._curves:
            self._curves.close()
