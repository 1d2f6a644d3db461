from __future__ import annotations

import json

from synthetic_runs import NOTE

from lpl.reports.metric_table import metric_table
from lpl.reports.notes import page_notes
from lpl.reports.runs import load_runs


def notes_of(*folders):
    runs = load_runs(folders)
    return [(note.about, note.text) for note in page_notes(runs, metric_table(runs))]


def rewrite(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_few_samples_one_seed_and_what_the_evaluation_says(two_runs):
    notes = notes_of(*two_runs)
    assert notes[0][1].startswith("Metrics rest on 8 samples a run")
    assert "luck of the seed" in notes[1][1]
    assert notes[2:] == [("l2 and lpl", NOTE)]


def test_enough_samples_need_no_caution(make_run):
    folder = make_run("run")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["sets"]["default"]["provenance"]["samples"]["count"] = 50_000
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert notes_of(folder) == [("run", NOTE)]


def test_what_else_differs_is_named(make_run):
    notes = notes_of(make_run("a"), make_run("b", seed=0, data={"resolution": 128}, sampling={"steps": 20}))
    assert ("", "The runs differ in more than their objective: data.resolution.") in notes


def test_other_machines_are_said(two_runs):
    rewrite(two_runs[1] / "run.json", hardware={"device": "cuda"})
    assert any("different machines" in text for _, text in notes_of(*two_runs))


def test_unfinished_runs_say_why(two_runs):
    rewrite(two_runs[0] / "run.json", status="failed", ended_by="step 20: loss is NaN")
    rewrite(two_runs[1] / "run.json", status="running")
    texts = dict(notes_of(*two_runs)[2:4])
    assert texts["l2"].startswith("Its run.json says 'failed' (step 20: loss is NaN)")
    assert texts["lpl"].startswith("Its run.json says 'running':")


def test_pictures_newer_than_the_metrics_are_said(make_run):
    folder = make_run("run")
    rewrite(folder / "samples" / "default" / "samples.json", checkpoint="step-00000600")
    expected = "Its metrics are of step-00000300, its pictures of step-00000600: evaluate it again."
    assert ("run", expected) in notes_of(folder)


def test_every_problem_of_a_run_is_a_note(make_run):
    folder = make_run("run")
    (folder / "run.json").unlink()
    expected = "run.json is missing, so there is nothing to say about its hardware, time and memory."
    assert ("run", expected) in notes_of(folder)
