from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console
from watched_runs import NOW, append_rows, row_of, write_pictures, write_run

from lpl.watch.files import RunReader
from lpl.watch.panels import View, charted, fit, frame, shared_limits

WIDTHS = [80, 120, 200]


def draw(runs, width=120, height=None, pictures=True):
    console = Console(width=width, height=height or 100, record=True, file=io.StringIO(), color_system=None)
    console.print(frame([RunReader(run).read() for run in runs], View(width, height, NOW, pictures)))
    return console.export_text().replace("\xa0", " ")


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "lpl-run")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_frame_says_what_matters(run, width):
    text = draw([run], width)
    assert max(map(len, text.splitlines())) == width
    for part in ("lpl-run · running", "step 100 of 400", "10 min left after 3 min 20 s", "images/s 16"):
        assert part in text
    for title in ("Total loss", "Diffusion loss 0.333", "Perceptual loss", "Gradient ratio 0.3"):
        assert title in text
    assert re.search(r"loss/perceptual/mid_block +\d", text)
    assert len(re.findall("[⠁-⣿]", text)) > 100


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("height", [6, 12, 24, 50, 90])
def test_a_frame_fits_its_terminal(run, width, height):
    write_pictures(run / "samples" / "default", ["red"] * 4)
    lines = draw([run], width, height).splitlines()
    assert len(lines) == height
    assert {len(line) for line in lines} == {width}
    assert "step 100 of 400" in lines[1]
    assert lines[-1].startswith("╰")


def test_runs_stand_side_by_side_where_there_is_room(tmp_path):
    runs = [write_run(tmp_path / "l2", perceptual=False), write_run(tmp_path / "lpl", steps=200)]
    wide, narrow = draw(runs, 120).splitlines(), draw(runs, 80).splitlines()
    assert "l2 · running" in wide[0]
    assert "lpl · running" in wide[0]
    assert "lpl · running" not in narrow[0]
    assert sum("· running" in line for line in narrow) == 2


def test_charts_of_the_same_term_have_the_same_limits(tmp_path):
    runs = [write_run(tmp_path / "l2", perceptual=False), write_run(tmp_path / "lpl", steps=200)]
    states = [RunReader(run).read() for run in runs]
    first, second = shared_limits(states)
    assert first["loss/diffusion"] == second["loss/diffusion"]
    assert (first["loss/diffusion"].first, first["loss/diffusion"].last) == (2, 200)


def test_totals_of_different_objectives_do_not_share_limits(tmp_path):
    other = write_run(tmp_path / "autoencoder", steps=0)
    append_rows(other, [{"step": step, "loss": 90.0 + step, "loss/pixel": 1.0, "loss/kl": 2.0} for step in (1, 2)])
    states = [RunReader(run).read() for run in (write_run(tmp_path / "lpl"), other)]
    first, second = shared_limits(states)
    assert first["loss"].high < 5
    assert second["loss"].low > 80


def test_a_total_that_is_one_term_alone_is_not_drawn_twice(tmp_path):
    assert charted(RunReader(write_run(tmp_path / "l2", perceptual=False)).read()) == ["loss/diffusion"]


def test_columns_that_never_change_are_left_out(run):
    """Other than as one of the facts."""
    text = draw([run])
    assert "Gradient norm" not in text
    assert "images/s 16" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_runs_without_anything_yet_are_shown(tmp_path, width):
    """A single row, too, is something to draw."""
    (tmp_path / "empty").mkdir()
    started, first = write_run(tmp_path / "started", steps=0), write_run(tmp_path / "first", steps=2)
    text = draw([tmp_path / "later", tmp_path / "empty", started, first], width)
    for word in ("later · waiting", "empty · waiting", "started · starting", "first · running"):
        assert word in text
    assert "Diffusion loss 0.962" in text


def test_a_crash_and_a_half_written_line(tmp_path):
    run = write_run(tmp_path / "crashed", age=3600)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 102, "lo')
    text = draw([write_run(tmp_path / "failed", status="failed", ended_by="step 101: loss is NaN"), run])
    assert "step 101: loss is NaN" in text
    assert text.count("step 100 of 400") == 2


def test_pictures_are_shown_only_where_they_can_be(run):
    write_pictures(run / "previews" / "step-00000050", ["red", "blue"])
    assert "▀" in draw([run])
    assert "preview at step 50, 5.0 s old" in draw([run])
    assert "▀" not in draw([run], pictures=False)


def test_markup_in_names_is_not_obeyed(tmp_path):
    text = draw([write_run(tmp_path / "run", name="[red]a[/red] [nonsense", status="failed", ended_by="[/bold]")])
    assert "[red]a[/red] [nonsense" in text
    assert "[/bold]" in text


@pytest.mark.parametrize(
    ("height", "charts", "chart_height", "pictures", "details"),
    [(60, 4, 7, True, 6), (50, 4, 6, True, 3), (40, 4, 4, True, 0), (30, 4, 4, False, 0), (17, 2, 4, False, 0)],
)
def test_what_does_not_fit_goes_in_order(height, charts, chart_height, pictures, details):
    """First the table, then the charts' height, then pictures, then charts from the last."""
    plan = fit(View(80, height, NOW), head=3, charts=4, details=6, pictures=True)
    assert (plan.charts, plan.chart_height) == (charts, chart_height)
    assert (plan.picture_height > 0, plan.details) == (pictures, details)


def test_nothing_is_left_out_of_a_whole_frame_and_nothing_fits_into_none():
    assert fit(View(80, None, NOW), 3, 4, 6, True).details == 6
    assert fit(View(80, 5, NOW), 3, 4, 6, True).charts == 0


def test_long_runs_are_drawn_quickly(tmp_path):
    run = write_run(tmp_path / "long", steps=0, training={"steps": 10**6})
    append_rows(run, [row_of(step) for step in range(10, 200_000, 10)])
    reader = RunReader(run)
    reader.read()
    start = time.monotonic()
    frame([reader.read()], View(120, 50, NOW))
    assert time.monotonic() - start < 2.0
