"""A study's plots: measures over iterations, or over a sweep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ..reports.axes import spanning
from ..reports.charts import Chart, Line, colours
from .columns import Column
from .config import PRETRAINING
from .recipes import describe_values
from .statistics import Summary
from .tables import Row, StudyTable

MAX_PLOTS = 6


@dataclass(frozen=True)
class _Curve:
    """Rows of one arm along the axis."""

    label: str
    places: list[float]
    rows: list[Row]


def study_charts(table: StudyTable) -> list[Chart]:
    """A chart for each column that is to be plotted; none where a study has no axis."""
    config = table.study.config
    over_iterations = config.iterations is not None
    curves, flat = _curves(table, over_iterations)
    if not curves:
        return []
    axis = "Iterations" if over_iterations else _axis_name(curves)
    names = config.plots or tuple(
        column.name for column in table.columns if column.better is not None and not column.relative
    )
    chosen = [column for column in table.columns if column.name in names][:MAX_PLOTS]
    return [chart for column in chosen if (chart := _chart(table, column, axis, curves, flat)) is not None]


def _curves(table: StudyTable, over_iterations: bool) -> tuple[list[_Curve], list[Row]]:
    """Curves along the axis, and rows that are not part of one, which are drawn as level lines."""
    curves: list[_Curve] = []
    flat: list[Row] = []
    for arm, group in groupby(table.rows, key=lambda row: row.arm):
        rows = list(group)
        places = [_place(row, over_iterations) for row in rows]
        if arm == PRETRAINING or len(rows) == 1 or any(place is None for place in places):
            flat += rows if len(rows) == 1 else []
            continue
        label = table.study.config.arms[arm].label or arm
        lines: dict[str, _Curve] = {}
        for row, place in zip(rows, places, strict=True):
            others = "" if over_iterations else describe_values(row.values[1:])
            name = f"{label}, {others}" if others else label
            curve = lines.setdefault(name, _Curve(name, [], []))
            curve.places.append(float(place or 0))
            curve.rows.append(row)
        curves += lines.values()
    return curves, flat


def _place(row: Row, over_iterations: bool) -> float | None:
    """Where a row lies along the axis, None where its value is not a number."""
    if over_iterations:
        return None if row.iteration is None else float(row.iteration)
    value = row.values[0][1] if row.values else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _axis_name(curves: Sequence[_Curve]) -> str:
    key = curves[0].rows[0].values[0][0]
    return key.rpartition(".")[2].replace("_", " ").capitalize()


def _chart(table: StudyTable, column: Column, axis: str, curves: Sequence[_Curve], flat: Sequence[Row]) -> Chart | None:
    lines = []
    palette = colours("run", len(curves) + len(flat))
    for curve, colour in zip(curves, palette, strict=False):
        lines.append(Line(curve.label, colour, *_sorted(curve, column)))
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
