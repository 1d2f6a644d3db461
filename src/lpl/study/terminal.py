"""A study's table for the terminal and for Markdown."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from .tables import WORDS, Cell, StudyTable

STYLES = {"better": "green", "worse": "red", "undecided": "dim", "too few seeds": "dim"}


def terminal_table(table: StudyTable) -> Table:
    """The table, with below each number its difference to the baseline, and the paper's figure.

    A terminal is narrower than it is long: whatever is fewer, arms or columns, stands side by side.
    """
    caption = Text("\n".join(table.caption))
    title = table.study.config.title or table.study.config.name
    drawn = Table(title=title, caption=caption, title_justify="left", caption_justify="left", show_lines=True)
    labels = [Text(row.label) for row in table.rows]
    headings = [Text(f"{column.heading} {column.arrow}".rstrip()) for column in table.columns]
    cells = [[_cell(cell) for cell in row] for row in table.cells]
    if len(headings) > len(labels):
        labels, headings = headings, labels
        cells = [list(column) for column in zip(*cells, strict=True)]
    drawn.add_column("", overflow="fold", min_width=8)
    for heading in headings:
        drawn.add_column(heading, justify="right", overflow="fold")
    for label, row in zip(labels, cells, strict=True):
        drawn.add_row(label, *row)
    return drawn


def markdown_table(table: StudyTable) -> str:
    """The same for a document: one line a row, then what a reader has to know."""
    head = ["", *(f"{column.heading} {column.arrow}".rstrip() for column in table.columns)]
    lines = [head, ["---"] * len(head)]
    for row, cells in zip(table.rows, table.cells, strict=True):
        lines.append([row.label, *("; ".join(_parts(cell)) for cell in cells)])
    body = "\n".join("| " + " | ".join(entry.replace("|", "\\|") for entry in line) + " |" for line in lines)
    return body + "\n\n" + "\n\n".join(table.caption) + "\n"


def _cell(cell: Cell) -> Text:
    number, *rest = _parts(cell)
    text = Text(number)
    for part in rest:
        text.append(f"\n{part}", style="italic" if part.startswith("paper") else STYLES.get(cell.verdict or "", "dim"))
    return text


def _parts(cell: Cell) -> list[str]:
    """The number; its difference and what follows from it; the paper's figure."""
    parts = [cell.text]
    if cell.difference:
        parts.append(f"{cell.difference} {WORDS[cell.verdict] if cell.verdict else ''}".rstrip())
    if cell.paper:
        parts.append(f"paper {cell.paper}")
    return parts
