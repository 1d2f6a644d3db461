"""Line charts as inline SVG whose colours are the page's, so that they follow its light and dark themes.

Built element by element with ElementTree, which escapes every text. What the pointer or the arrow keys read out is
shipped next to the drawing as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from lpl.reports.axes import Axis, Values

Indices = NDArray[np.int64]

WIDTH, HEIGHT = 360, 224  # units of the drawing; about pixels on a phone
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 10, 36  # margins that hold tick texts and the label of the x axis
MAX_RAW_POINTS = 320
MAX_POINTS = 160


@dataclass(frozen=True)
class Line:
    """One curve: `x` ascending and `y` of the same shape (N,); what is not finite is a gap."""

    label: str
    colour: str  # a colour class of the page: "run-0", "step-3", "data"
    x: Values
    y: Values
    raw: Values | None = None  # (N,): the values before smoothing, drawn faintly behind
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """A drawing with its words."""

    title: str
    lines: tuple[Line, ...]
    x: Axis
    y: Axis
    caption: str = ""
    guide: float | None = None  # a value of y marked by a thin line, such as 1 for a ratio
    mark: float | None = None  # the same for a value of x, such as a default
    legend: bool = False  # whether it names its lines, for colours that the section's legend does not explain

    @property
    def svg(self) -> Markup:
        """The drawing, for use inside HTML."""
        return Markup(ElementTree.tostring(_draw(self), encoding="unicode"))  # every text was escaped by ElementTree

    @property
    def readout(self) -> dict[str, Any]:
        """What the page's script needs to tell the values at a position."""
        return {
            "frame": [LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM],
            "x": _axis_data(self.x),
            "y": _axis_data(self.y),
            "lines": [_line_data(line) for line in self.lines],
        }

    @property
    def description(self) -> str:
        """What the drawing shows, for people who can't see it: where each line starts and ends."""
        return "; ".join(filter(None, map(_line_in_words, self.lines)))


def _draw(chart: Chart) -> ElementTree.Element:
    box = {"class": "chart", "viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": _spoken(chart)}
    svg = ElementTree.Element("svg", box)
    _draw_y_axis(svg, chart)
    _draw_x_axis(svg, chart)
    inside = {"x": LEFT, "y": TOP, "width": WIDTH - LEFT - RIGHT, "height": HEIGHT - TOP - BOTTOM}
    curves = _add(svg, "svg", {**inside, "viewBox": " ".join(map(str, inside.values()))})  # cut off at the frame
    for line in chart.lines:
        _draw_raw(curves, line, chart)
    for line in chart.lines:
        _draw_line(curves, line, chart)
    _add(svg, "g", {"class": "cursor"})
    return svg


def _draw_y_axis(svg: ElementTree.Element, chart: Chart) -> None:
    for value, text in chart.y.ticks():
        y = _down(chart.y, np.array([value]))[0]
        _add(svg, "line", {"class": "grid", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": y, "y2": y})
        _add(svg, "text", {"class": "tick", "x": LEFT - 7, "y": y + 4, "text-anchor": "end"}, text)
    if chart.guide is not None:
        y = _down(chart.y, np.array([chart.guide]))[0]
        _add(svg, "line", {"class": "guide", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": y, "y2": y})


def _draw_x_axis(svg: ElementTree.Element, chart: Chart) -> None:
    floor = HEIGHT - BOTTOM
    _add(svg, "line", {"class": "axis", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": floor, "y2": floor})
    for value, text in chart.x.ticks():
        x = _right(chart.x, np.array([value]))[0]
        _add(svg, "line", {"class": "axis", "x1": x, "x2": x, "y1": floor, "y2": floor + 4})
        _add(svg, "text", {"class": "tick", "x": x, "y": floor + 16, "text-anchor": "middle"}, text)
    if chart.mark is not None:
        x = _right(chart.x, np.array([chart.mark]))[0]
        _add(svg, "line", {"class": "guide", "x1": x, "x2": x, "y1": TOP, "y2": floor})
    middle = {"x": (LEFT + WIDTH - RIGHT) / 2, "y": HEIGHT - 4, "text-anchor": "middle"}
    _add(svg, "text", {"class": "label", **middle}, chart.x.label)


def _draw_raw(parent: ElementTree.Element, line: Line, chart: Chart) -> None:
    if line.raw is None:
        return
    keep = _extremes(line.raw, MAX_RAW_POINTS)
    _add(parent, "path", {"class": f"raw {line.colour}", "d": _path(chart, line.x[keep], line.raw[keep])})


def _draw_line(parent: ElementTree.Element, line: Line, chart: Chart) -> None:
    keep = _evenly(line.x.size, MAX_POINTS)
    x, y = line.x[keep], line.y[keep]
    dash = " dashed" if line.dashed else ""
    _add(parent, "path", {"class": f"line {line.colour}{dash}", "d": _path(chart, x, y)})
    if np.isfinite(y).sum() == 1:  # a path of one point draws nothing
        only = np.isfinite(y)
        centre = {"cx": _right(chart.x, x[only])[0], "cy": _down(chart.y, y[only])[0], "r": 3}
        _add(parent, "circle", {"class": f"dot {line.colour}", **centre})


def _path(chart: Chart, x: Values, y: Values) -> str:
    """SVG path commands, with a new start after each gap."""
    across, down = _right(chart.x, x), np.clip(_down(chart.y, y), -HEIGHT, 2 * HEIGHT)
    finite = np.isfinite(across) & np.isfinite(y)
    commands, pen_down = [], False
    for column, row, drawn in zip(across, down, finite, strict=True):
        if drawn:
            commands.append(f"{'L' if pen_down else 'M'}{column:.1f} {row:.1f}")
        pen_down = bool(drawn)
    return "".join(commands)


def _extremes(values: Values, limit: int) -> Indices:
    """Indices of the least and greatest value in each of limit/2 buckets: thinned out, the noise keeps its width."""
    if values.size <= limit:
        return np.arange(values.size)
    filled = np.where(np.isfinite(values), values, np.nan)
    kept: set[int] = set()
    for bucket in np.array_split(np.arange(values.size), limit // 2):
        if np.isfinite(filled[bucket]).any():
            kept |= {int(bucket[np.nanargmin(filled[bucket])]), int(bucket[np.nanargmax(filled[bucket])])}
    return np.array(sorted(kept), dtype=np.int64)


def _evenly(size: int, limit: int) -> Indices:
    return np.unique(np.linspace(0, size - 1, min(size, limit)).round().astype(np.int64))


def _right(axis: Axis, values: Values) -> Values:
    return LEFT + axis.fractions(values) * (WIDTH - LEFT - RIGHT)


def _down(axis: Axis, values: Values) -> Values:
    return HEIGHT - BOTTOM - axis.fractions(values) * (HEIGHT - TOP - BOTTOM)


def _add(
    parent: ElementTree.Element, tag: str, attributes: Mapping[str, object], text: str | None = None
) -> ElementTree.Element:
    written = {key: f"{value:.1f}" if isinstance(value, float) else str(value) for key, value in attributes.items()}
    child = ElementTree.SubElement(parent, tag, written)
    child.text = text
    return child


def _axis_data(axis: Axis) -> dict[str, Any]:
    return {"label": axis.label, "scale": axis.scale, "low": axis.low, "high": axis.high}


def _line_data(line: Line) -> dict[str, Any]:
    keep = _evenly(line.x.size, MAX_POINTS)
    return {
        "label": line.label,
        "colour": line.colour,
        "x": [_short(value, 7) for value in line.x[keep]],
        "y": [_short(value, 4) for value in line.y[keep]],
    }


def _short(value: float, digits: int) -> float | None:
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None


def _spoken(chart: Chart) -> str:
    return f"{chart.title}. {chart.description}"


def _line_in_words(line: Line) -> str:
    finite = line.y[np.isfinite(line.y)]
    return f"{line.label}: from {finite[0]:.3g} to {finite[-1]:.3g}" if finite.size else ""


def colours(kind: Literal["run", "step"], count: int) -> Sequence[str]:
    """Colour classes: `run` tells things apart, `step` orders them from first to last."""
    if kind == "run":
        return [f"run-{index % 6}" for index in range(count)]
    return [f"step-{round(5 * index / max(count - 1, 1))}" for index in range(count)]
