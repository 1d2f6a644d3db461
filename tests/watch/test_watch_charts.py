from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from rich.text import Text

from lpl.watch.charts import Limits, LineChart, limits_of, smoothed, sparkline
from lpl.watch.thumbnails import Thumbnails, can_show


def lines_of(renderable, width=60, colours=None):
    console = Console(width=width, record=True, file=io.StringIO(), color_system=colours, force_terminal=True)
    console.print(renderable)
    return console.export_text(clear=False, styles=colours is not None).splitlines()


def dots_of(lines, margin):
    """The chart's dots as booleans (rows, columns): bit k of a braille character is its k-th dot."""
    order = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1)]
    cells = [line[margin:] for line in lines]
    dots = np.zeros((4 * len(cells), 2 * max(map(len, cells))), dtype=bool)
    for row, line in enumerate(cells):
        for column, character in enumerate(line):
            bits = 0 if character == " " else ord(character) - 0x2800
            for bit, (down, right) in enumerate(order):
                dots[4 * row + down, 2 * column + right] = bits >> bit & 1
    return dots


def test_a_straight_line_is_drawn_where_it_belongs():
    steps = np.arange(1.0, 101.0)
    lines = lines_of(LineChart(steps, steps, Limits(1, 100, 1, 100), height=5), width=44)
    assert lines[0].startswith("100┤")
    assert lines[4].startswith("  1┤")
    assert lines[5].split() == ["1", "step", "100"]
    dots = dots_of(lines[:5], margin=4)
    assert dots.shape == (20, 80)
    columns = np.arange(80)
    heights = [np.flatnonzero(dots[:, column]).mean() for column in columns]
    expected = 19 - 19 * columns / 79  # from the lowest row at the left to the highest at the right
    assert np.abs(np.array(heights) - expected).max() < 1.5


def test_raw_values_are_drawn_behind_the_smoothed_curve():
    rng = np.random.default_rng(0)
    steps, values = np.arange(400.0), rng.normal(size=400)
    limits = Limits(0, 399, -4, 4)
    chart = LineChart(steps, values, limits, height=8)
    dots = dots_of(lines_of(chart, width=45)[:8], margin=3)
    rows = limits.rows(values, 32)
    assert dots[rows, limits.columns(steps, dots.shape[1])].all()
    _, curve = smoothed(steps, values)
    assert curve.std() < 0.5 * values.std()


def test_limits_hold_the_curves_and_leave_out_single_spikes():
    steps = np.arange(1000.0)
    values = 1 + 0.1 * np.sin(steps / 50)
    values[500] = 100.0
    limits = limits_of([(steps, values), (steps + 500, values + 1)])
    assert (limits.first, limits.last) == (0, 1499)
    assert limits.low == pytest.approx(0.9, abs=0.05)
    assert limits.high < 10


def test_values_beyond_the_limits_are_put_at_the_edge():
    limits = Limits(0, 1, 0, 1)
    assert limits.rows(np.array([-5.0, 0.0, 1.0, 7.0]), 8).tolist() == [7, 7, 0, 0]


def test_wide_ranges_are_logarithmic():
    steps = np.arange(100.0)
    limits = limits_of([(steps, 10 ** np.linspace(0, 4, 100))])
    assert limits.logarithmic
    rows = limits.rows(np.array([1e1, 1e2, 1e3]), 400)
    assert np.diff(rows) == pytest.approx(rows[1] - rows[0], abs=2)


def test_limits_of_nothing_and_of_a_constant():
    steps = np.arange(3.0)
    assert limits_of([]) is None
    assert limits_of([(steps, np.full(3, np.nan))]) is None
    constant = limits_of([(steps, np.full(3, 5.0))])
    assert constant.low < 5.0 < constant.high
    zero = limits_of([(steps, np.zeros(3))])
    assert zero.low < 0 < zero.high


def test_long_curves_are_averaged_not_cut():
    steps = np.arange(100_000.0)
    thinned, values = smoothed(steps, 2 * steps)
    assert thinned.size <= 1000
    assert values == pytest.approx(2 * thinned, rel=0.02, abs=4000)


def test_sparkline_goes_from_the_lowest_to_the_highest():
    assert sparkline(np.arange(8.0), 8) == "▁▂▃▄▅▆▇█"
    assert sparkline(np.array([np.nan, 1.0, 1.0]), 8) == "▄▄"
    assert sparkline(np.repeat([0.0, 1.0], 50), 2) == "▁█"
    assert sparkline(np.full(3, np.nan), 8) == ""


@pytest.fixture
def quadrants(tmp_path):
    """Four colours, a quarter of the picture each."""
    image = Image.new("RGB", (20, 20), (255, 0, 0))
    image.paste((0, 255, 0), (10, 0, 20, 10))
    image.paste((0, 0, 255), (0, 10, 10, 20))
    image.paste((255, 255, 255), (10, 10, 20, 20))
    path = tmp_path / "000000.png"
    image.save(path)
    return path


def test_a_picture_is_two_pixels_a_character(quadrants):
    lines = lines_of(Thumbnails([quadrants], height=4), colours="truecolor")
    first, second = (Text.from_ansi(line) for line in lines)
    assert first.plain == second.plain == "▀▀▀▀"
    styles = [[span.style for span in line.spans] for line in (first, second)]
    colours = [[(style.color.triplet, style.bgcolor.triplet) for style in row] for row in styles]
    red, green, blue, white = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
    assert colours[0][0] == (red, red)
    assert colours[0][-1] == (green, green)
    assert colours[1][0] == (blue, blue)
    assert colours[1][-1] == (white, white)


def test_as_many_pictures_as_fit_and_none_that_is_damaged(quadrants, tmp_path):
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(quadrants.read_bytes()[:40])
    lines = lines_of(Thumbnails([damaged, *[quadrants] * 9, tmp_path / "gone.png"], height=10), width=42)
    assert len(lines) == 5
    assert {line.rstrip().count("▀") for line in lines} == {30}  # three of 10, and a gap between them
    assert lines_of(Thumbnails([damaged], height=10)) == []


@pytest.mark.parametrize(("colours", "shown"), [("truecolor", True), ("256", True), ("standard", False), (None, False)])
def test_pictures_need_colours(colours, shown):
    assert can_show(Console(color_system=colours, force_terminal=True)) is shown
