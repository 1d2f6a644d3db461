from __future__ import annotations

import io

import pytest
from rich.console import Console

from lpl.reports import ReportError, compare_table


def printed(table, width=120):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue().replace("\u00a0", " ")


def test_the_terminal_has_the_numbers_of_the_page(two_runs, page):
    text = printed(compare_table(two_runs, details=True))
    (headline, details) = page(two_runs).one(id="outcome").all("table")
    values = [cell.text for table in (headline, details) for cell in table.all(class_="value")]
    differences = [cell.pieces[0] for table in (headline, details) for cell in table.all(class_="difference")]
    assert len(values) == 19
    assert len(differences) == 9
    assert all(value.replace("\u00a0", " ") in text for value in [*values, *differences])
    assert "Fréchet distance ↓" in text
    assert "l2 and lpl: recall: 8 samples are fewer" in text


def test_details_are_shown_on_request_only(make_run):
    folder = make_run("run")
    assert "64 px" not in printed(compare_table([folder]))
    assert "64 px" in printed(compare_table([folder], details=True))


def test_markup_in_names_is_text(make_run):
    assert "[bold]x" in printed(compare_table([make_run("[bold]x")]))


def test_without_metrics_it_says_so(make_run):
    folder = make_run("run")
    (folder / "metrics.json").unlink()
    assert "No run has metrics yet" in " ".join(printed(compare_table([folder])).split())


def test_refuses_what_is_no_run(tmp_path):
    with pytest.raises(ReportError, match="does not exist"):
        compare_table([tmp_path / "nowhere"])
