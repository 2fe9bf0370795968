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
      run: the run directory.
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
        run: str | os.PathLike,
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
        self._metrics = Metrics(run, resumed_at)
        self._log = pathlib.Path(run, "log.txt")
        self._begin: float | None = None  # when the first step ended
        self._now = 0.0  # and the last
        self._waited, self._tokens, self._first = 0.0, 0, 0
        self._drawn, self._width = 0.0, 0

    def of_data(self, read):
        """What `read` returns; its time counts as time spent on data."""
        start = time.perf_counter()
        batch = read()
        self._waited += time.perf_counter() - start
        return batch

    def step(self, pending, force: bool = False) -> None:
        """A step that is on its way, as (step, tokens so far, metrics): waits for it."""
        if pending is None:
            return
        step, tokens, values = pending
        jax.block_until_ready(values)
        self._count(tokens)
        if step % self._every and not force:
            return
        found = {name: float(value) for name, value in values.items()}
        found["learning_rate"] = float(self._schedule(step - 1))
        found["tokens"] = tokens
        if speed := self.summary()["tokens_per_second"]:
            found["tokens_per_second"] = speed
            if self._peak:
                found["mfu"] = speed * self._flops / self._peak
        self._metrics.write(step, found)
        self._draw(step, found)

    def probes(self, step: int, rates: dict[str, float]) -> None:
        self._metrics.write(step, {f"probe/{name}": rate for name, rate in rates.items()})
        self.say(f"step {step}: " + ", ".join(f"{name} {rate:.3f}" for name, rate in rates.items()))

    def say(self, text: str) -> None:
        """A line of log.txt."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{now} {text}\n")
        if self._out is not None:
            self._clear()
            print(text, file=self._out, flush=True)

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
        self._clear()
        self._metrics.close()

    def _count(self, tokens: int) -> None:
        self._now = time.perf_counter()
        if self._begin is None:
            self._begin, self._first, self._waited = self._now, tokens, 0.0
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
        )[: shutil.get_terminal_size().columns - 1]
        self._out.write("\r" + line.ljust(self._width))
        self._out.flush()
        self._width = len(line)

    def _clear(self) -> None:
        if self._width and self._out is not None:
            self._out.write("\r" + " " * self._width + "\r")
            self._out.flush()
            self._width = 0
