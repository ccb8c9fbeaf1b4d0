"""Charts: every point where its value puts it, in SVG that is well-formed."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from mtdnn_tf.evaluation.charts import dot_chart, line_chart


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
