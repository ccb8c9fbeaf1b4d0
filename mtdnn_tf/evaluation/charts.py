"""Charts as inline SVG: all that reports need, without a plotting library."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

Series = list[tuple[float, float]]

# Distinguishable for most colour-blind readers on light and dark paper (after Okabe and Ito 2008).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#7f7f7f")
_DASHES = ("", ' stroke-dasharray="6 3"', ' stroke-dasharray="2 3"')  # of lines, when the colours begin anew
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 720, 260, 60, 28, 28
_CHARACTER = 5.8  # width of one, about
_LARGEST = 1e300  # values beyond are drawn here: differences of any two stay finite
_MARGIN = 0.01  # of a constant value, above and below it


def line_chart(
    title: str,
    series: Mapping[str, Series],
    *,
    x_label: str = "step",
    log_x: bool = False,
    bars: Mapping[str, Series] | None = None,
) -> str:
    """Return an SVG with one line per series of (x, y) points; a sentence where there is nothing to draw.

    Points that are not finite are left out, as are those that have no place on a logarithmic axis.

    Args:
        title: above the chart.
        series: by name, as the legend has it.
        x_label: before the greatest x.
        log_x: a logarithmic x axis.
        bars: of a series, how far each of its points reaches: (up, down) from it, by place. Its points get marks.
    """
    kept = {
        name: [index for index, (x, y) in enumerate(line) if _is_drawn(x, y) and (x > 0 or not log_x)]
        for name, line in series.items()
    }
    if bars is not None:
        bars = {name: [_reach(bars[name][index]) for index in kept[name]] for name in series if name in bars}
    series = {
        name: [(_clipped(x), _clipped(y)) for x, y in (series[name][index] for index in kept[name])] for name in series
    }
    points = [point for line in series.values() for point in line]
    if not points:
        return _no_chart(title)
    scale = math.log10 if log_x else float
    right = _right(series)
    low_x, high_x = _range([scale(x) for x, _ in points])
    low_y, high_y = _range([end for name, line in series.items() for end in _ends(line, (bars or {}).get(name))])

    height = max(_HEIGHT, _legend_height(len(series)))
    base = height - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (scale(x) - low_x) / (high_x - low_x) * (right - _LEFT)
        return across, base - (y - low_y) / (high_y - low_y) * (base - _TOP)

    xs = [x for x, _ in points]
    parts = [*_opening(title, height), *_axes(right, base, f"{min(xs):.4g}", f"{x_label} {max(xs):.4g}", low_y, high_y)]
    for index, (name, line) in enumerate(series.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        path = " ".join(f"{across:.1f},{down:.1f}" for across, down in (place(x, y) for x, y in line))
        dashes = _DASHES[index // len(_COLOURS) % len(_DASHES)]
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6"{dashes} points="{path}"/>')
        if len(line) == 1 or bars is not None:
            parts += [_dot(*place(x, y), colour) for x, y in line]
        for (x, y), (up, down_by) in zip(line, (bars or {}).get(name, ()), strict=False):
            parts.append(_bar(place(x, y + up), place(x, y - down_by), colour))
        parts += _legend(index, name, right)
    return "".join([*parts, "</svg>"])


def heat_map(title: str, names: Sequence[str], values: np.ndarray) -> str:
    """Return an SVG of a square table of values of 0 or more: the greatest darkest, each with its number in percent.

    A sentence where there are no names; a cell whose value is not finite stays blank and says so.

    Args:
        title: of the picture.
        names: of rows and columns.
        values: `[names, names]`.
    """
    if not names:
        return _no_chart(title)
    cell, margin = 44, 24 + 7 * max(len(name) for name in names)
    size = margin + cell * len(names) + 8
    greatest = max((float(value) for value in values.flat if math.isfinite(value)), default=0.0)
    parts = [f'<svg viewBox="0 0 {size} {size}" role="img" aria-label="{html.escape(title)}">']
    for index, name in enumerate(names):
        middle, label = margin + cell * index + cell / 2, html.escape(name)
        parts.append(f'<text x="{margin - 8}" y="{middle + 4:.0f}" text-anchor="end">{label}</text>')
        turned = f"rotate(-90 {middle + 4:.0f} {margin - 8})"
        parts.append(f'<text x="{middle + 4:.0f}" y="{margin - 8}" transform="{turned}">{label}</text>')
        parts += [_cell(margin, cell, index, column, values[index, column], greatest) for column in range(len(names))]
    return "".join([*parts, "</svg>"])


def attention_map(title: str, names: Sequence[str], shares: np.ndarray) -> str:
    """Return the heat map of how much task tokens attend to each other, `[names, names]`, and how to read it."""
    note = (
        "Row: the task whose texts are read, and whose token attends. Column: the task whose token is attended to. Share of the "
        "attention in the last layer, mean over heads and texts; the rest goes to the words."
    )
    return f'{heat_map(title, names, shares)}<p class="note">{note}</p>'


def _cell(margin: int, cell: int, row: int, column: int, value: float, greatest: float) -> str:
    left, top = margin + cell * column, margin + cell * row
    return (
        f'<rect x="{left}" y="{top}" width="{cell - 2}" height="{cell - 2}" fill="{_COLOURS[0]}" '
        f'fill-opacity="{_opacity(value, greatest):.3f}"/>'
        f'<text x="{left + cell / 2 - 1:.0f}" y="{top + cell / 2 + 4:.0f}" text-anchor="middle">{100 * float(value):.1f}</text>'
    )


def _opacity(value: float, greatest: float) -> float:
    return 0.8 * max(float(value), 0.0) / greatest if math.isfinite(value) and greatest > 0 else 0.0


def dot_chart(title: str, rows: Mapping[str, Mapping[str, tuple[float, float]]]) -> str:
    """Return an SVG with a row for each name, and in it a dot and a bar for each series: (value, what it varies by).

    Values that are not finite are left out; a variation that is not finite gets no bar.
    """
    rows = {
        row: {
            name: (_clipped(value), _clipped(by) if math.isfinite(by) else 0.0)
            for name, (value, by) in found.items()
            if math.isfinite(value)
        }
        for row, found in rows.items()
    }
    values = [end for row in rows.values() for value, by in row.values() for end in (value - by, value + by)]
    if not values:
        return _no_chart(title)
    low, high = _range(values)
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    step = 12 * len(names) + 10
    height = max(_TOP + step * len(rows) + _BOTTOM, _legend_height(len(names)))
    left, right, base = 2 * _LEFT, _right(names), height - _BOTTOM
    parts = _opening(title, height)
    parts += [
        f'<line class="axis" x1="{left}" y1="{base}" x2="{right}" y2="{base}"/>',
        f'<text x="{left}" y="{height - 8}">{low:.4g}</text>',
        f'<text x="{right}" y="{height - 8}" text-anchor="end">{high:.4g}</text>',
    ]

    def across(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    for place, (row, found) in enumerate(rows.items()):
        top = _TOP + step * place + 10
        parts.append(f'<text x="{left - 6}" y="{top + step / 2 - 6:.1f}" text-anchor="end">{html.escape(row)}</text>')
        for index, name in enumerate(names):
            if name in found:
                (value, by), colour, down = found[name], _COLOURS[index % len(_COLOURS)], top + 12 * index
                parts.append(_bar((across(value - by), down), (across(value + by), down), colour))
                parts.append(_dot(across(value), down, colour))
    for index, name in enumerate(names):
        parts += _legend(index, name, right)
    return "".join([*parts, "</svg>"])


def _ends(line: Series, reach: Series | None) -> list[float]:
    bars = reach or [(0.0, 0.0)] * len(line)
    return [end for (_, y), (up, down) in zip(line, bars, strict=True) for end in (y + up, y - down)]


def _opening(title: str, height: float = _HEIGHT) -> list[str]:
    return [
        f'<svg viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{html.escape(title)}">',
        f'<text x="{_LEFT}" y="16">{html.escape(title)}</text>',
    ]


def _dot(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'


def _bar(start: tuple[float, float], end: tuple[float, float], colour: str) -> str:
    (x1, y1), (x2, y2) = start, end
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _right(names: Iterable[str]) -> float:
    """Return where the chart ends and its legend begins."""
    return _WIDTH - max(150, 32 + round(_CHARACTER * max(map(len, names))))


def _legend_height(names: int) -> int:
    """Return how high a chart must be for a legend of so many names."""
    return _TOP + 15 * names + _BOTTOM


def _legend(index: int, name: str, right: float) -> list[str]:
    down, colour = _TOP + 12 + 15 * index, _COLOURS[index % len(_COLOURS)]
    dashes = _DASHES[index // len(_COLOURS) % len(_DASHES)]
    if dashes:
        mark = (
            f'<line x1="{right + 4:g}" y1="{down - 4}" x2="{right + 24:g}" y2="{down - 4}" stroke="{colour}"{dashes}/>'
        )
    else:
        mark = f'<rect x="{right + 12:g}" y="{down - 8}" width="10" height="10" fill="{colour}"/>'
    return [mark, f'<text x="{right + 28:g}" y="{down}">{html.escape(name)}</text>']


def _range(values: list[float]) -> tuple[float, float]:
    """Return the ends of an axis for finite values, the first below the second; a constant is in the middle of it."""
    low, high = min(values), max(values)
    margin = 0.0 if high > low else max(0.5, _MARGIN * abs(low))
    return low - margin, high + margin


def _is_drawn(x: float, y: float) -> bool:
    return math.isfinite(x) and math.isfinite(y)


def _clipped(value: float) -> float:
    return min(max(value, -_LARGEST), _LARGEST)


def _reach(bar: tuple[float, float]) -> tuple[float, float]:
    """Return how far a bar is drawn up and down: not at all where that is not finite."""
    up, down = (_clipped(by) if math.isfinite(by) else 0.0 for by in bar)
    return up, down


def _no_chart(title: str) -> str:
    return f'<p class="note">{html.escape(title)}: nothing was recorded.</p>'


def _axes(right: float, base: float, low_x: str, high_x: str, low_y: float, high_y: float) -> list[str]:
    return [
        f'<line class="axis" x1="{_LEFT}" y1="{base}" x2="{right}" y2="{base}"/>',
        f'<line class="axis" x1="{_LEFT}" y1="{_TOP}" x2="{_LEFT}" y2="{base}"/>',
        f'<text x="{_LEFT}" y="{base + 20:g}">{html.escape(low_x)}</text>',
        f'<text x="{right}" y="{base + 20:g}" text-anchor="end">{html.escape(high_x)}</text>',
        f'<text x="{_LEFT - 6}" y="{base}" text-anchor="end">{low_y:.3g}</text>',
        f'<text x="{_LEFT - 6}" y="{_TOP + 8}" text-anchor="end">{high_y:.3g}</text>',
    ]
