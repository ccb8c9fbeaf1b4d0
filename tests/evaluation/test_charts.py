"""Charts: every point where its value puts it, in SVG that is well-formed."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from mtdnn_tf.evaluation.charts import dot_chart, heat_map, line_chart


def _numbers(svg, tag, *names):
    return [tuple(float(node.get(name)) for name in names) for node in ElementTree.fromstring(svg).iter(tag)]


def test_a_logarithmic_axis_puts_powers_of_ten_at_equal_distances():
    svg = line_chart("a < b", {"x": [(0.1, 1.0), (1, 2.0), (10, 3.0)]}, x_label="rows", log_x=True)
    [line] = ElementTree.fromstring(svg).iter("polyline")
    across = [float(point.split(",")[0]) for point in line.get("points").split()]
    assert across[2] - across[1] == pytest.approx(across[1] - across[0], abs=0.2)
    assert "rows 10" in svg
    assert "a &lt; b" in svg


def test_bars_reach_up_and_down_from_their_points():
    svg = line_chart("t", {"x": [(1, 10.0), (2, 20.0)]}, bars={"x": [(0.0, 0.0), (5.0, 10.0)]})
    dots = _numbers(svg, "circle", "cx", "cy")
    bars = [bar for bar in _numbers(svg, "line", "x1", "y1", "x2", "y2") if bar[0] == pytest.approx(dots[1][0])]
    [(_, up, _, down)] = [bar for bar in bars if bar[0] == bar[2] and bar[1] < dots[1][1] < bar[3]]
    assert down - dots[1][1] == pytest.approx(2 * (dots[1][1] - up), abs=0.2)


def test_dots_stand_in_the_order_of_their_values():
    svg = dot_chart("t", {"rte": {"one": (60.0, 1.0), "two": (70.0, 0.0)}, "mrpc": {"two": (65.0, 2.0)}})
    (one, _), (two, _), (other, _) = _numbers(svg, "circle", "cx", "cy")
    assert one < other < two
    assert re.findall(r">(rte|mrpc|one|two)<", svg) == ["rte", "mrpc", "one", "two"]


@pytest.mark.parametrize("chart", [line_chart("t", {}), dot_chart("t", {})])
def test_nothing_to_draw_is_said(chart):
    assert "nothing was recorded" in chart


@pytest.mark.parametrize("chart", [line_chart("t", {"x": [(1.0, 2.0)]}), dot_chart("t", {"a": {"x": (1.0, 0.0)}})])
def test_one_point_is_seen(chart):
    assert len(_numbers(chart, "circle", "cx")) == 1


def test_every_name_of_a_long_legend_is_in_the_picture_and_no_two_lines_look_alike():
    svg = line_chart("t", {f"task {number}": [(1.0, number), (2.0, number)] for number in range(20)})
    height = float(ElementTree.fromstring(svg).get("viewBox").split()[3])
    downs = [float(node.get("y")) for node in ElementTree.fromstring(svg).iter("text") if "task" in (node.text or "")]
    assert len(downs) == 20
    assert max(downs) < height
    looks = [
        (line.get("stroke"), line.get("stroke-dasharray")) for line in ElementTree.fromstring(svg).iter("polyline")
    ]
    assert len(set(looks)) == 20
    assert all(
        0 <= float(point.split(",")[1]) <= height
        for line in ElementTree.fromstring(svg).iter("polyline")
        for point in line.get("points").split()
    )


NUMBERS = {
    "a loss of large scores": [2.89e17],
    "the same loss twice": [2.89e17, 2.89e17],
    "neighbours": [1.0, math.nextafter(1.0, 2.0)],
    "the smallest": [0.0, 5e-324],
    "the largest": [-1.7e308, 1.7e308],
    "one largest": [1.7e308],
    "a constant below zero": [-1e12, -1e12, -1e12],
    "a gap": [1.0, math.nan, math.inf, 2.0],
    "a large whole number": [10**300, 3],
}


@pytest.mark.parametrize("case", NUMBERS)
def test_any_numbers_are_drawn_within_the_chart(case):
    values = NUMBERS[case]
    finite = [value for value in values if math.isfinite(value)]
    charts = {
        "line": line_chart(
            "t", {"x": list(enumerate(values, 1))}, bars={"x": [(abs(v) / 2, math.nan) for v in values]}
        ),
        "dot": dot_chart("t", {f"row {index}": {"x": (value, abs(value))} for index, value in enumerate(values)}),
        "across": line_chart("t", {"x": [(value, 1.0) for value in values]}, bars={}),
    }
    for name, svg in charts.items():
        dots = _numbers(svg, "circle", "cx", "cy")
        assert len(dots) == len(finite), name
        height = float(ElementTree.fromstring(svg).get("viewBox").split()[3])
        assert all(0 <= across <= 720 and 0 <= down <= height for across, down in dots), name


def test_a_logarithmic_axis_leaves_out_what_has_no_place_on_it():
    svg = line_chart("t", {"x": [(0.0, 1.0), (-1.0, 2.0), (10.0, 3.0)]}, log_x=True)
    assert len(_numbers(svg, "circle", "cx")) == 1


@pytest.mark.parametrize(
    "chart",
    [
        line_chart("t", {"x": [(1.0, math.nan)], "y": []}),
        dot_chart("t", {"a": {"x": (math.inf, 1.0)}}),
        heat_map("t", [], np.zeros((0, 0))),
    ],
    ids=["line", "dot", "heat"],
)
def test_where_nothing_is_finite_that_is_said(chart):
    assert "nothing was recorded" in chart


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, 1e-320, 1e308])
def test_every_cell_of_a_heat_map_has_an_opacity(value):
    svg = heat_map("t", ["a", "b"], np.array([[value, 0.5], [0.25, value]]))
    opacities = [float(node.get("fill-opacity")) for node in ElementTree.fromstring(svg).iter("rect")]
    assert len(opacities) == 4
    assert all(0 <= opacity <= 0.8 for opacity in opacities)
