from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner
from watched_runs import append_rows, row_of, write_run

from lpl.cli import app
from lpl.watch import WatchError, watch


def terminal(**settings):
    return Console(file=io.StringIO(), force_terminal=True, width=100, height=30, color_system=None, **settings)


def test_once_prints_a_frame_and_ends(tmp_path):
    result = CliRunner().invoke(app, ["watch", str(write_run(tmp_path / "run")), "--once"])
    assert result.exit_code == 0
    assert "step 100 of 400" in result.output


def test_the_view_follows_the_files_until_the_run_ends(tmp_path):
    run = write_run(tmp_path / "run", steps=2)
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 1:
            append_rows(run, [row_of(4)])
        if len(waits) == 2:
            content = json.loads((run / "run.json").read_text())
            (run / "run.json").write_text(json.dumps({**content, "status": "complete", "ended_by": "steps"}))

    console = terminal()
    watch([run], interval=3.0, console=console, sleep=sleep)
    assert waits == [3.0, 3.0]
    drawn = console.file.getvalue()
    assert drawn.index("step 2 of 400") < drawn.index("step 4 of 400")
    assert "run · complete" in drawn[drawn.rindex("╭") :]
    assert "Ctrl-C" in drawn


def test_ctrl_c_leaves_the_last_frame(tmp_path):
    def interrupted(seconds):
        raise KeyboardInterrupt

    console = terminal()
    watch([write_run(tmp_path / "run")], console=console, sleep=interrupted)
    assert console.file.getvalue().count("run · ") == 2  # on the other screen, and where it stays


def test_one_frame_where_the_output_is_no_terminal(tmp_path):
    console = Console(file=io.StringIO(), width=80)
    watch([write_run(tmp_path / "run")], console=console, sleep=lambda seconds: pytest.fail("must not wait"))
    assert console.file.getvalue().count("╭") == 1


def test_a_run_that_appears_later_is_waited_for(tmp_path):
    frames = []

    def sleep(seconds):
        frames.append(1)
        if len(frames) == 1:
            write_run(tmp_path / "later", steps=2, status="complete")

    console = terminal()
    watch([tmp_path / "later"], console=console, sleep=sleep)
    assert "later · waiting" in console.file.getvalue()
    assert "later · complete" in console.file.getvalue()


@pytest.mark.parametrize(
    ("runs", "interval", "message"),
    [([], 1.0, "got none"), (["a", "a"], 1.0, "twice"), (["file"], 1.0, "is a file"), (["a"], 0.0, "positive")],
)
def test_what_cannot_be_watched_is_refused(tmp_path, runs, interval, message):
    (tmp_path / "file").write_text("")
    with pytest.raises(WatchError, match=message):
        watch([tmp_path / run for run in runs], interval)


def test_watching_does_not_load_torch(tmp_path):
    """It may run on a login node, and must answer at once."""
    script = (
        "import sys; from pathlib import Path; from lpl.watch import watch; "
        f"watch([Path({str(write_run(tmp_path / 'run'))!r})], once=True); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"


def test_a_folder_is_only_read(tmp_path):
    run = write_run(tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in [run, *run.rglob("*")]}
    watch([run], once=True, console=terminal())
    assert {path: path.stat().st_mtime_ns for path in [run, *run.rglob("*")]} == before
