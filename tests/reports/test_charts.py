from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np

from lpl.reports.axes import Axis
from lpl.reports.charts import BOTTOM, HEIGHT, LEFT, MAX_POINTS, MAX_RAW_POINTS, RIGHT, TOP, WIDTH, Chart, Line, colours


def chart(*lines: Line) -> Chart:
    return Chart("Loss & <more>", lines, Axis("step", 0.0, 10.0), Axis("loss", 0.0, 2.0), guide=1.0)


def drawn(made: Chart, kind: str) -> list[list[tuple[float, float]]]:
    """The strokes of every path of a class, as points of the drawing."""
    root = ElementTree.fromstring(made.svg)
    paths = [element for element in root.iter("path") if kind in element.get("class").split()]
    strokes = [stroke for path in paths for stroke in path.get("d").split("M") if stroke]
    return [[tuple(map(float, point.split())) for point in stroke.split("L")] for stroke in strokes]


def test_corners_of_the_data_are_corners_of_the_frame():
    line = Line("a", "run-0", np.array([0.0, 10.0]), np.array([0.0, 2.0]))
    assert drawn(chart(line), "line") == [[(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, TOP)]]


def test_gaps_lift_the_pen():
    y = np.array([1.0, 1.0, np.nan, 1.0, np.inf, 1.0, 1.0])
    strokes = drawn(chart(Line("a", "run-0", np.arange(7.0), y)), "line")
    assert [len(stroke) for stroke in strokes] == [2, 1, 2]


def test_a_single_point_is_a_dot():
    svg = chart(Line("a", "run-2", np.array([5.0]), np.array([1.0]))).svg
    (dot,) = ElementTree.fromstring(svg).iter("circle")
    assert (dot.get("class"), float(dot.get("cx"))) == ("dot run-2", (LEFT + WIDTH - RIGHT) / 2)


def test_long_curves_are_thinned_but_keep_their_spikes():
    x = np.linspace(0, 10, 20_000)
    raw = np.ones_like(x)
    raw[12_345], raw[777] = 1.9, 0.1
    made = chart(Line("a", "run-0", x, np.ones_like(x), raw=raw))
    (faint,), (strong,) = drawn(made, "raw"), drawn(made, "line")
    assert len(faint) <= MAX_RAW_POINTS
    assert len(strong) <= MAX_POINTS
    heights = [HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM) / 2 for share in (1.9, 0.1)]
    np.testing.assert_allclose([min(y for _, y in faint), max(y for _, y in faint)], heights, atol=0.06)


def test_words_are_escaped_and_spoken():
    made = chart(Line('<script>"x"</script>', "run-0", np.array([0.0, 1.0]), np.array([0.5, 0.25])))
    assert "<script" not in made.svg
    spoken = ElementTree.fromstring(made.svg).get("aria-label")
    assert spoken == 'Loss & <more>. <script>"x"</script>: from 0.5 to 0.25'


def test_colours_come_from_the_page_alone():
    svg = chart(Line("a", "data", np.array([0.0, 1.0]), np.array([0.5, 0.25]), dashed=True)).svg
    assert not re.search(r"#[0-9a-f]{3,6}|rgb\(|fill=|stroke=", svg)
    assert 'class="line data dashed"' in svg


def test_readout_holds_the_values_of_the_line():
    made = chart(Line("a", "run-0", np.array([0.0, 5.0, 10.0]), np.array([1.23456, np.nan, 2.0])))
    (line,) = made.readout["lines"]
    assert (line["x"], line["y"]) == ([0.0, 5.0, 10.0], [1.235, None, 2.0])
    assert made.readout["frame"] == [LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM]


def test_steps_run_from_the_first_colour_to_the_last():
    assert colours("step", 3) == ["step-0", "step-2", "step-5"]
    assert colours("step", 1) == ["step-0"]
    assert colours("run", 7)[6] == "run-0"
