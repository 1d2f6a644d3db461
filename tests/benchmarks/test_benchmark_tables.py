from __future__ import annotations

from benchmarks.interleaved import Spread
from benchmarks.tables import Table, mebibytes, number, percent, small, write_markdown


def test_numbers_with_their_range() -> None:
    assert number(Spread(1.234, 1.2, 1.3)) == "1.23 (1.20–1.30)"
    assert number(Spread(1.0, 1.0, 1.0), unit="×") == "1.00×"
    assert number(None) == "" == small(None) == percent(None) == mebibytes(None)
    assert percent(Spread(0.05, 0.04, 0.06)) == "5.0 % (4.0–6.0)"
    assert percent(0.125, 0) == "12 %"
    assert small(0.000123) == "1.2e-04"
    assert mebibytes(3 * 2**20) == "3.0"
    assert mebibytes(1500 * 2**20) == "1,500"


def test_markdown() -> None:
    table = Table("Costs", ("mode", "seconds"), [("floor", "1.0")], ["A note.", "Another."])
    lines = table.markdown().splitlines()
    assert lines[0] == "**Costs**"
    assert lines[2:5] == ["| mode | seconds |", "| --- | ---: |", "| floor | 1.0 |"]
    assert lines[6:] == ["A note.  ", "Another."]


def test_a_section_of_a_page_is_replaced(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- begin a -->\nold\n<!-- end a -->\nAfter.\n<!-- begin b -->\nkept\n<!-- end b -->\n")
    write_markdown(page, "a", "\nnew\n")
    assert page.read_text() == (
        "Before.\n<!-- begin a -->\nnew\n<!-- end a -->\nAfter.\n<!-- begin b -->\nkept\n<!-- end b -->\n"
    )
    write_markdown(page, "a", "newer")
    assert "newer" in page.read_text()
    assert "new\n" not in page.read_text()


def test_a_file_without_markers_is_written_whole(tmp_path) -> None:
    write_markdown(tmp_path / "folder" / "table.md", "a", "text\n")
    assert (tmp_path / "folder" / "table.md").read_text() == "text\n"
