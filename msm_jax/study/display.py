"""What a study says on the terminal: the plan, and a line per stage as it is done."""

import pathlib
import shutil
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from msm_jax.study import files
from msm_jax.study.graph import Stage, Study

_HEARTBEAT = 60.0  # seconds without a line after which one says that the study is alive


def plan(study: Study, workdir: pathlib.Path) -> str:
    """The stages as a tree with a column per seed, and the counts."""
    seeds = study.config["seeds"]
    wide = len(seeds) <= 4
    table = [["stage", "steps", "tokens", *([f"seed {s}" for s in seeds] if wide else ["done"])]]
    todo: list[Stage] = []
    for row in _rows(study):
        by_seed = {stage.seed: stage for stage in row}
        done = [files.read_stage(workdir, stage) is not None for stage in row]
        todo += [stage for stage, d in zip(row, done, strict=True) if not d]
        first = row[0]
        cells = [
            "  " * max(len(first.path) - 1, 0) + first.name,
            f"{first.steps:,}" if first.steps else "",
            f"{first.tokens:,}" if first.tokens else "",
        ]
        if wide:
            states = {
                stage.seed: "done" if d else _begun(workdir, stage)
                for stage, d in zip(row, done, strict=True)
            }
            cells += [
                f"{states[s]} {by_seed[s].id[:6]}" if s in by_seed else "as before" for s in seeds
            ]
        else:
            cells.append(f"{sum(done)} of {len(row)}")
        table.append(cells)
    asked = [files.is_done(workdir, study, "evals", name) for name in study.questions]
    steps, tokens = sum(s.steps for s in todo), sum(s.tokens for s in todo)
    return "\n".join(
        [
            f"{study.config['name']}: {len(seeds)} seeds, {len(study.config['arms'])} arms, "
            f"{len(study.stages)} stages, {len(asked)} of them evaluated",
            *_aligned(table),
            f"to do: {len(todo)} stages ({steps:,} steps, {tokens:,} tokens at most), "
            f"{asked.count(False)} evaluated; done: {len(study.stages) - len(todo)} stages, "
            f"{asked.count(True)} evaluated",
        ]
    )


def _rows(study: Study) -> list[list[Stage]]:
    """Stages of the same path, parents before children."""
    rows: dict[tuple, list[Stage]] = {}
    for stage in study.stages.values():
        rows.setdefault((stage.kind != "world", stage.kind == "train", stage.path), []).append(
            stage
        )
    return [rows[key] for key in sorted(rows)]


def _begun(workdir: pathlib.Path, stage: Stage) -> str:
    has_some = (files.stage_dir(workdir, stage.id) / "checkpoints").is_dir()
    return "go on" if has_some else "run"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if i in (1, 2) else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def clock(seconds: float) -> str:
    """75 -> "1:15"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """A line for each job that is done; on a terminal also a live line for those at work."""

    def __init__(self, total: int, workers: int, out: TextIO = sys.stdout):
        self._total, self._workers, self._out = total, workers, out
        self._live = out.isatty()
        self._started = self._spoke = time.monotonic()
        self._count = 0
        self._tty_width = 0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    def finished(self, title: str, what: str, seconds: float, left: float | None) -> None:
        """A job is done."""
        self._count += 1
        digits = len(str(self._total))
        self._say(
            f"[{self._count:{digits}d}/{self._total}] {clock(self.elapsed):>6}  {title}: "
            f"{what}, {seconds:.1f} s{self._left(left)}"
        )

    def tick(self, running: Sequence[tuple[str, float]], left: float | None) -> None:
        """Shows jobs at work as (title, share done)."""
        if self._live:
            bars = " | ".join(f"{title} {_bar(share)} {share:4.0%}" for title, share in running)
            self._draw(f"{clock(self.elapsed):>6}  {bars}{self._left(left)}")
        elif time.monotonic() - self._spoke > _HEARTBEAT:
            jobs = " | ".join(f"{title} {share:.0%}" for title, share in running)
            self._say(
                f"{'at work':>{2 * len(str(self._total)) + 3}} {clock(self.elapsed):>6}  {jobs}"
            )

    def close(self) -> None:
        """Takes the live line away."""
        self._draw("")

    def _left(self, left: float | None) -> str:
        return "" if left is None else f"  (about {clock(left)} left)"

    def _say(self, line: str) -> None:
        self._draw("")
        print(line, file=self._out, flush=True)
        self._spoke = time.monotonic()

    def _draw(self, line: str) -> None:
        if not self._live:
            return
        columns = shutil.get_terminal_size().columns - 1
        line = line[:columns]
        blank = " " * max(self._tty_width - len(line), 0)
        self._out.write(f"\r{line}{blank}" + ("" if line else "\r"))
        self._out.flush()
        self._tty_width = len(line)


def _bar(share: float, width: int = 10) -> str:
    full = round(max(0.0, min(share, 1.0)) * width)
    return "#" * full + "-" * (width - full)
