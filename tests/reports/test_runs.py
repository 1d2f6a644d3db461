from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lpl.reports.runs import ReportError, load_run, load_runs


def test_reads_everything(make_run):
    run = load_run(make_run("lpl", perceptual=True, count=5, side=32))
    assert (run.name, run.problems) == ("lpl", ())
    assert run.recipe["objective"]["perceptual"]["weight"] == 0.2
    assert run.history["step"].tolist() == list(range(1, 301))
    assert run.history["loss/perceptual/mid_block"].shape == (300,)
    assert list(run.samples.images) == [0, 1, 2, 3, 4]
    assert (run.samples.seed, run.samples.size, run.samples.class_name(1)) == (0, (32, 32), "cat")


@pytest.mark.parametrize("name", ["recipe.yaml", "run.json", "metrics.jsonl", "metrics.json", "samples"])
def test_what_is_missing_becomes_a_problem_that_names_it(make_run, name):
    folder = make_run("run")
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    problems = load_run(folder).problems
    assert len(problems) == 1
    assert name in problems[0]


@pytest.mark.parametrize("name", ["recipe.yaml", "run.json", "metrics.json"])
@pytest.mark.parametrize("content", ["{: [", '["a list"]'])
def test_what_is_broken_becomes_a_problem_that_names_it(make_run, name, content):
    folder = make_run("run")
    (folder / name).write_text(content)
    (problem,) = load_run(folder).problems
    assert problem.startswith(name)


def test_a_line_cut_short_is_left_out_and_said(make_run):
    folder = make_run("run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 301, "lo')
    run = load_run(folder)
    assert run.history["step"][-1] == 300
    assert run.problems == ("metrics.jsonl has 1 unreadable line, left out of the curves",)


def test_a_step_logged_again_after_resuming_counts_once(make_run):
    folder = make_run("run")
    lines = [{"step": 2, "loss": 9.0}, {"step": 1, "loss": 3.0}, {"step": 2, "loss": 4.0, "rare": None}]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    history = load_run(folder).history
    assert history["step"].tolist() == [1, 2]
    assert history["loss"].tolist() == [3.0, 4.0]
    assert "rare" not in history


def test_a_value_absent_from_a_row_is_a_gap_and_a_logged_nan_is_said(make_run):
    folder = make_run("run")
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": NaN}\n{"step": 2, "passed": 0.5}\n')
    run = load_run(folder)
    np.testing.assert_array_equal(run.history["passed"], [np.nan, 0.5])
    assert run.problems == ("it logged values that are not finite numbers: loss",)


def test_refuses_what_is_no_run(tmp_path, make_run):
    (tmp_path / "photographs").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    run = make_run("run")
    with pytest.raises(ReportError, match="runs: got an empty list"):
        load_runs([])
    with pytest.raises(ReportError, match=r"photographs is no run and no analysis: it holds none of recipe\.yaml"):
        load_runs([run, tmp_path / "photographs"])
    with pytest.raises(ReportError, match=r"nowhere does not exist"):
        load_runs([tmp_path / "nowhere"])
    with pytest.raises(ReportError, match=r"notes\.txt is a file"):
        load_runs([tmp_path / "notes.txt"])
    with pytest.raises(ReportError, match="given twice"):
        load_runs([run, run.parent / "." / "run"])


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path, make_run):
    folders = [make_run("first"), make_run("second")]
    for folder in folders:
        text = (folder / "recipe.yaml").read_text().replace(f"name: {folder.name}", "name: same")
        (folder / "recipe.yaml").write_text(text)
    assert [run.name for run in load_runs(folders)] == ["first", "second"]
    (tmp_path / "other").mkdir()
    twin = Path(shutil.copytree(folders[0], tmp_path / "other" / "first"))
    assert len({run.name for run in load_runs([*folders, twin])}) == 3


def test_chooses_a_sample_set(make_run):
    folder = make_run("run")
    assert load_run(folder, "guided").problems == (
        "there is no sample set 'guided'; its only one, 'default', is shown instead",
    )
    shutil.copytree(folder / "samples" / "default", folder / "samples" / "guided")
    run = load_run(folder, "guided")
    assert (run.sample_set, run.problems) == ("guided", ("sample sets not shown here: default",))
    lost = load_run(folder, "absent")
    assert lost.samples is None
    assert "no sample set 'absent'" in lost.problems[0]


def test_labels_beyond_the_named_classes_keep_their_number(make_run):
    folder = make_run("run", count=2)
    path = folder / "samples" / "default" / "samples.json"
    path.write_text(json.dumps({"labels": [7], "classes": ["cat"], "seed": 0}))
    samples = load_run(folder).samples
    assert (samples.class_name(0), samples.class_name(1)) == ("class 7", None)


@pytest.mark.parametrize("step", ["NaN", "Infinity", "1" + "0" * 400, "1" + "0" * 5000])
def test_a_step_that_is_no_number_is_an_unreadable_line(make_run, page, step):
    folder = make_run("run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(f'{{"step": {step}, "loss": 1.0}}\n')
    run = load_run(folder)
    assert run.history["step"][-1] == 300
    assert run.problems == ("metrics.jsonl has 1 unreadable line, left out of the curves",)
    page([folder])


@pytest.mark.parametrize("zeros", [400, 5000])
def test_a_number_that_no_float_holds_is_named(make_run, page, zeros):
    folder = make_run("run")
    number = "1" + "0" * zeros
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(f'{{"step": 301, "loss": {number}}}\n')
    information = json.loads((folder / "run.json").read_text())
    information["peak_memory_bytes"] = 0
    text = json.dumps(information).replace('"peak_memory_bytes": 0', f'"peak_memory_bytes": {number}')
    (folder / "run.json").write_text(text)
    assert load_run(folder).problems == ("it logged values that are not finite numbers: loss",)
    page([folder])
