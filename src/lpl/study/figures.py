"""A study's plots: measures over iterations, or over a sweep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ..reports.axes import spanning
from ..reports.charts import Chart, Line, colours
from .columns import Column, columns_of
from .config import PRETRAINING
from .recipes import describe_values
from .statistics import Summary
from .tables import Row, StudyTable

COLOURS = 6  # that the page tells lines apart by; further lines are dashed


@dataclass(frozen=True)
class _Curve:
    """Rows of one arm along an axis."""

    label: str
    axis: str
    places: list[float]
    rows: list[Row]


def study_charts(table: StudyTable) -> list[Chart]:
    """A chart for each column that is to be plotted, over each axis; none where a study has no axis."""
    curves, flat = _curves(table, table.study.config.iterations is not None)
    axes = dict.fromkeys(curve.axis for curve in curves)
    drawn = [
        _chart(table, column, axis, [curve for curve in curves if curve.axis == axis], flat)
        for axis in axes
        for column in _plotted(table)
    ]
    return [chart for chart in drawn if chart is not None]


def _plotted(table: StudyTable) -> list[Column]:
    """The columns that a study asks to be plotted, in the table or not; by default those of the table that judge."""
    if table.study.config.plots:
        return columns_of(table.study.config.plots, [entry for row in table.rows for entry in row.evidence])
    return [column for column in table.columns if column.better is not None and not column.relative]


def _curves(table: StudyTable, over_iterations: bool) -> tuple[list[_Curve], list[Row]]:
    """Curves along the axis, and rows that are not part of one, which are drawn as level lines.

    Of an arm that is swept over numbers, a value that is none, such as no threshold, has no place on the axis.
    """
    curves: list[_Curve] = []
    flat: list[Row] = []
    for arm, group in groupby(table.rows, key=lambda row: row.arm):
        rows = list(group)
        places = [_place(row, over_iterations) for row in rows]
        if arm == PRETRAINING or len(rows) == 1:
            flat += rows if len(rows) == 1 else []
            continue
        label = table.study.config.arms[arm].label or arm
        lines: dict[str, _Curve] = {}
        for row, place in zip(rows, places, strict=True):
            if place is None:
                continue
            others = describe_values(row.values if over_iterations else row.values[1:])
            name = f"{label}, {others}" if others else label
            axis = "Iterations" if over_iterations else _axis_name(row)
            curve = lines.setdefault(name, _Curve(name, axis, [], []))
            curve.places.append(place)
            curve.rows.append(row)
        curves += lines.values()
        if lines:
            flat += [row for row, place in zip(rows, places, strict=True) if place is None]
    return curves, flat


def _place(row: Row, over_iterations: bool) -> float | None:
    """Where a row lies along the axis, None where its value is not a number."""
    if over_iterations:
        return None if row.iteration is None else float(row.iteration)
    value = row.values[0][1] if row.values else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _axis_name(row: Row) -> str:
    key = row.values[0][0]
    return key.rpartition(".")[2].replace("_", " ").capitalize()


def _chart(table: StudyTable, column: Column, axis: str, curves: Sequence[_Curve], flat: Sequence[Row]) -> Chart | None:
    lines = []
    palette = colours("run", len(curves) + len(flat))
    for index, curve in enumerate(curves):
        lines.append(Line(curve.label, palette[index], *_sorted(curve, column), dashed=index >= COLOURS))
    everywhere = np.array(sorted({place for curve in curves for place in curve.places}))
    for row, colour in zip(flat, palette[len(curves) :], strict=True):
        level = _mean(row, column)
        lines.append(Line(row.label, colour, everywhere[[0, -1]], np.array([level, level]), dashed=True))
    if not any(np.isfinite(line.y).any() for line in lines):
        return None
    y = spanning(f"{column.heading} {column.arrow}".rstrip(), [line.y for line in lines])
    start = _ema_start(table)
    if start is not None:
        lines.append(Line("the average of weights begins", "data", np.array([start, start]), np.array([y.low, y.high])))
    return Chart(
        title=column.heading,
        lines=tuple(lines),
        x=spanning(axis, [line.x for line in lines]),
        y=y,
        caption=_caption(table, column),
        legend=True,
    )


def _sorted(curve: _Curve, column: Column) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(curve.places)
    means = np.array([_mean(row, column) for row in curve.rows])
    return np.array(curve.places)[order], means[order]


def _mean(row: Row, column: Column) -> float:
    values = tuple(row.of(column).values())
    return Summary(values).mean if values else math.nan


def _ema_start(table: StudyTable) -> float | None:
    """Where post-training's average begins, where that is within the plot: before it, raw weights are sampled."""
    if table.study.config.iterations is None:
        return None
    starts = {entry.point.recipe.training.ema_start for row in table.rows for entry in row.evidence if row.iteration}
    starts -= {0}
    return float(min(starts)) if starts else None


def _caption(table: StudyTable, column: Column) -> str:
    over = f"Mean over {len(table.seeds)} seeds; spreads are in the table." if len(table.seeds) > 1 else "One seed."
    return f"{column.description} {over}".strip()
