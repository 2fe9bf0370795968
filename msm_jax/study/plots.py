"""Figures of a study. Matplotlib is imported when the first is drawn."""

import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from msm_jax.page import svg_uri as svg_uri  # of a figure
from msm_jax.study.evaluations import measure_of
from msm_jax.study.numbers import by_seed, values
from msm_jax.study.results import CHANCE, mean_of
from msm_jax.study.tables import axis_of

COLORS = ("#7a7f87", "#b08d57", "#2a6f97", "#c8553d", "#6d597a", "#52796f", "#8d6a9f", "#4f772d")
_STYLE = {
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555",
    "axes.axisbelow": True,
    "svg.hashsalt": "msm_jax",  # the same figure is the same file
    "svg.fonttype": "path",
    "figure.facecolor": "white",
}


def new_figure(width: float, height: float, columns: int = 1):
    """A figure without pyplot's global state, and its axes: an array of them beside each other."""
    import matplotlib

    matplotlib.rcParams.update(_STYLE)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def bars(results: dict):
    """The headline: for every group the mean before and after fine-tuning, seeds as points."""
    config = results["config"]
    groups = list(config["figure"]["groups"].values())
    eval, measure = _shown(config)
    width = max(1.6 + 1.45 * len(groups), 6.0)  # that the legend needs
    figure, axes = new_figure(width, 4.2)
    for at, (group, color) in enumerate(zip(groups, itertools.cycle(COLORS), strict=False)):
        for offset, when in ((-0.2, "before"), (0.2, "after")):
            _bar(axes, results, at + offset, group[when], color, when == "after")
        _lines_between(axes, results, at, group)
    axes.set_xticks(range(len(groups)), [g["label"].replace(" (", "\n(") for g in groups])
    if is_rate(results, eval, measure):
        axes.set_ylim(0, 1.02)
    if has_chance(config):
        axes.axhline(CHANCE, color="#333", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axes.set_ylabel(f"{textwrap.fill(axis_of(config), 44)}\n({eval}: {measure})", fontsize=9)
    _legend(axes, has_chance(config), len(config["seeds"]))
    return figure


def _shown(config: dict) -> tuple[str, str]:
    """The figure's evaluation and measure."""
    figure = config["figure"]
    return figure["eval"], measure_of(config, figure["eval"], figure["measure"])


def has_chance(config: dict) -> bool:
    """Whether one half is what a model without a preference would have in the figure."""
    eval, measure = _shown(config)
    kind = config["evals"][eval].get("kind", "preferences")
    return kind == "preferences" and not measure.endswith("consistency")


def is_rate(results: dict, eval: str, measure: str) -> bool:
    """Whether a measure is within 0 and 1."""
    entries = [row["evals"][eval]["measures"] for row in results["arms"] if eval in row["evals"]]
    known = [entry[measure] for entry in entries if measure in entry]
    return bool(known) and all((one["low"], one["high"]) == (0, 1) for one in known)


def _bar(axes, results, x, arm, color, full) -> None:
    mean = mean_of(results, arm, *_shown(results["config"]))
    if mean["mean"] is None:
        axes.text(x, 0.02, "no answer", rotation=90, ha="center", fontsize=8)
        return
    axes.bar(x, mean["mean"], 0.36, color=color, alpha=0.9 if full else 0.4, zorder=2)
    bounds = _bounds(mean)
    if bounds:
        axes.plot([x, x], bounds, color="#222", linewidth=1.4, zorder=4)
    else:
        axes.text(x, 0.02, "no interval", rotation=90, ha="center", fontsize=8, zorder=4)


def _bounds(numbers: dict) -> list[float] | None:
    """Of the interval over seeds; with one seed of that over the evaluation's questions."""
    for found in (numbers, numbers.get("over_items")):
        if found and found["ci_low"] is not None:
            return [found["ci_low"], found["ci_high"]]
    return None


def _lines_between(axes, results, at, group) -> None:
    """Each seed's two points, joined."""
    shown, rows = _shown(results["config"]), results["arms"]
    before, after = (values(by_seed(rows, group[when], *shown)) for when in ("before", "after"))
    for seed in sorted({*before, *after}):
        points = [
            (at + x, each[seed]) for x, each in ((-0.2, before), (0.2, after)) if seed in each
        ]
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, color="#222", linewidth=0.5, alpha=0.35, zorder=3)
        axes.scatter(xs, ys, s=16, color="white", edgecolor="#222", linewidth=0.8, zorder=5)


def _legend(axes, chance: bool, seeds: int) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    over = "seeds" if seeds > 1 else "questions, one seed"
    white: dict[str, Any] = {"color": "white", "markeredgecolor": "#222", "markersize": 5}
    handles = [
        Patch(color="#666", alpha=0.4, label="before fine-tuning"),
        Patch(color="#666", alpha=0.9, label="after the same fine-tuning"),
        Line2D([], [], marker="o", linestyle="", label="one seed", **white),
        Line2D([], [], color="#222", linewidth=1.4, label=f"95 % interval over {over}"),
    ]
    if chance:
        dashed: dict[str, Any] = {"color": "#333", "linewidth": 0.9, "linestyle": (0, (4, 3))}
        handles.append(Line2D([], [], label="chance", **dashed))
    axes.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False,
        fontsize=8,
    )  # fmt: skip


def contrasts(results: dict):
    """Differences between arms with their intervals, seeds as points."""
    entries = [entry for entry in results["contrasts"] if entry["difference"] is not None]
    figure, axes = new_figure(7.4, 0.9 + 0.45 * max(len(entries), 1))
    for at, entry in enumerate(reversed(entries)):
        if entry["ci_low"] is not None:
            axes.plot([entry["ci_low"], entry["ci_high"]], [at, at], color="#2a6f97", linewidth=2.2)
        elif bounds := _bounds(entry):
            axes.plot(bounds, [at, at], color="#2a6f97", linewidth=1.2, linestyle=(0, (2, 2)))
        else:
            place = (entry["difference"], at)
            axes.annotate("no interval", place, (6, 4), textcoords="offset points", fontsize=7)
        xs = [one["difference"] for one in entry["seeds"]]
        axes.scatter(xs, [at] * len(xs), s=13, color="white", edgecolor="#777", linewidth=0.8)
        axes.scatter([entry["difference"]], [at], s=42, color="#2a6f97", zorder=3)
    axes.axvline(0, color="#333", linewidth=0.9)
    axes.set_yticks(range(len(entries)), [entry["label"] for entry in reversed(entries)])
    axes.set_xlabel("difference between arms (dotted: over questions, one seed)")
    axes.grid(axis="x", color="#eee")
    return figure


def dose(results: dict):
    """A measure along the last stage, a line per arm: mean over seeds, thin lines per seed."""
    config, points = results["config"], results["dose"]
    figure, axes = new_figure(6.4, 3.6)
    labels = {g["after"]: g["label"] for g in config["figure"]["groups"].values()}
    arms = dict.fromkeys(p["arm"] for p in points)
    for arm, color in zip(_ordered(arms, labels), itertools.cycle(COLORS), strict=False):
        mine = [p for p in points if p["arm"] == arm]
        steps = sorted({p["step"] for p in mine})
        for seed in sorted({p["seed"] for p in mine}):
            own = [(p["step"], p["value"]) for p in mine if p["seed"] == seed]
            axes.plot(*zip(*own, strict=True), color=color, linewidth=0.6, alpha=0.4)
        means = [fmean(p["value"] for p in mine if p["step"] == step) for step in steps]
        axes.plot(steps, means, color=color, linewidth=2, marker="o", markersize=4,
                  label=labels.get(arm, arm))  # fmt: skip
    eval, measure = points[0]["eval"], points[0]["measure"]
    if is_rate(results, eval, measure):
        axes.set_ylim(0, 1.02)
    if config["figure"]["eval"] == eval and has_chance(config):
        axes.axhline(CHANCE, color="#333", linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_xlabel(f"steps of {', '.join(config['dose']['stages'])}")
    axes.set_ylabel(f"{eval}: {measure}")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _ordered(arms: Iterable[str], labels: Mapping[str, str]) -> list[str]:
    """Arms that the figure has in its order, then the others."""
    return [arm for arm in labels if arm in arms] + [arm for arm in arms if arm not in labels]


def losses(title: str, curves: Sequence[tuple[str, Sequence[dict]]]):
    """Loss by step of stages with one name; `curves` are (label, rows of metrics.jsonl)."""
    figure, axes = new_figure(4.2, 2.7)
    colors: dict[str, str] = {}
    for label, rows in curves:
        points = [(row["step"], row["loss"]) for row in rows if row.get("loss") is not None]
        if points:
            shown = None if label in colors else label  # once in the legend
            color = colors.setdefault(label, COLORS[(2 + len(colors)) % len(COLORS)])
            axes.plot(*zip(*points, strict=True), color=color, linewidth=0.9, label=shown)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("step", fontsize=8)
    axes.set_ylabel("loss", fontsize=8)
    axes.tick_params(labelsize=8)
    if len(colors) > 1:
        axes.legend(frameon=False, fontsize=7)
    return figure
