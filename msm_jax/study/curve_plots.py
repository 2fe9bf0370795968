"""The curves of a study as figures with intervals, and as tables."""

import itertools
from collections.abc import Iterable
from typing import Any

from msm_jax.study import origins, plots, tables
from msm_jax.study.numbers import interval_text, limits_of
from msm_jax.study.results import CHANCE
from msm_jax.study.targets import targets_of

LOGARITHMIC = 8  # from this ratio of the largest to the smallest value on


def shown(results: dict) -> list[dict]:
    """What the report shows of each curve: a table and, of values, a figure for each evaluation."""
    found = []
    for curve in results["curves"]:
        panels = []
        for eval in dict.fromkeys(point["eval"] for point in curve["points"]):
            means = {point["mean"] for point in curve["points"] if point["eval"] == eval}
            figure = plots.svg_uri(draw(results, curve, eval)) if means != {None} else ""
            cells = table(results["config"], curve, eval)
            panels.append({"eval": eval, "figure": figure, "table": cells})
        found.append({"name": curve["name"], "keys": ", ".join(curve["keys"]), "panels": panels})
    return found


def records(results: dict) -> list[dict]:
    """A record for each point, as those of `tables`."""
    return [
        {"key": curve["name"], "value": point["value"], "arm": point["line"],
         "evaluation": point["eval"], "measure": point["measure"], **tables.interval(point)}
        for curve in results["curves"]
        for point in curve["points"]
    ]  # fmt: skip


def table(config: dict, curve: dict, eval: str) -> list[list[Any]]:
    """A row for each line and a column for each value, head first, with links to the arms."""
    points = [point for point in curve["points"] if point["eval"] == eval]
    values, digits = _values(points), tables.digits_of(config, eval)
    rows = []
    for line in dict.fromkeys(point["line"] for point in points):
        mine = [point for point in points if point["line"] == line]
        cells = [[p for p in mine if p["value"] == value] for value in values]
        rows.append([line, *(_cell(config, p[0], digits) if p else "" for p in cells)])
    return [["arm", *(f"{curve['name']}={value}" for value in values)], *rows]


def _cell(config: dict, point: dict, digits: int) -> origins.Link | str:
    path = point.get("path", config["arms"][point["arm"]])
    text = interval_text(point, digits=digits)
    return origins.at_path(config, point["measured"], path, text)


def draw(results: dict, curve: dict, eval: str):
    """A line for each arm with the 95 % intervals of its points, on a logarithmic axis if apt.

    At least one point has to have a value.
    """
    from matplotlib.transforms import ScaledTranslation

    points = [p for p in curve["points"] if p["eval"] == eval and p["mean"] is not None]
    figure, axes = plots.new_figure(6.4, 3.6)
    values, measure, measured = _values(points), points[0]["measure"], points[0]["measured"]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    place = (lambda value: value) if numeric else values.index
    lines = list(dict.fromkeys(point["line"] for point in points))
    for at, (line, color) in enumerate(zip(lines, itertools.cycle(plots.COLORS), strict=False)):
        mine = sorted((p for p in points if p["line"] == line), key=lambda p: place(p["value"]))
        # Side by side, so that the intervals of one value do not overlap.
        beside = ScaledTranslation((at - len(lines) / 2) / 30, 0, figure.dpi_scale_trans)
        style: dict[str, Any] = {"color": color, "transform": axes.transData + beside}
        xs = [place(point["value"]) for point in mine]
        axes.plot(xs, [p["mean"] for p in mine], marker="o", markersize=4, label=line, **style)
        for x, point in zip(xs, mine, strict=True):
            if found := plots.bounds(point):
                axes.plot([x, x], found, linewidth=1, alpha=0.7, **style)
    _scale(axes, values, numeric)
    ends = [end for point in points for end in (point["mean"], *(plots.bounds(point) or ()))]
    low, high = limits_of(results["arms"], measured, measure) or (min(ends), max(ends))
    margin = 0.02 * (high - low) or 0.02
    axes.set_ylim(low - margin * (low != 0), high + margin)
    if plots.has_chance(results["config"], eval, measure):
        axes.axhline(CHANCE, **plots.DASHED)
    shown = []
    for label, rows in targets_of(results, eval, measure).items():
        known = [p for p in points if p["measured"] == eval and p["arm"] in rows]
        if known:
            shown.append(label)
            ys = [rows[point["arm"]]["target"] for point in known]
            plots.mark(axes, results, label, [place(point["value"]) for point in known], ys)
    axes.set_xlabel(curve["name"])
    axes.set_ylabel(f"{eval}: {measure}")
    handles = [*axes.get_legend_handles_labels()[0], *plots.target_handles(results, shown)]
    figure.legend(handles=handles, ncols=3, **{**plots.LEGEND, "fontsize": 8})
    return figure


def _scale(axes, values: list, numeric: bool) -> None:
    """Ticks at the values that there are; a logarithmic axis where they span a wide range."""
    at = values if numeric else list(range(len(values)))
    if numeric and min(at) > 0 and max(at) / min(at) >= LOGARITHMIC:
        axes.set_xscale("log")
        margin = (max(at) / min(at)) ** 0.06
        axes.set_xlim(min(at) / margin, max(at) * margin)
    else:
        margin = 0.06 * (max(at) - min(at)) or 0.5
        axes.set_xlim(min(at) - margin, max(at) + margin)
    axes.minorticks_off()
    texts = [f"{value:,}" if isinstance(value, int) else str(value) for value in values]
    slanted: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(at, texts, fontsize=8, **(slanted if len("".join(texts)) > 40 else {}))


def _values(points: Iterable[dict]) -> list:
    """All values on the x axis; numbers in their order."""
    found = [*{repr(point["value"]): point["value"] for point in points}.values()]
    numbers = all(isinstance(value, int | float) for value in found)
    return sorted(found) if numbers else found
