"""One frame of the view: a panel for each run, side by side where the terminal is wide enough."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..reports import wording
from ..reports.curves import BALANCE, LOSSES
from .charts import Limits, LineChart, Values, limits_of, significant, sparkline
from .facts import Progress, Status, facts_of, progress_of, status_of
from .files import RunState
from .thumbnails import Thumbnails

NARROWEST = 56  # columns that a run's panel takes at least
WITH_BAR = 68  # columns from which there is a progress bar
WIDE = 88  # columns within a panel from which two charts stand side by side
CHART_HEIGHT, LOWEST_CHART, HIGHEST_CHART = 6, 3, 14  # lines, without title and footer
FRAME = 2  # lines of a chart's title and footer
PICTURE_HEIGHT = 10  # lines
SPARKLINE = 24  # columns, at most
CHARTED = ("loss", "loss/diffusion", "loss/diffusion_weighted", "loss/perceptual", "gradient_ratio")
PLAIN = ("step", "seconds", "learning_rate", "perceptual_weight", "passed")  # clocks, and what the facts say whole
TITLES = {"psnr": "Held-out PSNR, dB"}
COLOURS = ("cyan", "yellow", "magenta", "green", "blue", "red")


@dataclass(frozen=True)
class View:
    """How a frame is drawn.

    Attributes:
        width: columns of the terminal.
        height: its lines, or None for as many as it takes.
        now: seconds since 1970.
        pictures: whether to show images.
    """

    width: int
    height: int | None
    now: float
    pictures: bool = True


def frame(states: Sequence[RunState], view: View) -> RenderableType:
    """All runs at one moment; charts of the same column have the same limits, so that runs compare."""
    columns = min(len(states), max(1, view.width // NARROWEST))
    rows = math.ceil(len(states) / columns)
    inner = View(view.width // columns, view.height // rows if view.height else None, view.now, view.pictures)
    limits = shared_limits(states)
    grid = Table.grid(expand=True)
    for _ in range(columns):
        grid.add_column(ratio=1)
    panels = [
        run_panel(state, limits[index], inner, COLOURS[index % len(COLOURS)]) for index, state in enumerate(states)
    ]
    for start in range(0, len(panels), columns):
        grid.add_row(*panels[start : start + columns])
    return grid


def shared_limits(states: Sequence[RunState]) -> list[dict[str, Limits]]:
    """For each run the limits of its charts: the same for all runs that log the same quantity."""
    keys = [{column: _quantity(state, column) for column in charted(state)} for state in states]
    curves: dict[str, list[tuple[Values, Values]]] = {}
    for state, quantities in zip(states, keys, strict=True):
        for column, quantity in quantities.items():
            curves.setdefault(quantity, []).append((state.history["step"], state.history[column]))
    limits = {quantity: limits_of(members) for quantity, members in curves.items()}
    return [
        {column: found for column, quantity in quantities.items() if (found := limits[quantity]) is not None}
        for quantities in keys
    ]


def charted(state: RunState) -> list[str]:
    """Columns that get a chart: the losses and how they balance."""
    columns = [column for column in CHARTED if column in state.history]
    columns += [name for name in state.history if name.count("/") == 1 and name.startswith("loss/")]
    columns += [name for name in ("psnr",) if name in state.history]
    return [column for column in dict.fromkeys(columns) if column not in _repetitions(state)]


def _repetitions(state: RunState) -> set[str]:
    """The total loss, where it is one of its terms and nothing else."""
    total = state.history.get("loss")
    terms = [values for name, values in state.history.items() if name.startswith("loss/")]
    same = total is not None and any(np.array_equal(values, total, equal_nan=True) for values in terms)
    return {"loss"} if same else set()


def _quantity(state: RunState, column: str) -> str:
    """What a column measures; the total of one objective does not compare with that of another."""
    if column != "loss":
        return column
    return " + ".join(sorted(name for name in state.history if name.startswith("loss/")))


def run_panel(state: RunState, limits: Mapping[str, Limits], view: View, colour: str) -> Panel:
    """One run."""
    status = status_of(state, view.now)
    head = [*_head(state, status, view)]
    charts = [column for column in charted(state) if column in limits]
    details = _details(state, charts)
    pictures = state.pictures if view.pictures else None
    plan = fit(view, len(head), len(charts), len(details), bool(pictures))
    parts: list[RenderableType] = [*head]
    if plan.charts:
        parts.append(_chart_grid(state, limits, charts[: plan.charts], plan, colour))
    if plan.details:
        parts.append(_detail_table(state, details[: plan.details]))
    if pictures is not None and plan.picture_height:
        parts.append(Text(_picture_title(state, view.now), style="dim", no_wrap=True))
        parts.append(Thumbnails(pictures.paths, 2 * (plan.picture_height - 1)))
    title = Text.assemble((_name(state), "bold"), " · ", (status.word, status.style))
    return Panel(Group(*parts), title=title, title_align="left", box=box.ROUNDED, height=view.height, padding=(0, 1))


@dataclass(frozen=True)
class Plan:
    """What of a panel there is room for, in lines where not said otherwise.

    Attributes:
        charts: how many.
        across: charts side by side.
        chart_height: of each, without its title and footer.
        details: rows of the table below the charts.
        picture_height: with the title; 0 for none.
    """

    charts: int
    across: int
    chart_height: int
    details: int
    picture_height: int


def fit(view: View, head: int, charts: int, details: int, pictures: bool) -> Plan:
    """Fits a panel into its lines: the table goes first, then charts' height, pictures, charts from the last."""
    across = 2 if view.width - 4 >= WIDE and charts > 1 else 1
    picture_height = PICTURE_HEIGHT if pictures else 0
    if view.height is None:
        return Plan(charts, across, CHART_HEIGHT, details, picture_height)
    room = view.height - 2 - head
    rows = math.ceil(charts / across)
    if room - rows * (LOWEST_CHART + FRAME) < picture_height:
        picture_height = 0
    details = max(0, min(details, room - rows * (CHART_HEIGHT + FRAME) - picture_height))
    room -= details + picture_height
    rows = min(rows, max(0, room) // (LOWEST_CHART + FRAME))
    chart_height = min(HIGHEST_CHART, room // rows - FRAME) if rows else 0
    return Plan(min(charts, rows * across), across, chart_height, details, picture_height)


def _name(state: RunState) -> str:
    return str(state.recipe.get("name") or state.information.get("name") or state.folder.resolve().name)


def _head(state: RunState, status: Status, view: View) -> Iterator[RenderableType]:
    """Status, progress and single figures, each of one line."""
    if status.remark:
        yield Text(status.remark, style=status.style, no_wrap=True, overflow="ellipsis")
    if state.modified is None:
        return
    progress = progress_of(state)
    yield _progress_line(progress, status, bar=view.width >= WITH_BAR)
    facts = facts_of(state, view.now)
    if state.unreadable:
        facts["unreadable lines"] = f"{state.unreadable:,}"
    yield from _fact_lines(facts, view.width - 4)


def _progress_line(progress: Progress, status: Status, bar: bool) -> RenderableType:
    of = f" of {progress.steps:,}" if progress.steps else ""
    cells: list[RenderableType] = [f"step {progress.step:,}{of}", _times(progress, status)]
    if bar:
        cells.insert(1, ProgressBar(total=progress.steps or 1, completed=min(progress.step, progress.steps or 0)))
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(no_wrap=True)
    for _ in cells[2:]:
        grid.add_column(ratio=1)
    grid.add_column(no_wrap=True, justify="right")
    grid.add_row(*cells)
    return grid


def _times(progress: Progress, status: Status) -> Text:
    spent = wording.duration(progress.seconds)
    if status.ended or progress.left is None:
        return Text(f"{spent} of training")
    return Text.assemble((f"{wording.duration(progress.left)} left", "bold"), f" after {spent}")


def _fact_lines(facts: Mapping[str, str], width: int) -> Iterator[Text]:
    """Facts one after the other, broken between them."""
    line = Text(no_wrap=True, overflow="ellipsis")
    for name, text in facts.items():
        fact = Text.assemble((f"{name} ", "dim"), text)
        if line and line.cell_len + 3 + fact.cell_len > width:
            yield line
            line = Text(no_wrap=True, overflow="ellipsis")
        line = Text("   ").join([line, fact]) if line else fact
    if line:
        line.no_wrap, line.overflow = True, "ellipsis"
        yield line


def _chart_grid(
    state: RunState, limits: Mapping[str, Limits], columns: Sequence[str], plan: Plan, colour: str
) -> RenderableType:
    grid = Table.grid(expand=True, padding=(0, 1))
    for _ in range(plan.across):
        grid.add_column(ratio=1)
    cells = [_chart(state, limits[column], column, plan.chart_height, colour) for column in columns]
    for start in range(0, len(cells), plan.across):
        grid.add_row(*cells[start : start + plan.across])
    return grid


def _chart(state: RunState, limits: Limits, column: str, height: int, colour: str) -> RenderableType:
    last = state.last(column)
    title = Text.assemble(_title(column), " ", (significant(last) if last is not None else "", "bold"), no_wrap=True)
    return Group(title, LineChart(state.history["step"], state.history[column], limits, height, colour))


def _title(column: str) -> str:
    known = {**LOSSES, **BALANCE}
    return known[column].title if column in known else TITLES.get(column, column)


def _details(state: RunState, charts: Sequence[str]) -> list[str]:
    """Columns that get a line of a table: whatever changes and has neither a chart nor a place among the facts."""
    shown = {*charts, *PLAIN, *_repetitions(state)}
    return [column for column, values in state.history.items() if column not in shown and not _is_flat(values)]


def _is_flat(values: Values) -> bool:
    logged = values[np.isfinite(values)]
    return logged.size == 0 or (logged.size > 1 and np.ptp(logged) == 0)


def _detail_table(state: RunState, columns: Sequence[str]) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for column in columns:
        last = state.last(column)
        table.add_row(
            _title(column), "" if last is None else significant(last), sparkline(state.history[column], SPARKLINE)
        )
    return table


def _picture_title(state: RunState, now: float) -> str:
    assert state.pictures is not None
    return f"{state.pictures.title}, {wording.duration(max(0.0, now - state.pictures.modified))} old"
