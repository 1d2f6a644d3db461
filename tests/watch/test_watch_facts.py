from __future__ import annotations

import pytest
from watched_runs import NOW, append_rows, row_of, set_age, write_checkpoint, write_run

from lpl.watch.facts import facts_of, progress_of, status_of
from lpl.watch.files import RunReader


def read(run):
    return RunReader(run).read()


@pytest.mark.parametrize(
    ("age", "word"), [(5, "running"), (59, "running"), (61, "silent")], ids=["fresh", "slow", "silent"]
)
def test_silence_is_told_from_training(tmp_path, age, word):
    """Rows come every 4 s here, so a minute is the least that is remarkable."""
    assert status_of(read(write_run(tmp_path / "run", age=age)), NOW).word == word


def test_silence_is_measured_by_the_usual_interval(tmp_path):
    run = write_run(tmp_path / "run", steps=0)
    append_rows(run, [row_of(step, pace=50.0) for step in (2, 4, 6)])  # a row every 100 s
    set_age(run, 499)
    assert status_of(read(run), NOW).word == "running"
    set_age(run, 501)
    status = status_of(read(run), NOW)
    assert status.word == "silent"
    assert "8 min 21 s" in status.remark.replace("\xa0", " ")
    assert not status.ended


@pytest.mark.parametrize(
    ("information", "remark"),
    [
        ({"status": "complete", "ended_by": "steps"}, ""),
        ({"status": "complete", "ended_by": "time_budget"}, "time budget"),
        ({"status": "failed", "ended_by": "step 40: loss is NaN"}, "step 40: loss is NaN"),
        ({"status": "interrupted", "ended_by": "SIGTERM", "ended": "2027-01-15"}, "SIGTERM, 2027-01-15"),
    ],
)
def test_a_run_that_ended_says_how(tmp_path, information, remark):
    """However long ago that was."""
    status = status_of(read(write_run(tmp_path / "run", age=1e6, **information)), NOW)
    assert (status.word, status.ended) == (information["status"], True)
    assert remark in status.remark


def test_a_run_that_has_written_nothing_is_waited_for(tmp_path):
    assert status_of(read(tmp_path / "later"), NOW).remark.startswith("the folder does not exist yet")
    (tmp_path / "empty").mkdir()
    assert status_of(read(tmp_path / "empty"), NOW).remark.startswith("the folder is empty")
    assert status_of(read(write_run(tmp_path / "started", steps=0)), NOW).word == "starting"


def test_time_left_follows_the_recent_pace(tmp_path):
    run = write_run(tmp_path / "run", steps=0, training={"steps": 1000})
    seconds = 0.0
    for step in range(10, 510, 10):  # ten times as fast after step 250
        seconds += 10.0 if step <= 250 else 1.0
        append_rows(run, [{"step": step, "seconds": seconds}])
    progress = progress_of(read(run))
    assert (progress.step, progress.steps, progress.seconds) == (500, 1000, 275.0)
    assert progress.left == pytest.approx(500 * 0.1)


def test_a_time_budget_ends_a_run_earlier(tmp_path):
    run = write_run(tmp_path / "run", steps=100, training={"steps": 400, "time_budget": 230.0})
    assert progress_of(read(run)).left == pytest.approx(30.0)  # 600 s by steps, at 2 s each


def test_the_first_row_gives_a_pace_already(tmp_path):
    run = write_run(tmp_path / "run", steps=0)
    assert progress_of(read(run)).left is None
    append_rows(run, [row_of(1)])
    assert progress_of(read(run)).left == pytest.approx(399 * 2.0)


def test_throughput_weighs_rows_by_their_time(tmp_path):
    """One image at 1/s and nine at 9/s take two seconds: ten images in two seconds."""
    run = write_run(tmp_path / "run", steps=0)
    append_rows(run, [{"step": 1, "seconds": 1.0, "images_per_second": 1.0}])
    append_rows(run, [{"step": 2, "seconds": 2.0, "images_per_second": 9.0}])
    assert facts_of(read(run), NOW)["images/s"] == "5"


def test_facts_come_from_all_files_and_the_unknown_is_left_out(tmp_path):
    run = write_run(
        tmp_path / "run",
        peak_memory_bytes=3 * 2**30,
        peak_memory_of="GPU tensors",
        hardware={"device": "cuda", "gpu": "NVIDIA A100", "processes": 8},
    )
    write_checkpoint(run, 80, age=90)
    facts = {name: text.replace("\xa0", " ") for name, text in facts_of(read(run), NOW).items()}
    assert facts["peak memory"] == "3.0 GiB (GPU tensors)"
    assert facts["checkpoint"] == "step 80, 1 min 30 s ago"
    assert facts["on"] == "NVIDIA A100 × 8"
    assert facts["gradient ratio"] == "0.3"
    assert facts["passed the gate"] == "75.0 %"
    assert "held-out PSNR" not in facts
    assert facts_of(read(tmp_path / "later"), NOW) == {}
