from __future__ import annotations

import json

import pytest
from synthetic_runs import NOTE, RESULTS

from lpl.reports.metric_table import metric_table, verdicts
from lpl.reports.runs import load_runs


def table_of(*folders):
    return metric_table(load_runs(folders))


def cells(table, name):
    (column,) = [index for index, measure in enumerate(table.measures) if measure.name == name]
    return [row.cells[column] for row in table.rows]


def rewrite(folder, change):
    path = folder / "metrics.json"
    metrics = json.loads(path.read_text())
    change(metrics["sets"]["default"])
    path.write_text(json.dumps(metrics))
    return folder


def test_columns_follow_the_declared_order_and_keep_levels_apart(make_run):
    table = table_of(make_run("run"))
    names = [measure.name for measure in table.measures]
    assert names[:4] == [
        "sliced_wasserstein",
        "sliced_wasserstein/64",
        "sliced_wasserstein/32",
        "log_spectral_distance",
    ]
    assert "kernel_distance_std" not in names
    details = [table.measures[index].name for index in table.columns(headline=False)]
    assert details == ["sliced_wasserstein/64", "sliced_wasserstein/32", "contrast"]
    assert table.measures[1].label == "sliced Wasserstein, 64 px"


def test_differences_and_best_follow_the_direction(two_runs):
    table = table_of(*two_runs)
    first, second, _ = cells(table, "frechet_distance")
    assert (first.text, first.difference, first.best) == ("48.20", "", False)
    assert (second.text, second.verdict, second.best) == ("44.10", "better", True)
    assert second.difference.replace("\u00a0", " ") == "−4.10 (−8.5 %)"
    first, second, _ = cells(table, "precision")
    assert (first.best, second.verdict) == (True, "worse")


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(1.3, "better"), (0.9, "better"), (1 / 0.52 - 1e-3, "better"), (2.0, "worse"), (0.52, "same")],
)
def test_a_ratio_is_best_at_one_from_either_side(make_run, ratio, verdict):
    folders = make_run("l2"), make_run("lpl", results={**RESULTS, "high_frequency_ratio": ratio})
    _, second, _ = cells(table_of(*folders), "high_frequency_ratio")
    assert second.verdict == verdict
    assert "%" not in second.difference


def test_equal_numbers_have_no_best(two_runs):
    assert not any(cell.best for cell in cells(table_of(*two_runs), "log_spectral_distance"))


def test_descriptive_numbers_are_not_judged(two_runs):
    second = cells(table_of(*two_runs), "contrast")[1]
    assert (second.verdict, second.best) == (None, False)


def test_spread_stands_beside_its_mean(two_runs):
    assert cells(table_of(*two_runs), "kernel_distance")[0].spread == "± 0.00040"


def test_verdicts_count_judging_measures_only(two_runs):
    table = table_of(*two_runs)
    found = {kind: [measure.name for measure in measures] for kind, measures in verdicts(table, table.rows[1]).items()}
    assert found == {
        "better": ["sliced_wasserstein", "high_frequency_ratio", "frechet_distance"],
        "worse": ["precision"],
        "same": ["log_spectral_distance", "kernel_distance"],
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda entry: entry["settings"].update(extractor="other"), "setting extractor"),
        (lambda entry: entry["provenance"]["samples"].update(count=9), "number of samples"),
        (lambda entry: entry["provenance"]["reference"].update(fingerprint="else"), "reference images"),
    ],
)
def test_what_was_measured_otherwise_is_not_compared(two_runs, change, reason):
    rewrite(two_runs[1], change)
    table = table_of(*two_runs)
    first, second, _ = cells(table, "frechet_distance")
    assert (second.text, second.difference, second.verdict, second.best) == ("44.10", "", None, False)
    assert not first.best
    assert len(table.warnings) == 1
    assert "lpl was not measured like l2" in table.warnings[0]
    assert reason in table.warnings[0]


def test_a_setting_that_moves_no_number_does_not_matter(two_runs):
    rewrite(two_runs[1], lambda entry: entry["settings"].update(batch_size=1))
    assert table_of(*two_runs).warnings == ()


def test_says_why_numbers_are_missing(make_run):
    def lose(entry):
        del entry["results"]["precision"]
        entry["notes"].append("precision, density: 3 images are too few")

    bare = make_run("bare")
    (bare / "metrics.json").unlink()
    table = table_of(make_run("l2"), rewrite(make_run("lpl"), lose), bare)
    assert cells(table, "precision")[1].missing == "3 images are too few"
    assert table.missing == (
        "precision of lpl: 3 images are too few",
        "everything of bare: this run was not evaluated",
        "recall of l2 and lpl: 8 samples are fewer than neighbours + 1",
    )
    assert table.notes[0] == (NOTE, ("l2", "lpl"))


def test_the_first_evaluated_run_is_the_anchor(make_run, two_runs):
    bare = make_run("bare")
    (bare / "metrics.json").unlink()
    table = table_of(bare, *two_runs)
    assert [row.name for row in table.rows] == ["bare", "l2", "lpl", "reconstruction"]
    assert cells(table, "frechet_distance")[2].verdict == "better"


def test_baselines_are_shown_but_not_judged(two_runs):
    table = table_of(*two_runs)
    assert table.rows[2].baseline
    cell = cells(table, "sliced_wasserstein")[2]
    assert (cell.value, cell.best, cell.verdict) == (4.2, False, None)


def test_a_format_of_the_future_is_left_alone(make_run):
    folder = make_run("run")
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**metrics, "format": 2}))
    (run,) = load_runs([folder])
    assert metric_table([run]).measures == ()
    assert run.problems == ("metrics.json has format 2 and this version reads format 1; run `lpl evaluate` again",)


def test_unknown_measures_are_shown_under_their_names(make_run):
    table = table_of(make_run("run", results={"my_score": 3, "not_a_number": None}))
    assert [(m.heading, m.better, m.reading) for m in table.measures] == [
        ("My score", None, "descriptive"),
        ("Not a number", None, "descriptive"),
    ]
    assert cells(table, "my_score")[0].text == "3.000"
    assert cells(table, "not_a_number")[0].text == "–"
