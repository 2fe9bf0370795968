"""Rates of conditions as a drawing: a point and its interval per arm, as SVG."""

import html
from collections.abc import Sequence

COLOURS = ("#2a6f97", "#c8553d", "#588157", "#7b2d8b", "#b08900", "#5f6670")
_LEFT, _WIDTH, _ROW, _STEP = 330, 900, 18, 8


def dots(rows: Sequence[tuple[str, Sequence[dict | None]]], arms: Sequence[str], title: str) -> str:
    """An SVG of rows (label, numbers of each arm with rate, ci_low, ci_high; None is left out)."""
    height = _ROW + max(_STEP * len(arms), 10)
    total = 30 + height * len(rows) + 24
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {total}" role="img" aria-label="{_attribute(title)}">',
        f"<title>{html.escape(title)}</title>",
    ]
    for tick in range(0, 101, 20):
        x = _x(tick / 100)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="22" y2="{total - 22}" class="grid"/>'
            f'<text x="{x:.1f}" y="{total - 6}" class="tick">{tick}</text>'
            f'<text x="{x:.1f}" y="16" class="tick">{tick} %</text>'
        )
    for number, (label, cells) in enumerate(rows):
        top = 30 + height * number
        middle = top + height / 2
        parts.append(
            f'<text x="{_LEFT - 12}" y="{middle + 4:.1f}" class="label">{html.escape(label)}</text>'
        )
        for place, (arm, cell) in enumerate(zip(arms, cells, strict=True)):
            if cell is None or cell["rate"] is None:
                continue
            y = middle + (place - (len(arms) - 1) / 2) * _STEP
            parts.append(_dot(cell, y, COLOURS[place % len(COLOURS)], f"{label}, {arm}"))
    return "".join([*parts, "</svg>"])


def legend(arms: Sequence[str]) -> str:
    """The colours' names as HTML."""
    return "".join(
        f'<span class="key"><i style="background:{COLOURS[i % len(COLOURS)]}"></i>'
        f"{html.escape(arm)}</span>"
        for i, arm in enumerate(arms)
    )


def _dot(cell: dict, y: float, colour: str, label: str) -> str:
    low, high = cell["ci_low"], cell["ci_high"]
    text, line = f"{label}: {cell['rate']:.1%}, no interval", ""
    if low is not None:
        text = f"{label}: {cell['rate']:.1%} [{low:.1%}, {high:.1%}]"
        line = (
            f'<line x1="{_x(low):.1f}" x2="{_x(high):.1f}" y1="{y:.1f}" y2="{y:.1f}" '
            'stroke-width="2" stroke-opacity=".55"/>'
        )
    return (
        f'<g stroke="{colour}" fill="{colour}"><title>{html.escape(text)}</title>{line}'
        f'<circle cx="{_x(cell["rate"]):.1f}" cy="{y:.1f}" r="3.4" stroke="none"/></g>'
    )


def _x(rate: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - 24) * min(max(rate, 0), 1)


def _attribute(text: str) -> str:
    return html.escape(text, quote=True)
