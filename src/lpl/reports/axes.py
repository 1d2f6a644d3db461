"""Axes of the page's charts: limits, ticks and the map from data to the drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lpl.reports.wording import compact, power_of_ten

Scale = Literal["linear", "log"]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """One axis: what it measures and which values it spans, `low` < `high`, both positive on a log scale."""

    label: str
    low: float
    high: float
    scale: Scale = "linear"

    def fractions(self, values: Values) -> Values:
        """Positions along the axis, 0 at `low` and 1 at `high`."""
        if self.scale == "linear":
            return (values - self.low) / (self.high - self.low)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(values / self.low) / math.log(self.high / self.low)

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """About `count` round values within the axis, each with its text."""
        values = _log_ticks(self.low, self.high, count) if self.scale == "log" else _round_ticks(self, count)
        return [(value, _tick_text(value, values, self.scale)) for value in values]


def spanning(
    label: str,
    values: Sequence[Values],
    scale: Scale = "linear",
    include: Sequence[float] = (),
    floor: float | None = None,
    margin: float = 0.04,
) -> Axis:
    """An axis over all finite values and those in `include`, with a margin at both ends.

    Args:
        label: what the axis measures, with its unit.
        values: arrays of any shape; on a log scale only their positive values count.
        scale: linear or log.
        include: values that the axis shows whatever the data, such as a guide line's.
        floor: where the axis starts if no value lies below it, such as 0 for a share.
        margin: share of the span added at each end.
    """
    pooled = np.concatenate([*(np.ravel(array) for array in values), np.asarray(include, dtype=np.float64)])
    pooled = pooled[np.isfinite(pooled) & ((pooled > 0) | (scale == "linear"))]
    if pooled.size == 0:
        pooled = np.array([0.1, 1.0]) if scale == "log" else np.array([0.0, 1.0])
    least, most = float(pooled.min()), float(pooled.max())
    if floor is not None and floor <= least:
        return Axis(label, floor, _widened(floor, most, scale, margin)[1], scale)
    low, high = _widened(least, most, scale, margin)
    return Axis(label, low, high, scale)


def _widened(low: float, high: float, scale: Scale, margin: float) -> tuple[float, float]:
    if scale == "log":
        span = math.log(high / low)
        step = math.exp(margin * span) if span > 1e-9 else 1.5
        return low / step, high * step
    span = high - low
    step = margin * span if span > 1e-12 * max(abs(high), 1e-300) else 0.1 * abs(high) or 1.0
    return low - step, high + step


def _round_ticks(axis: Axis, count: int) -> list[float]:
    locator = MaxNLocator(nbins=count, steps=[1, 2, 2.5, 5, 10])
    tolerance = 1e-9 * (axis.high - axis.low)
    found = (float(value) for value in locator.tick_values(axis.low, axis.high))
    return [value for value in found if axis.low - tolerance <= value <= axis.high + tolerance]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    """1, 2 and 5 in each decade, or 1 and 3, or whole decades: what gives about `count`; else round values."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**exponent for exponent in exponents for digit in digits]
        inside = [value for value in ticks if low <= value <= high]
        if 3 <= len(inside) <= count + 1:
            return inside
    if len(inside) > count:
        return inside[:: math.ceil(len(inside) / count)]
    return _round_ticks(Axis("", low, high), count)


def _tick_text(value: float, ticks: Sequence[float], scale: Scale) -> str:
    if abs(value) < 1e-9 * max(abs(tick) for tick in ticks):
        return "0"
    exponent = round(math.log10(abs(value)))
    decade = scale == "log" and math.isclose(value, 10.0**exponent, rel_tol=1e-6)
    if decade and (max(ticks) >= 1e4 or min(ticks) <= 1e-3):
        return power_of_ten(exponent)
    return compact(value, None if scale == "log" else max(map(abs, ticks)))
