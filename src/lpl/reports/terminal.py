"""The page's table of metrics, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from lpl.reports import wording
from lpl.reports.metric_table import Cell, Measure, MetricTable, metric_table
from lpl.reports.runs import load_runs

STYLES = {"better": "green", "worse": "red", "same": "dim"}


def compare_table(runs: Sequence[Path], sample_set: str = "default", details: bool = False) -> Table:
    """Measures against runs: the same numbers as on the page, differences to the first run, the best in bold.

    A terminal is narrower than it is long, so measures are rows here and runs are columns.

    Args:
        runs: folders written by `lpl train`; the first is the one that others are compared with.
        sample_set: the folder below each run's `samples/` whose metrics to take.
        details: whether to add what does not judge as a whole: single pyramid levels, descriptive numbers.

    Raises:
        ReportError: no run was given, one was given twice, or a folder is no run.
    """
    table = metric_table(load_runs(runs, sample_set))
    drawn = Table(title="Metrics", caption=_caption(table), title_justify="left", caption_justify="left")
    drawn.add_column("measure", overflow="fold")
    for row in table.rows:
        drawn.add_column(Text(row.name, style="dim" if row.baseline else ""), justify="right", overflow="fold")
    headline, rest = table.columns(headline=True), table.columns(headline=False)
    for index in [*headline, *rest] if details or not headline else headline:
        measure = table.measures[index]
        drawn.add_row(_heading(measure), *(_cell(row.cells[index]) for row in table.rows))
    return drawn


def _heading(measure: Measure) -> Text:
    return Text(f"{measure.heading} {measure.arrow}".rstrip())


def _cell(cell: Cell) -> Text:
    text = Text(f"{cell.text} {cell.spread}".rstrip(), style="bold" if cell.best else "")
    if cell.difference:
        text.append(f"\n{cell.difference}", style=STYLES.get(cell.verdict or "", "dim"))
    return text


def _caption(table: MetricTable) -> Text:
    if not table.measures:
        return Text("No run has metrics yet: `lpl evaluate RUN` makes them.")
    lines = ["Bold: best. Second line: difference to the first run. ↓ lower, ↑ higher, → 1 nearer to 1 is better."]
    lines += table.warnings
    lines += [f"{wording.listed(names)}: {note}" for note, names in table.notes]
    return Text("\n".join(lines))
