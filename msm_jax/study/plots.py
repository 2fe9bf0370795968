"""Figures of a study. Matplotlib is imported when the first is drawn."""

import itertools
import textwrap
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from msm_jax.page import svg_uri as svg_uri  # of a figure
from msm_jax.study.results import CHANCE, mean_of, rates

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
    """The headline: for every group the rate before and after fine-tuning, seeds as points."""
    settings = results["config"]["figure"]
    groups = list(settings["groups"].values())
    width = max(1.6 + 1.45 * len(groups), 6.0)  # that the legend needs
    figure, axes = new_figure(width, 4.2)
    for at, (group, color) in enumerate(zip(groups, itertools.cycle(COLORS), strict=False)):
        for offset, when in ((-0.2, "before"), (0.2, "after")):
            _bar(axes, results, at + offset, group[when], color, when == "after")
        _lines_between(axes, results, at, group, settings["eval"])
    axes.axhline(CHANCE, color="#333", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axes.set_xticks(range(len(groups)), [g["label"].replace(" (", "\n(") for g in groups])
    axes.set_ylim(0, 1.02)
    measure = textwrap.fill(settings["measure"], 44)
    axes.set_ylabel(f"{measure}\n(rate in {settings['eval']} pairs)", fontsize=9)
    _legend(axes)
    return figure


def _bar(axes, results, x, arm, color, full) -> None:
    eval = results["config"]["figure"]["eval"]
    mean = mean_of(results, arm, eval)
    if mean["mean"] is None:
        axes.text(x, 0.02, "no answer", rotation=90, ha="center", fontsize=8)
        return
    axes.bar(x, mean["mean"], 0.36, color=color, alpha=0.9 if full else 0.4, zorder=2)
    if mean["ci_low"] is not None:
        axes.plot([x, x], [mean["ci_low"], mean["ci_high"]], color="#222", linewidth=1.4, zorder=4)
    else:
        axes.text(x, 0.02, "no interval", rotation=90, ha="center", fontsize=8, zorder=4)


def _lines_between(axes, results, at, group, eval) -> None:
    """Each seed's two points, joined."""
    before, after = (rates(results["arms"], group[when], eval) for when in ("before", "after"))
    for seed in sorted({*before, *after}):
        points = [
            (at + x, values[seed]) for x, values in ((-0.2, before), (0.2, after)) if seed in values
        ]
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, color="#222", linewidth=0.5, alpha=0.35, zorder=3)
        axes.scatter(xs, ys, s=16, color="white", edgecolor="#222", linewidth=0.8, zorder=5)


def _legend(axes) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    white: dict[str, Any] = {"color": "white", "markeredgecolor": "#222", "markersize": 5}
    handles = [
        Patch(color="#666", alpha=0.4, label="before fine-tuning"),
        Patch(color="#666", alpha=0.9, label="after the same fine-tuning"),
        Line2D([], [], marker="o", linestyle="", label="one seed", **white),
        Line2D([], [], color="#222", linewidth=1.4, label="95 % interval over seeds"),
        Line2D([], [], color="#333", linewidth=0.9, linestyle=(0, (4, 3)), label="chance"),
    ]
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
        else:
            place = (entry["difference"], at)
            axes.annotate("no interval", place, (6, 4), textcoords="offset points", fontsize=7)
        xs = [one["difference"] for one in entry["seeds"]]
        axes.scatter(xs, [at] * len(xs), s=13, color="white", edgecolor="#777", linewidth=0.8)
        axes.scatter([entry["difference"]], [at], s=42, color="#2a6f97", zorder=3)
    axes.axvline(0, color="#333", linewidth=0.9)
    axes.set_yticks(range(len(entries)), [entry["label"] for entry in reversed(entries)])
    axes.set_xlabel("difference between rates")
    axes.grid(axis="x", color="#eee")
    return figure


def dose(results: dict):
    """Rate along the fine-tuning, a line per group: the mean over seeds, thin lines per seed."""
    figure, axes = new_figure(6.4, 3.6)
    groups = results["config"]["figure"]["groups"].values()
    for group, color in zip(groups, itertools.cycle(COLORS), strict=False):
        points = [p for p in results["dose"] if p["arm"] == group["after"]]
        steps = sorted({p["step"] for p in points})
        for seed in sorted({p["seed"] for p in points}):
            own = [(p["step"], p["rate"]) for p in points if p["seed"] == seed]
            axes.plot(*zip(*own, strict=True), color=color, linewidth=0.6, alpha=0.4)
        means = [fmean(p["rate"] for p in points if p["step"] == step) for step in steps]
        axes.plot(steps, means, color=color, linewidth=2, marker="o", markersize=4,
                  label=group["label"])  # fmt: skip
    axes.axhline(CHANCE, color="#333", linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("fine-tuning steps")
    axes.set_ylabel("rate")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


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
