"""A study's plots: which curves there are, and what they run over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evidence import Results, made_up
from small_studies import STUDY, StudyFolder

from lpl.reports.charts import Chart
from lpl.study import load_study
from lpl.study.figures import study_charts
from lpl.study.planning import Point
from lpl.study.tables import make_table

LPL = STUDY["arms"]["lpl"]


def charts(studies: StudyFolder, folder: Path, results: Results, **changes: Any) -> list[Chart]:
    study = load_study(studies.write(**{"columns": ["frechet_distance"], "show_pretraining": False, **changes}))
    return study_charts(make_table(study, made_up(study, results, folder), (0,)))


def everywhere(point: Point) -> dict[str, float]:
    return {"frechet_distance": 1.0, "precision": 0.5}


def test_each_point_of_a_sweep_has_a_curve_over_iterations(studies: StudyFolder, tmp_path: Path) -> None:
    def results(point: Point) -> dict[str, float]:
        return {"frechet_distance": (point.iteration or 0) + 100.0 * dict(point.values)["objective.perceptual.blocks"]}

    arms = {"lpl": {**LPL, "sweep": {"objective.perceptual.blocks": [1, 2]}}}
    posttraining = {"training": {"steps": 3}}
    (chart,) = charts(studies, tmp_path, results, arms=arms, iterations=1, posttraining=posttraining)
    assert [(line.label, list(line.x), list(line.y)) for line in chart.lines] == [
        ("lpl, blocks=1", [0, 1, 2, 3], [100, 101, 102, 103]),
        ("lpl, blocks=2", [0, 1, 2, 3], [200, 201, 202, 203]),
    ]


def test_plots_that_are_asked_for_are_drawn_whether_or_not_the_table_has_them(
    studies: StudyFolder, tmp_path: Path
) -> None:
    arms = {"l2": {"sweep": {"sampling.guidance_scale": [1.0, 2.0]}}}
    plots = ["frechet_distance", "precision"]
    found = charts(studies, tmp_path, everywhere, arms=arms, columns=["precision"], plots=plots)
    assert [chart.title for chart in found] == ["Fréchet distance", "Precision"]


def test_a_plot_of_what_was_not_measured_is_named(studies: StudyFolder, tmp_path: Path) -> None:
    arms = {"l2": {"sweep": {"sampling.guidance_scale": [1.0, 2.0]}}}
    study = load_study(studies.write(arms=arms, columns=["precision"], plots=["precision", "recall"]))
    table = make_table(study, made_up(study, everywhere, tmp_path), (0,))
    assert any(line.startswith("Not measured: Recall") for line in table.caption)


def test_every_measure_that_judges_has_its_plot(studies: StudyFolder, tmp_path: Path) -> None:
    names = [
        "frechet_distance",
        "kernel_distance",
        "sliced_wasserstein",
        "sliced_wasserstein_shared",
        "log_spectral_distance",
        "high_frequency_ratio",
        "contrast_ratio",
    ]
    arms = {"l2": {"sweep": {"sampling.guidance_scale": [1.0, 2.0]}}}
    found = charts(studies, tmp_path, lambda point: dict.fromkeys(names, 1.0), arms=arms, columns=names)
    assert len(found) == len(names)


def test_a_value_that_is_no_number_is_a_level_beside_the_curve(studies: StudyFolder, tmp_path: Path) -> None:
    arms = {"lpl": {**LPL, "sweep": {"objective.perceptual.sigma_threshold": [1.0, 3.0, None]}}}
    (chart,) = charts(studies, tmp_path, everywhere, arms=arms)
    assert [(line.label, list(line.x), line.dashed) for line in chart.lines] == [
        ("lpl", [1.0, 3.0], False),
        ("lpl, sigma_threshold=none", [1.0, 3.0], True),
    ]


def test_no_two_curves_look_alike(studies: StudyFolder, tmp_path: Path) -> None:
    sweep = {"sampling.guidance_scale": [1.0, 2.0], "sampling.steps": [2, 3, 4, 5, 6, 7, 8, 9]}
    (chart,) = charts(studies, tmp_path, everywhere, arms={"l2": {"sweep": sweep}})
    assert len({(line.colour, line.dashed) for line in chart.lines}) == len(chart.lines) == 8


def test_arms_that_are_swept_over_different_keys_have_charts_of_their_own(studies: StudyFolder, tmp_path: Path) -> None:
    blocks = {"objective.perceptual.blocks": [1, 2]}
    arms = {"l2": {"sweep": {"training.learning_rate": [1e-3, 2e-3]}}, "lpl": {**LPL, "sweep": blocks}}
    found = charts(studies, tmp_path, everywhere, arms=arms)
    assert [(chart.x.label, [line.label for line in chart.lines]) for chart in found] == [
        ("Learning rate", ["l2"]),
        ("Blocks", ["lpl"]),
    ]
