"""Line charts of braille dots, two to a character across and four down, for rich."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style

from ..reports.curves import smooth
from ..reports.wording import compact

Values = NDArray[np.float64]

ACROSS, DOWN = 2, 4  # dots of a character
MOST_POINTS = 1000  # of a smoothed curve
_BRAILLE = 0x2800
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
_BARS = "▁▂▃▄▅▆▇█"
LOGARITHMIC_FROM = 30  # times the smallest value that the largest must be for a logarithmic axis
RAW_STYLE, AXIS_STYLE = Style(color="bright_black"), Style(dim=True)


@dataclass(frozen=True)
class Limits:
    """What a chart spans; shared by the charts of several runs so that they compare."""

    first: float
    last: float
    low: float
    high: float
    logarithmic: bool = False

    def columns(self, steps: Values, count: int) -> NDArray[np.int64]:
        """The column, 0 … count − 1, of each step."""
        return _cells((steps - self.first) / max(self.last - self.first, 1e-300), count)

    def rows(self, values: Values, count: int) -> NDArray[np.int64]:
        """The row, 0 at the top, of each value; those beyond the limits are put at the edge."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, values = math.log(low), math.log(high), np.log(np.maximum(values, self.low))
        return count - 1 - _cells((values - low) / (high - low), count)


def limits_of(curves: Sequence[tuple[Values, Values]]) -> Limits | None:
    """Limits that hold every curve: the smoothed values whole, of the raw ones all but the outermost hundredths.

    Args:
        curves: (steps, values) of each, both (N,); gaps are NaN.

    Returns:
        None where no curve has a value.
    """
    drawn = [(steps[kept], values[kept]) for steps, values in curves if (kept := np.isfinite(values)).any()]
    if not drawn:
        return None
    spans = [np.concatenate([smoothed(*curve)[1], np.percentile(curve[1], [1, 99])]) for curve in drawn]
    low, high = float(min(span.min() for span in spans)), float(max(span.max() for span in spans))
    logarithmic = low > 0 and high > LOGARITHMIC_FROM * low
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):
        low, high = low - 0.05 * abs(low or 1.0), high + 0.05 * abs(high or 1.0)
    first, last = min(steps[0] for steps, _ in drawn), max(steps[-1] for steps, _ in drawn)
    return Limits(float(first), float(last), low, high, logarithmic)


def smoothed(steps: Values, values: Values) -> tuple[Values, Values]:
    """The curve through (steps, values); where it has more than `MOST_POINTS` points, they are averaged first."""
    if steps.size > MOST_POINTS:
        ends = np.linspace(0, steps.size, MOST_POINTS + 1).astype(int)
        counts = np.diff(ends)
        steps, values = (np.add.reduceat(column, ends[:-1]) / counts for column in (steps, values))
    return steps, smooth(values)


class LineChart:
    """One logged column over the steps: every value in grey, smoothed in colour above, with its limits at the left.

    Args:
        steps: (N,), increasing.
        values: (N,), NaN where nothing was logged.
        limits: what the chart spans.
        height: characters from top to bottom.
        style: of the smoothed curve.
    """

    def __init__(self, steps: Values, values: Values, limits: Limits, height: int = 6, style: str = "cyan") -> None:
        kept = np.isfinite(values)
        self.steps, self.values = steps[kept], values[kept]
        self.limits = limits
        self.height = max(2, height)
        self.style = Style.parse(style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(20, options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        labels = self._labels()
        margin = max(map(len, labels))
        width = max(1, options.max_width - margin - 1)
        raw, curve = self._dots(width)
        for row in range(self.height):
            yield Segment(f"{labels[row]:>{margin}}", AXIS_STYLE)
            yield Segment("┤" if labels[row] else "│", AXIS_STYLE)
            yield from self._row(raw[row], curve[row])
            yield Segment.line()
        yield Segment(self._footer(margin, width), AXIS_STYLE)
        yield Segment.line()

    def _labels(self) -> list[str]:
        """The limits beside the first and the last row."""
        inner = [""] * (self.height - 2)
        return [significant(self.limits.high), *inner, significant(self.limits.low)]

    def _footer(self, margin: int, width: int) -> str:
        first, last = f"{self.limits.first:,.0f}", f"{self.limits.last:,.0f}"
        scale = "step, log scale" if self.limits.logarithmic else "step"
        inside = f"{first} {scale:^{max(0, width - len(first) - len(last) - 2)}} {last}"
        return (" " * (margin + 1) + inside)[: margin + 1 + width]

    def _dots(self, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The characters' dots, (height, width), of the raw values and of the smoothed curve."""
        size = (self.height * DOWN, width * ACROSS)
        raw, curve = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
        raw[self.limits.rows(self.values, size[0]), self.limits.columns(self.steps, size[1])] = True
        steps, values = smoothed(self.steps, self.values)
        _join(curve, self.limits.columns(steps, size[1]), self.limits.rows(values, size[0]))
        return _characters(raw), _characters(curve)

    def _row(self, raw: NDArray[np.int64], curve: NDArray[np.int64]) -> Iterator[Segment]:
        """A character has one colour: where the curve passes, the raw values' dots take on its colour."""
        for behind, dots in zip(raw.tolist(), curve.tolist(), strict=True):
            if dots:
                yield Segment(chr(_BRAILLE + (dots | behind)), self.style)
            else:
                yield Segment(chr(_BRAILLE + behind) if behind else " ", RAW_STYLE)


def sparkline(values: Values, width: int) -> str:
    """Values as bars of a character each, from the lowest to the highest of them; gaps are left out.

    Args:
        values: (N,).
        width: most characters; more values than that are averaged.
    """
    values = values[np.isfinite(values)]
    if not values.size:
        return ""
    parts = np.array([part.mean() for part in np.array_split(values, min(width, values.size))])
    low, high = parts.min(), parts.max()
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return _BARS[3] * parts.size
    return "".join(_BARS[index] for index in _cells((parts - low) / (high - low), len(_BARS)))


def significant(value: float) -> str:
    """A number of three significant digits, as short as it gets."""
    return compact(float(f"{value:.3g}"))


def _cells(shares: Values, count: int) -> NDArray[np.int64]:
    """Which of `count` cells each share of the way from 0 to 1 falls into."""
    return np.clip(np.nan_to_num(shares) * count, 0, count - 1).astype(np.int64)


def _join(dots: NDArray[np.bool_], columns: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
    """Sets the dots of a line through points of increasing columns."""
    dots[rows, columns] = True
    for left, right, start, end in zip(columns[:-1], columns[1:], rows[:-1], rows[1:], strict=True):
        count = max(right - left, abs(end - start)) + 1
        dots[
            np.linspace(start, end, count).round().astype(int), np.linspace(left, right, count).round().astype(int)
        ] = 1


def _characters(dots: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Dots (4 h, 2 w) as the bits of braille characters (h, w)."""
    height, width = dots.shape[0] // DOWN, dots.shape[1] // ACROSS
    blocks = dots.reshape(height, DOWN, width, ACROSS)
    result: NDArray[np.int64] = (blocks * _DOTS[None, :, None, :]).sum(axis=(1, 3))
    return result
