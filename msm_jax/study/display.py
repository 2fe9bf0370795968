"""What a study shows on the terminal: the plan, and a line per node as it is done."""

import contextlib
import pathlib
import sys
import time
from collections.abc import Sequence

from msm_jax.errors import UserError
from msm_jax.files import parse_json
from msm_jax.progress import progress_bar
from msm_jax.schema import check
from msm_jax.study import design, devices, files, times
from msm_jax.study.devices import counted as counted
from msm_jax.study.graph import Study
from msm_jax.study.node import Node

KINDS = ("world", "corpus", "tokenizer", "base", "train")  # in the order of the plan


def plan(study: Study, workdir: pathlib.Path) -> str:
    """The stages as a tree with a column per seed, and the counts."""
    seeds = study.config["seeds"]
    wide = len(seeds) <= 4
    done = {name: files.read_mark(workdir, n) is not None for name, n in study.nodes.items()}
    rows: dict[tuple, dict[int, Node]] = {}  # stages of one path by seed, parents before children
    for stage in study.stages.values():
        own = "" if stage.kind == "train" else stage.name
        key = (KINDS.index(stage.kind), own, stage.path)
        rows.setdefault(key, {})[stage.seed] = stage
    table = [["stage", "steps", "tokens", *([f"seed {s}" for s in seeds] if wide else ["done"])]]
    for _, row in sorted(rows.items(), key=lambda item: item[0]):
        first = next(iter(row.values()))
        states = [_state(workdir, row[s], done) if s in row else "as before" for s in seeds]
        count = f"{sum(done[stage.id] for stage in row.values())} of {len(row)}"
        name = "  " * max(len(first.path) - 1, 0) + first.name
        sizes = [f"{size:,}" if size else "" for size in (first.steps, first.tokens)]
        table.append([name, *sizes, *(states if wide else [count])])
    todo = [stage for name, stage in study.stages.items() if not done[name]]
    evaluated = [done[node.id] for node in study.evaluations.values()]
    judges = [done[node.id] for node in study.judges.values()]
    judged = lambda state: f", {judges.count(state)} judged by another model" if judges else ""
    steps, tokens = sum(s.steps or 0 for s in todo), sum(s.tokens or 0 for s in todo)
    return "\n".join(
        [
            f"{study.config['name']}: {counted(len(seeds), 'seed')}, "
            f"{len(study.config['arms'])} arms, {len(study.stages)} stages, "
            f"{len(evaluated)} of them evaluated",
            *aligned(table, right=(1, 2)),
            *design.sentences(study.config, brief=True),
            *_unknown(todo),
            f"to do: {len(todo)} stages ({steps:,} steps, {tokens:,} tokens at most), "
            f"{evaluated.count(False)} evaluated{judged(False)}; "
            f"done: {len(study.stages) - len(todo)} stages, "
            f"{evaluated.count(True)} evaluated{judged(True)}",
            *_disk(study, todo),
            *_hours(study, workdir, [n for name, n in study.nodes.items() if not done[name]]),
        ]
    )


def _unknown(todo: Sequence[Node]) -> list[str]:
    """Why the steps of some stages are not known yet."""
    why: dict[str, list[str]] = {}
    for node in todo:
        if node.until:
            why.setdefault(node.until, []).append(node.name)
    return [
        f"steps of {', '.join(dict.fromkeys(names))}: unknown until {until} is made"
        for until, names in why.items()
    ]


def _disk(study: Study, todo: Sequence[Node]) -> list[str]:
    """How much of the disk the checkpoints take that are to be trained."""
    if not (size := times.checkpoint_bytes(study, todo)):
        return []
    about = f"{size / 2**30:,.1f} GiB" if size >= 2**28 else f"{size / 2**20:,.1f} MiB"
    return [f"disk: an estimate of {about} for checkpoints; answers and token caches come on top"]


def _hours(study: Study, workdir: pathlib.Path, todo: Sequence[Node]) -> list[str]:
    """On what it runs and, as far as that was measured in this directory, how long."""
    config = study.config
    places = devices.places(config["platform"], config["workers"])
    lines = [f"devices: {devices.describe(places)}"]
    if not todo:
        return lines
    helpers = devices.helpers(places)
    place = lambda node: (places if devices.needs_accelerator(node) else helpers or places)[0]
    begun = {node.id: (0.0, last_step(workdir, node)) for node in todo}
    found = times.estimate(
        study, todo, times.Speeds(workdir), lambda n: place(n).text, len(places), begun
    )
    price = config["price_per_hour"]
    text = found.text(price)
    unknown = "unknown until the first stage and the first evaluation have run"
    lines.append(f"time: {text}, as measured in this directory" if text else f"time: {unknown}")
    if not (price and text):
        why = ", as the time is" if price else " without config.price_per_hour"
        lines.append(f"cost: unknown{why}; judges and writers cost extra")
    return lines


def _state(workdir: pathlib.Path, stage: Node, done: dict[str, bool]) -> str:
    begun = (files.directory(workdir, stage) / "checkpoints").is_dir()
    return f"{'done' if done[stage.id] else 'go on' if begun else 'run'} {stage.id[:6]}"


def aligned(table: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """The lines of a table; columns in `right` are set to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def clock(seconds: float) -> str:
    """75 -> "1:15"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """A line for each node that is done; on a terminal also a bar of all training steps."""

    def __init__(self, nodes: Sequence[Node]):
        self._total, self._count, self._steps = len(nodes), 0, 0
        self._started = time.monotonic()
        steps = sum(node.steps or 0 for node in nodes)
        self._bar = progress_bar(steps or None, "study", "steps", out=sys.stdout)

    def finished(self, node: Node, result: str, seconds: float, left: str = "") -> None:
        """A node is done; `left` says how long the others take."""
        self._count += 1
        self._steps += node.steps or 0
        elapsed = clock(time.monotonic() - self._started)
        count = f"[{self._count:{len(str(self._total))}d}/{self._total}]"
        text = f"{count} {elapsed:>6}  {node.title}: {result}, {seconds:.1f} s"
        self._print(text + (f"; {left}" if left else ""))

    def waiting(self, node: Node, reason: str) -> None:
        """A node cannot be done yet."""
        self._count += 1
        self.note(node, f"waits: {reason}")

    def note(self, node: Node, text: str) -> None:
        """Something that is worth a line."""
        self._print(f"{node.title}: {text}")

    def _print(self, line: str) -> None:
        with self._bar.external_write_mode(file=sys.stdout):
            print(line, flush=True)

    def running(self, nodes: Sequence[Node], workdir: pathlib.Path) -> None:
        """Show how far the nodes that are running are."""
        if self._bar.disable:
            return
        steps = [last_step(workdir, node) for node in nodes]
        self._bar.n = self._steps + sum(steps)
        parts = (
            f"{node.title} {step / node.steps:.0%}" if node.steps else node.title
            for node, step in zip(nodes, steps, strict=True)
        )
        self._bar.set_postfix_str(" | ".join(parts))

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def last_step(workdir: pathlib.Path, node: Node) -> int:
    """The last step that a training stage has written to its metrics.jsonl."""
    path = files.directory(workdir, node) / "metrics.jsonl"
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2000))
        for line in reversed(file.read().split(b"\n")[:-1]):
            with contextlib.suppress(ValueError, UserError):
                return check(parse_json(line), {"step": int}, str(path))["step"]
    return 0
