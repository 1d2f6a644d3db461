from __future__ import annotations

import json

import numpy as np
import pytest
from watched_runs import append_rows, row_of, write_checkpoint, write_pictures, write_run

from lpl.training.metrics import MetricsLog
from lpl.watch.files import MetricsTail, RunReader


@pytest.fixture
def metrics(tmp_path):
    return tmp_path / "metrics.jsonl"


def steps_of(tail):
    tail.read()
    return tail.columns().get("step", np.empty(0)).tolist()


def test_only_what_was_added_is_read(tmp_path, metrics):
    tail = MetricsTail(metrics)
    assert steps_of(tail) == []
    append_rows(tmp_path, [row_of(1), row_of(2)])
    assert steps_of(tail) == [1, 2]
    taken = []
    tail._take, take = lambda line: (taken.append(line), take(line)), tail._take
    append_rows(tmp_path, [row_of(3)])
    assert steps_of(tail) == [1, 2, 3]
    assert len(taken) == 1
    assert steps_of(tail) == [1, 2, 3]
    assert len(taken) == 1


def test_a_line_that_is_being_written_waits_for_its_end(tmp_path, metrics):
    append_rows(tmp_path, [row_of(1)])
    line = json.dumps(row_of(2))
    tail = MetricsTail(metrics)
    for part, steps in ((line[:40], [1]), (line[40:], [1]), ("\n", [1, 2])):
        with metrics.open("a") as file:
            file.write(part)
        assert steps_of(tail) == steps
    assert tail.unreadable == 0


def test_damaged_lines_are_counted_and_the_rest_is_kept(tmp_path, metrics):
    append_rows(tmp_path, [row_of(1)])
    with metrics.open("ab") as file:
        file.write(b'{"step": 2, "loss\xff\n\n[3]\n{"loss": 1}\n')
    append_rows(tmp_path, [row_of(4)])
    tail = MetricsTail(metrics)
    assert steps_of(tail) == [1, 4]
    assert tail.unreadable == 3


def test_whole_numbers_beyond_floats_are_infinite(tmp_path, metrics):
    metrics.write_text('{"step": 1, "loss": 1' + "0" * 400 + "}\n")
    tail = MetricsTail(metrics)
    assert steps_of(tail) == [1]
    assert tail.unreadable == 0


@pytest.mark.parametrize("again", [[], [3], [3, 4, 5, 6, 7, 8]], ids=["shorter", "as long", "longer"])
def test_a_resumed_run_is_read_anew(tmp_path, metrics, again):
    """The trainer cuts the file back to its checkpoint, and may then log as much again before anybody looks."""
    append_rows(tmp_path, [row_of(step) for step in (1, 2, 3)])
    tail = MetricsTail(metrics)
    assert steps_of(tail) == [1, 2, 3]
    MetricsLog(tmp_path, 2).close()
    append_rows(tmp_path, [{**row_of(step), "loss": 7.0} for step in again])
    assert steps_of(tail) == [1, 2, *again]
    assert tail.columns()["loss"][2:].tolist() == [7.0] * len(again)


def test_a_run_begun_anew_forgets_the_old_one(tmp_path, metrics):
    append_rows(tmp_path, [row_of(1)])
    tail = MetricsTail(metrics)
    assert steps_of(tail) == [1]
    metrics.unlink()
    assert steps_of(tail) == []


def test_columns_that_a_row_lacks_are_gaps(tmp_path, metrics):
    append_rows(tmp_path, [{"step": 1, "loss": 1.0}, {"step": 2, "loss": None, "psnr": 20.0}])
    tail = MetricsTail(metrics)
    tail.read()
    columns = tail.columns()
    assert np.array_equal(columns["loss"], [1.0, np.nan], equal_nan=True)
    assert np.array_equal(columns["psnr"], [np.nan, 20.0], equal_nan=True)


def test_small_files_hold_while_they_cannot_be_read(tmp_path):
    run = write_run(tmp_path / "run")
    reader = RunReader(run)
    assert reader.read().information["status"] == "running"
    (run / "run.json").write_text('{"status": "comp')
    assert reader.read().information["status"] == "running"
    (run / "recipe.yaml").unlink()
    assert reader.read().recipe["training"]["steps"] == 400
    (run / "run.json").write_text('{"status": "complete"}')
    assert reader.read().information["status"] == "complete"


def test_the_newest_checkpoint_and_pictures_are_found(tmp_path):
    run = write_run(tmp_path / "run")
    assert RunReader(run).read().checkpoint is None
    for step, age in ((100, 30), (20, 10)):
        write_checkpoint(run, step, age)
    (run / "checkpoints" / ".incomplete-step-00000200").mkdir()
    write_pictures(run / "samples" / "default", ["red"], age=50)
    write_pictures(run / "previews" / "step-00000020", ["green"], age=60)
    write_pictures(run / "previews" / "step-00000100", ["green", "blue"], age=40)
    state = RunReader(run).read()
    assert state.checkpoint.step == 100
    assert state.pictures.title == "preview at step 100"
    assert [path.name for path in state.pictures.paths] == ["000000.png", "000001.png"]
    write_pictures(run / "samples" / "guided", ["red"], age=20)
    assert RunReader(run).read().pictures.title == "samples/guided"


def test_a_folder_that_does_not_exist_is_empty(tmp_path):
    state = RunReader(tmp_path / "later").read()
    assert not state.exists
    assert state.modified is None
    assert not state.history
