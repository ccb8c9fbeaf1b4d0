"""Line charts and heat maps as inline SVG: all that reports need, without a plotting library."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np

Series = list[tuple[float, float]]

# Distinguishable for most colour-blind readers on light and dark paper (after Okabe and Ito 2008).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#7f7f7f")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _LEGEND = 720, 260, 60, 28, 28, 150


def line_chart(title: str, series: Mapping[str, Series]) -> str:
    """Return an SVG with one line per series of (x, y) points; a sentence where there is nothing to draw."""
    points = [point for line in series.values() for point in line]
    if not points:
        return f'<p class="note">{html.escape(title)}: nothing was recorded.</p>'
    low_x, high_x = _range([x for x, _ in points])
    low_y, high_y = _range([y for _, y in points])

    def place(x: float, y: float) -> str:
        across = _LEFT + (x - low_x) / (high_x - low_x) * (_WIDTH - _LEFT - _LEGEND)
        down = _HEIGHT - _BOTTOM - (y - low_y) / (high_y - low_y) * (_HEIGHT - _BOTTOM - _TOP)
        return f"{across:.1f},{down:.1f}"

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}">',
        f'<text x="{_LEFT}" y="16">{html.escape(title)}</text>',
        *_axes(low_x, high_x, low_y, high_y),
    ]
    for index, (name, line) in enumerate(series.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        path = " ".join(place(x, y) for x, y in line)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{path}"/>')
        if len(line) == 1:
            x, y = place(*line[0]).split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
        down = _TOP + 12 + 15 * index
        parts.append(f'<rect x="{_WIDTH - _LEGEND + 12}" y="{down - 8}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{_WIDTH - _LEGEND + 28}" y="{down}">{html.escape(name)}</text>')
    return "".join([*parts, "</svg>"])


def heat_map(title: str, names: Sequence[str], values: np.ndarray) -> str:
    """Return an SVG of a square table of values of 0 or more: the greatest darkest, each with its number in percent.

    Args:
        title: of the picture.
        names: of rows and columns.
        values: `[names, names]`.
    """
    cell, margin = 44, 24 + 7 * max(len(name) for name in names)
    size = margin + cell * len(names) + 8
    greatest = float(values.max()) or 1.0
    parts = [f'<svg viewBox="0 0 {size} {size}" role="img" aria-label="{html.escape(title)}">']
    for index, name in enumerate(names):
        middle, label = margin + cell * index + cell / 2, html.escape(name)
        parts.append(f'<text x="{margin - 8}" y="{middle + 4:.0f}" text-anchor="end">{label}</text>')
        turned = f"rotate(-90 {middle + 4:.0f} {margin - 8})"
        parts.append(f'<text x="{middle + 4:.0f}" y="{margin - 8}" transform="{turned}">{label}</text>')
        parts += [_cell(margin, cell, index, column, values[index, column], greatest) for column in range(len(names))]
    return "".join([*parts, "</svg>"])


def _cell(margin: int, cell: int, row: int, column: int, value: float, greatest: float) -> str:
    left, top = margin + cell * column, margin + cell * row
    return (
        f'<rect x="{left}" y="{top}" width="{cell - 2}" height="{cell - 2}" fill="{_COLOURS[0]}" '
        f'fill-opacity="{0.8 * value / greatest:.3f}"/>'
        f'<text x="{left + cell / 2 - 1:.0f}" y="{top + cell / 2 + 4:.0f}" text-anchor="middle">{100 * value:.1f}</text>'
    )


def _range(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _axes(low_x: float, high_x: float, low_y: float, high_y: float) -> list[str]:
    right, base = _WIDTH - _LEGEND, _HEIGHT - _BOTTOM
    return [
        f'<line class="axis" x1="{_LEFT}" y1="{base}" x2="{right}" y2="{base}"/>',
        f'<line class="axis" x1="{_LEFT}" y1="{_TOP}" x2="{_LEFT}" y2="{base}"/>',
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}">{low_x:.4g}</text>',
        f'<text x="{right}" y="{_HEIGHT - 8}" text-anchor="end">step {high_x:.4g}</text>',
        f'<text x="{_LEFT - 6}" y="{base}" text-anchor="end">{low_y:.3g}</text>',
        f'<text x="{_LEFT - 6}" y="{_TOP + 8}" text-anchor="end">{high_y:.3g}</text>',
    ]
