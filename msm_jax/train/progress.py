"""What a stage tells while it runs: curves, a log, a bar, and where the time goes."""

import datetime
import os
import pathlib
import shutil
import time
from typing import TextIO

import jax

from msm_jax.train.metrics import Metrics


class Progress:
    """metrics.jsonl and tensorboard/ (see `Metrics`), log.txt, and a bar where `out` is a terminal.

    Args:
      run: the run directory; None, as of all processes but the first, writes nothing.
      steps: of the whole stage.
      every: steps between two logged ones.
      schedule: learning rate by step.
      flops: per token; `peak`: FLOP/s of all devices, or None where that is not known. `mfu` is
        what is reached of it, and left out without it.
      resumed_at: the step that this process starts from.
      out: where the bar, or the lines of log.txt, are shown; None shows nothing.
    """

    def __init__(
        self,
        run: str | os.PathLike | None,
        steps: int,
        every: int,
        schedule,
        flops: float,
        peak: float | None,
        resumed_at: int,
        out: TextIO | None,
    ):
        self._steps, self._every, self._schedule = steps, every, schedule
        self._flops, self._peak, self._out = flops, peak, out
        self._metrics = None if run is None else Metrics(run, resumed_at)
        self._run = None if run is None else pathlib.Path(run)
        self._profiling = False
        self._begin: float | None = None  # when the first step ended
        self._now = 0.0  # and the last
        self._waited, self._tokens, self._first = 0.0, 0, 0
        self._counted = 0  # steps since the first
        self._drawn, self._width = 0.0, 0

    def of_data(self, read):
        """What `read` returns; its time counts as time spent on data."""
        start = time.perf_counter()
        batch = read()
        self._waited += time.perf_counter() - start
        return batch

    def step(self, step: int, state, values, force: bool = False) -> dict[str, float]:
        """Waits for the metrics of a step, adds its tokens to the state's, and returns them."""
        values = jax.device_get(values)
        found = {name: float(value) for name, value in values.items() if name != "stop"}
        state.tokens += int(found.pop("tokens"))
        state.loss_tokens += int(found["loss_tokens"])
        state.empty += found["loss_tokens"] == 0
        self._count(state.tokens)
        if step % self._every and not force:
            return found
        shown = {name: value for name, value in found.items() if not name.startswith("skipped")}
        # The schedule counts good steps only.
        skipped = int(found["skipped"])
        if skipped:
            shown["skipped"] = skipped
        good = step - 1 - skipped - state.empty
        shown["learning_rate"] = float(self._schedule(max(good, 0)))
        shown["tokens"] = state.tokens
        if speed := self.summary()["tokens_per_second"]:
            shown["tokens_per_second"] = speed
            if self._peak:
                shown["mfu"] = speed * self._flops / self._peak
        self._write(step, shown)
        self._draw(step, shown)
        return found

    def values(self, step: int, values: dict[str, float]) -> None:
        """What was measured on the side."""
        self._write(step, values)
        names = ", ".join(f"{name.removeprefix('probe/')} {x:.3f}" for name, x in values.items())
        self.say(f"step {step}: {names}")

    def convention(self) -> str:
        """How `mfu` is counted, in words."""
        peak = "no peak known for this device, so none is told"
        if self._peak:
            peak = f"of {self._peak / 1e12:,.0f} TFLOP/s peak"
        return (
            f"{self._flops:.3g} FLOP per token = 6 per trained weight, 4 per frozen one, half of "
            f"causal attention over the row; {peak}"
        )

    def profile(self, step: int, start: int, steps: int) -> None:
        """Opens the profiler's window before step `start`, closes it `steps` later."""
        if not steps or self._run is None:
            return
        if start <= step < start + steps and not self._profiling:
            jax.profiler.start_trace(str(self._run / "tensorboard"))
            self._profiling = True
        elif step >= start + steps:
            self._end_profile()

    def _end_profile(self) -> None:
        if self._profiling:
            jax.profiler.stop_trace()
            self._profiling = False
            self.say("profile written: tensorboard --logdir shows it")

    def _write(self, step: int, values: dict[str, float]) -> None:
        if self._metrics is not None:
            self._metrics.write(step, values)

    def say(self, text: str) -> None:
        """A line of log.txt."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        if self._run is not None:
            with (self._run / "log.txt").open("a", encoding="utf-8") as file:
                file.write(f"{now} {text}\n")
        self._clear()
        self._show(f"{text}\n")

    def summary(self) -> dict:
        """Speed since the first step, whose compilation is left out; None before the second."""
        if self._begin is None or self._now <= self._begin:
            return {"tokens_per_second": None, "data_share": None}
        seconds = self._now - self._begin
        return {
            "tokens_per_second": (self._tokens - self._first) / seconds,
            "data_share": self._waited / seconds,
        }

    def close(self) -> None:
        self._end_profile()
        self._clear()
        if self._metrics is not None:
            self._metrics.close()

    def _count(self, tokens: int) -> None:
        self._now = time.perf_counter()
        if self._begin is None:
            self._begin, self._first, self._waited = self._now, tokens, 0.0
        else:
            self._counted += 1
        self._tokens = tokens

    def _draw(self, step: int, values: dict[str, float]) -> None:
        """The bar, at most ten times a second."""
        if self._out is None or not self._out.isatty() or time.monotonic() - self._drawn < 0.1:
            return
        self._drawn, full = time.monotonic(), 20 * step // self._steps
        speed = values.get("tokens_per_second")
        line = (
            f"[{'#' * full}{'-' * (20 - full)}] {step:,}/{self._steps:,}  loss {values['loss']:.3f}"
            + (f"  {speed:,.0f} tokens/s" if speed else "")
            + (f"  mfu {values['mfu']:.1%}" if "mfu" in values else "")
            + self._time_left(step)
        )[: shutil.get_terminal_size().columns - 1]
        self._show("\r" + line.ljust(self._width))
        self._width = len(line)

    def _time_left(self, step: int) -> str:
        if self._begin is None or not self._counted:
            return ""
        seconds = (self._now - self._begin) / self._counted * (self._steps - step)
        return f"  {datetime.timedelta(seconds=round(seconds))} left"

    def _clear(self) -> None:
        if self._width:
            self._show("\r" + " " * self._width + "\r")
            self._width = 0

    def _show(self, text: str) -> None:
        """To whoever looks on; once nobody does, training goes on and log.txt has everything."""
        try:
            if self._out is not None:
                self._out.write(text)
                self._out.flush()
        except (OSError, ValueError):  # a pipe or a terminal that is gone, a closed file
            self._out = None
