"""Figures of a study. Matplotlib is imported when the first is drawn.

Figures that a page shows are at most `WIDTH` inches wide, so that it does not shrink their text.
"""

import dataclasses
import itertools
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msm_jax.page import svg_uri as svg_uri  # of a figure
from msm_jax.study.evaluations import arms_of, measure_of, shown_by
from msm_jax.study.numbers import bounded, by_seed, limits_of, values
from msm_jax.study.results import CHANCE, mean_of
from msm_jax.study.tables import axis_of
from msm_jax.study.targets import targets_of

COLORS = ("#7a7f87", "#b08d57", "#2a6f97", "#c8553d", "#6d597a", "#52796f", "#8d6a9f", "#4f772d")
WIDTH = 9.8  # inches; 941 pixels of a page, whose text is 980 wide
# Of bars beside each other: of one or two, and of more, such as the paper's six arms.
_SHADES = {1: COLORS[2:3], 2: ("#a9c3d3", "#2a6f97")}
_MANY = ("#8b9098", "#d9b566", "#9cc3dc", "#2a6f97", "#eba68f", "#b8432f", "#a5c9a1", "#3f7d58")
_MARKS = (("D", "#111111"), ("v", "#7b2d8b"), ("s", "#1b7f5c"), ("^", "#b08900"))  # published
_BAR, _GAP, _AXIS, _CHAR = 0.3, 0.3, 0.95, 0.075  # inches
DASHED: dict[str, Any] = {"color": "#333", "linewidth": 0.9, "linestyle": (0, (4, 3))}
_SEED: dict[str, Any] = {"color": "white", "edgecolor": "#222", "linewidth": 0.8}
LEGEND: dict[str, Any] = {"loc": "outside upper left", "frameon": False, "fontsize": 8.5}
_STYLE = {
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555",
    "axes.axisbelow": True,
    "svg.hashsalt": "msm_jax",  # the same figure is the same file
    "svg.fonttype": "path",
    "figure.facecolor": "white",
}


def _empty(width: float, height: float):
    """A figure without pyplot's global state."""
    import matplotlib

    matplotlib.rcParams.update(_STYLE)
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def new_figure(width: float, height: float, columns: int = 1):
    """A figure and its axes: an array of them beside each other."""
    figure = _empty(width, height)
    return figure, figure.subplots(1, columns)


def _key(label: str, **style: Any):
    """An entry of a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **style)


def _one_seed():
    return _key("one seed", marker="o", linestyle="", color="white", markeredgecolor="#222",
                markersize=5)  # fmt: skip


def _note(axes, text: str, at: tuple[float, float], away: tuple[float, float], **style: Any):
    """A text so many points away from a place."""
    axes.annotate(text, at, away, textcoords="offset points", fontsize=8, **style)


# ------------------------------------------------------------------ the study's figure


@dataclasses.dataclass(frozen=True)
class _Group:
    """Bars beside each other, and how many inches they need."""

    label: str
    eval: str
    measure: str
    arms: Sequence[str]

    @property
    def width(self) -> float:
        words = self.label.replace("\n", " ").split() or [""]
        return max(len(self.arms) * _BAR, max(map(len, words)) * _CHAR) + _GAP

    @property
    def text(self) -> str:
        """The label in lines that are not wider than the group."""
        wide = int((self.width - 0.1) / _CHAR)
        return "\n".join(textwrap.fill(line, wide) for line in self.label.split("\n"))


def bars(results: dict):
    """The study's figure: a bar for every arm of every group, with published numbers as marks."""
    config = results["config"]
    rows = _rows(results)
    wide = max(sum(g.width for panel in row for g in panel) + _AXIS * len(row) for row in rows)
    width = min(max(1.25 * wide, 7.5), WIDTH)
    figure = _empty(width, 0.7 + 3.3 * len(rows))
    grid = figure.add_gridspec(len(rows), 1)
    for row, place in zip(rows, grid, strict=True):
        wide = [sum(group.width for group in panel) for panel in row]
        cells = place.subgridspec(1, len(row), width_ratios=wide)
        for panel, cell in zip(row, cells, strict=True):
            _draw_panel(figure.add_subplot(cell), results, panel)
    shown = [(group.eval, group.measure) for row in rows for panel in row for group in panel]
    handles = _handles(config, shown)
    handles += target_handles(
        results, [label for at in shown for label in targets_of(results, *at)]
    )
    widest = max(len(handle.get_label()) for handle in handles) * 0.062 + 0.6
    columns = max(1, int(width / widest))
    figure.legend(handles=handles, ncols=columns, **LEGEND)
    return figure


def _rows(results: dict) -> list[list[list[_Group]]]:
    """Rows of panels of groups: a panel has one scale, and no row is too wide for a page."""
    config = results["config"]
    entries = config["figure"]["groups"].values()
    groups = [_Group(e["label"], *shown_by(config, e), e["arms"]) for e in entries]
    scale = lambda group: limits_of(results["arms"], group.eval, group.measure)
    width = lambda panel: sum(group.width for group in panel)
    panels: list[list[_Group]] = []
    for _, some in itertools.groupby(groups, scale):
        alike, room = list(some), WIDTH - _AXIS
        even = width(alike) / math.ceil(width(alike) / room)
        most = min(room, even + max(group.width for group in alike) / 2)
        panels += _packed(alike, most, width)
    return _packed(panels, WIDTH, lambda row: sum(width(panel) + _AXIS for panel in row))


def _packed(items: Iterable[Any], most: float, width: Callable[[list], float]) -> list[list]:
    """The items in order, as many beside each other as are not wider than `most`."""
    found: list[list] = []
    for item in items:
        if not found or width([*found[-1], item]) > most:
            found.append([])
        found[-1].append(item)
    return found


def _shades(config: dict) -> Sequence[str]:
    """The colors of bars beside each other."""
    many = max(len(entry["arms"]) for entry in config["figure"]["groups"].values())
    return _SHADES.get(many, _MANY)


def _draw_panel(axes, results: dict, groups: Sequence[_Group]) -> None:
    config, ticks, at = results["config"], [], 0.0
    scale = limits_of(results["arms"], groups[0].eval, groups[0].measure)
    for group in groups:
        middle, shown = at + group.width / 2, (group.eval, group.measure)
        xs = [middle + (i - (len(group.arms) - 1) / 2) * _BAR for i in range(len(group.arms))]
        seeds = [values(by_seed(results["arms"], arm, *shown)) for arm in group.arms]
        means = [mean_of(results, arm, *shown) for arm in group.arms]
        for bar in zip(xs, means, seeds, itertools.cycle(_shades(config)), strict=False):
            _bar(axes, scale[0] if scale else 0.0, *bar)
        if len(xs) == 2 and len(config["seeds"]) > 1:
            for seed in sorted(seeds[0].keys() & seeds[1].keys()):
                ys = [one[seed] for one in seeds]
                axes.plot(xs, ys, color="#222", linewidth=0.5, alpha=0.35, zorder=3)
        _marks(axes, results, group.eval, group.measure, dict(zip(group.arms, xs, strict=True)))
        ticks.append((middle, group.text))
        at += group.width
    spare = max(0.0, 2.2 - at) / 2  # so that few bars do not become wide ones
    axes.set_xlim(-spare, at + spare)
    axes.set_xticks(*zip(*ticks, strict=True), fontsize=8.5)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color="#eee")
    if scale:
        low, high = scale
        axes.set_ylim(low, high + 0.02 * (high - low))
    if any(has_chance(config, group.eval, group.measure) for group in groups):
        axes.axhline(CHANCE, zorder=1, **DASHED)
    axes.set_ylabel(_axis(config, groups), fontsize=9)


def _axis(config: dict, groups: Sequence[_Group]) -> str:
    """What a panel shows, in words."""
    shown = list(dict.fromkeys((group.eval, group.measure) for group in groups))
    figure = config["figure"]
    if {eval for eval, _ in shown} == {figure["eval"]}:
        return f"{textwrap.fill(axis_of(config), 44)}\n({shown[0][0]}: {shown[0][1]})"
    measures = ", ".join(dict.fromkeys(measure for _, measure in shown))
    if len(shown) == 1:
        return f"{shown[0][0]}: {measures}"
    return f"{textwrap.fill(figure['axis'] or 'value', 44)}\n({measures})"


def has_chance(config: dict, eval: str, measure: str) -> bool:
    """Whether one half is what a model without a preference would have."""
    kind = config["evals"][eval].get("kind", "preferences")
    return kind == "preferences" and not measure.endswith(("consistency", "log_odds"))


def _bar(axes, low: float, x: float, mean: dict, seeds: dict[int, float], color: str) -> None:
    """A bar from `low` up, with its interval and its seeds."""
    upright = {"rotation": 90, "ha": "center", "va": "bottom"}
    if mean["mean"] is None:
        _note(axes, "no answer", (x, low), (0, 4), color="#5f6670", **upright)
        return
    axes.bar(x, mean["mean"] - low, _BAR * 0.92, bottom=low, color=color, zorder=2)
    if found := bounds(mean):
        axes.plot([x, x], found, color="#222", linewidth=1.3, zorder=4)
    else:
        _note(axes, "no interval", (x, low), (0, 4), zorder=4, **upright)
    if len(seeds) > 1:
        axes.scatter([x] * len(seeds), list(seeds.values()), s=14, zorder=5, **_SEED)


def bounds(numbers: dict) -> list[float] | None:
    """Of the interval over seeds; with one seed of that over the evaluation's questions."""
    found = bounded(numbers)
    return [found["ci_low"], found["ci_high"]] if found else None


def _marks(axes, results: dict, eval: str, measure: str, places: Mapping[str, float]) -> None:
    """Published numbers at the places of arms; several beside each other."""
    found = targets_of(results, eval, measure)
    for number, (label, rows) in enumerate(found.items()):
        shift = (number - (len(found) - 1) / 2) * 0.1
        points = [
            (places[arm] + shift, row["target"]) for arm, row in rows.items() if arm in places
        ]
        if points:
            mark(axes, results, label, *zip(*points, strict=True))


def _mark_of(results: dict, label: str) -> dict[str, Any]:
    """The shape and the color of somebody's published numbers."""
    labels = list(dict.fromkeys(row["label"] for row in results["targets"]))
    shape, color = _MARKS[labels.index(label) % len(_MARKS)]
    return {"marker": shape, "color": color}


def mark(axes, results: dict, label: str, xs: Sequence[float], ys: Sequence[float]) -> None:
    """Draw published numbers."""
    style = _mark_of(results, label)
    axes.scatter(xs, ys, s=40, edgecolor="white", linewidth=0.9, zorder=6, **style)


def target_handles(results: dict, labels: Iterable[str]) -> list:
    """The legend of published numbers."""
    style: dict[str, Any] = {"linestyle": "", "markersize": 6, "markeredgecolor": "white"}
    return [
        _key(f"{label} (published)", **style, **_mark_of(results, label))
        for label in dict.fromkeys(labels)
    ]


def _handles(config: dict, shown: Sequence[tuple[str, str]]) -> list:
    """What bars, points and lines are."""
    from matplotlib.patches import Patch

    figure, several = config["figure"], len(config["seeds"]) > 1
    named = zip(figure["bars"], itertools.cycle(_shades(config)), strict=False)
    found: list[Any] = [Patch(color=color, label=name) for name, color in named]
    if several:
        found.append(_one_seed())
    over = "seeds" if several else "questions, one seed"
    found.append(_key(f"95 % interval over {over}", color="#222", linewidth=1.3))
    if any(has_chance(config, *at) for at in shown):
        found.append(_key("chance", **DASHED))
    return found


# ------------------------------------------------------------------ arms and contrasts, in rows


@dataclasses.dataclass(frozen=True)
class _Line:
    """A row of a figure: a value, its interval (in `numbers`), its seeds, published numbers."""

    label: str
    value: float | None
    numbers: dict
    seeds: list[float]
    published: dict[str, float]

    @property
    def over_seeds(self) -> bool:
        return self.numbers["ci_low"] is not None

    @property
    def text(self) -> str:
        parts = self.label.split(" - ") if len(self.label) > 46 else [self.label]
        return "\n- ".join(textwrap.fill(part, 46, break_long_words=False) for part in parts)


def arms(results: dict, eval: str, measure: str = ""):
    """A measure of every arm that is asked an evaluation, one below the other."""
    config = results["config"]
    measure = measure or measure_of(config, eval)
    found, lines = targets_of(results, eval, measure), []
    for arm in arms_of(config, eval):
        mean = mean_of(results, arm, eval, measure)
        seeds = values(by_seed(results["arms"], arm, eval, measure))
        published = {label: rows[arm]["target"] for label, rows in found.items() if arm in rows}
        lines.append(_Line(arm, mean["mean"], mean, list(seeds.values()), published))
    figure, (axes,) = _lines_figure(results, {f"{eval}: {measure}": lines})
    if scale := limits_of(results["arms"], eval, measure):
        low, high = scale
        axes.set_xlim(low - 0.01 * (high - low), high + 0.01 * (high - low))
    if has_chance(config, eval, measure):
        axes.axvline(CHANCE, zorder=1, **DASHED)
    return figure


def contrasts(results: dict):
    """Differences between arms with their intervals, a panel for each evaluation; None: none."""
    panels: dict[str, list[_Line]] = {}
    for entry in results["contrasts"]:
        if entry["difference"] is not None:
            name, at = entry["name"], (entry["eval"], entry["measure"])
            found = targets_of(results, *at, kind="contrast")
            published = {who: rows[name]["target"] for who, rows in found.items() if name in rows}
            seeds = [one["difference"] for one in entry["seeds"]]
            line = _Line(entry["label"], entry["difference"], entry, seeds, published)
            panels.setdefault("difference between arms ({}: {})".format(*at), []).append(line)
    if not panels:
        return None
    figure, all_axes = _lines_figure(results, panels)
    for axes in all_axes:
        axes.axvline(0, color="#333", linewidth=0.9, zorder=1)
    return figure


def _lines_figure(results: dict, panels: Mapping[str, Sequence[_Line]]):
    """A figure and its axes below each other, as high as their rows need, by their labels."""
    high = lambda line: 0.12 + 0.17 * (1 + line.text.count("\n"))
    heights = [0.75 + sum(map(high, lines)) for lines in panels.values()]
    figure = _empty(WIDTH, 0.45 + sum(heights))
    grid = figure.add_gridspec(len(panels), 1, height_ratios=heights)
    all_axes = [figure.add_subplot(place) for place in grid]
    for axes, (label, lines) in zip(all_axes, panels.items(), strict=True):
        _draw_lines(axes, results, lines)
        axes.set_xlabel(label)
    if handles := _lines_handles(results, list(itertools.chain(*panels.values()))):
        figure.legend(handles=handles, ncols=5, **LEGEND)
    return figure, all_axes


def _draw_lines(axes, results: dict, lines: Sequence[_Line]) -> None:
    color, dots = COLORS[2], (0, (2, 2))
    for over_seeds, style in ((True, {"linewidth": 2.2}), (False, {"linestyle": dots})):
        found = [
            (at, *ends)
            for at, line in enumerate(lines)
            if line.over_seeds == over_seeds and (ends := bounds(line.numbers))
        ]
        if found:
            axes.hlines(*zip(*found, strict=True), color=color, **style)
    seeds = [(x, at) for at, line in enumerate(lines) for x in line.seeds if len(line.seeds) > 1]
    means = [(line.value, at) for at, line in enumerate(lines) if line.value is not None]
    for points, style in ((seeds, {"s": 13, "zorder": 3, **_SEED}),
                          (means, {"s": 40, "zorder": 4, "color": color})):  # fmt: skip
        if points:
            axes.scatter(*zip(*points, strict=True), **style)
    published: dict[str, list[tuple[float, int]]] = {}
    for at, line in enumerate(lines):
        if line.value is None:
            _note(axes, "no answer", (0, at), (4, 0), va="center", color="#5f6670",
                  xycoords=("axes fraction", "data"))  # fmt: skip
        elif not bounds(line.numbers):
            _note(axes, "no interval", (line.value, at), (8, 0), va="center")
        for label, value in line.published.items():
            published.setdefault(label, []).append((value, at))
    for label, points in published.items():
        mark(axes, results, label, *zip(*points, strict=True))
    axes.set_yticks(range(len(lines)), [line.text for line in lines], fontsize=8.5)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="both", color="#eee")


def _lines_handles(results: dict, lines: Sequence[_Line]) -> list:
    found, with_bounds = [], [line for line in lines if bounds(line.numbers)]
    if any(line.over_seeds for line in with_bounds):
        found.append(_key("95 % interval over seeds", color=COLORS[2], linewidth=2.2))
    if not all(line.over_seeds for line in with_bounds):
        found.append(_key("95 % interval over questions, one model", color=COLORS[2],
                          linewidth=1.3, linestyle=(0, (2, 2))))  # fmt: skip
    if any(len(line.seeds) > 1 for line in lines):
        found.append(_one_seed())
    return found + target_handles(results, [label for line in lines for label in line.published])


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
