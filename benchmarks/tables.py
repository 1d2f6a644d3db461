"""Tables for the terminal and for Markdown pages, from the same cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from .interleaved import Spread

WIDTH = 200  # columns where the output is no terminal


@dataclass(frozen=True)
class Table:
    """A table with a title and notes below it.

    Attributes:
        title: above it.
        columns: headings; the first column is aligned left, the others right.
        rows: cells.
        notes: lines below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """As a Markdown page shows it."""
        lines = [f"**{self.title}**", "", _line(self.columns), _line(["---"] + ["---:"] * (len(self.columns) - 1))]
        lines += [_line(row) for row in self.rows]
        return "\n".join([*lines, "", *(f"{note}  " for note in self.notes)]).rstrip() + "\n"

    def rich(self) -> RichTable:
        """The cells as a terminal shows them."""
        drawn = RichTable()
        for index, column in enumerate(self.columns):
            drawn.add_column(column, justify="right" if index else "left", overflow="fold", no_wrap=index == 0)
        for row in self.rows:
            drawn.add_row(*row)
        return drawn


def console() -> Console:
    """Standard output, wide enough for a table where it goes to a file."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=WIDTH)


def show(table: Table) -> None:
    """Prints a table with its title and notes."""
    output = console()
    output.print(table.title, style="bold", highlight=False)
    output.print(table.rich())
    output.print("\n".join(table.notes), style="dim", highlight=False, markup=False)


def write_markdown(file: Path, section: str, text: str) -> None:
    """Writes Markdown to a file; in a page with markers for the section, only what is between them is replaced.

    The markers are `<!-- begin SECTION -->` and `<!-- end SECTION -->`.
    """
    begin, end = f"<!-- begin {section} -->", f"<!-- end {section} -->"
    page = file.read_text(encoding="utf-8") if file.is_file() else ""
    if begin in page and end in page:
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{text.strip()}\n{end}{after}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def number(value: float | Spread | None, digits: int = 2, unit: str = "") -> str:
    """A number, with its range where it has one; empty for None."""
    if value is None:
        return ""
    if isinstance(value, Spread):
        if value.low == value.high:
            return f"{value.median:.{digits}f}{unit}"
        return f"{value.median:.{digits}f}{unit} ({value.low:.{digits}f}–{value.high:.{digits}f})"
    return f"{value:.{digits}f}{unit}"


def small(value: float | None) -> str:
    """An error: two significant digits."""
    return "" if value is None else f"{value:.1e}"


def percent(value: float | Spread | None, digits: int = 1) -> str:
    """A share."""
    if isinstance(value, Spread):
        value = Spread(*(100 * part for part in value))
    elif value is not None:
        value = 100 * value
    return number(value, digits, " %") if value is not None else ""


def mebibytes(value: int | None) -> str:
    """Bytes in MiB."""
    if value is None:
        return ""
    return f"{value / 2**20:,.1f}" if value < 100 * 2**20 else f"{value / 2**20:,.0f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
