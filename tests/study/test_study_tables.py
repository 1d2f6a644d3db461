"""The table: means, spreads, paired differences and the paper's figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from evidence import made_up
from rich.console import Console
from scipy import stats
from small_studies import STUDY, StudyFolder

from lpl.study import load_study, tables
from lpl.study.identity import Adopted
from lpl.study.planning import Point
from lpl.study.report import lead
from lpl.study.tables import StudyTable, make_table
from lpl.study.terminal import markdown_table, terminal_table
from lpl.training.checkpoints import save_checkpoint

LPL = STUDY["arms"]["lpl"]
# One value a seed; the seeds differ more than the arms do, and the arms by nearly the same for each seed.
VALUES = {"l2": (4.0, 6.0, 5.0), "lpl": (3.5, 5.4, 4.6), "worse": (4.4, 6.5, 5.5), "same": (4.1, 5.8, 5.05)}


@pytest.fixture
def table(studies: StudyFolder, tmp_path: Path) -> StudyTable:
    arms = {
        "l2": {"label": "ℓ2", "paper": {"frechet_distance": 4.88, "images_per_second": 16.6}},
        "lpl": {**LPL, "label": "LPL", "paper": {"frechet_distance": 3.79, "images_per_second": 9.6}},
        "worse": {"recipe": {"training": {"weight_decay": 0.1}}},
        "same": {"recipe": {"training": {"weight_decay": 0.2}}},
    }
    file = studies.write(
        arms=arms,
        seeds=[0, 1, 2],
        columns=["frechet_distance", "contrast_ratio", "images_per_second", "steps"],
        paper={"source": "Table 5", "setting": "FID", "units": {"images_per_second": "an A100"}},
        show_pretraining=False,
        notes=["A note."],
    )
    study = load_study(file)

    def results(point: Point) -> dict[str, float] | None:
        if (point.arm, point.seed) == ("same", 1):
            return None
        value = VALUES[point.arm][point.seed]
        return {"frechet_distance": value, "contrast_ratio": 2.0 if point.arm == "lpl" else 0.4}

    return make_table(study, made_up(study, results, tmp_path / "runs", images_per_second=8.0), (0, 1, 2))


def cells(table: StudyTable, column: str) -> dict[str, object]:
    index = [entry.name for entry in table.columns].index(column)
    return {row.arm: entries[index] for row, entries in zip(table.rows, table.cells, strict=True)}


def test_numbers_are_means_with_the_sample_standard_deviation(table: StudyTable) -> None:
    found = cells(table, "frechet_distance")
    assert found["l2"].text == "5.000 ± 1.000"
    assert found["lpl"].text == f"{np.mean(VALUES['lpl']):.3f} ± {np.std(VALUES['lpl'], ddof=1):.3f}"
    assert found["same"].text == "4.575 ± 0.672 (2 of 3 seeds)"
    assert cells(table, "steps")["lpl"].text == "2"


def test_differences_are_paired_by_seed(table: StudyTable) -> None:
    found = cells(table, "frechet_distance")
    interval = stats.ttest_rel(VALUES["lpl"], VALUES["l2"]).confidence_interval(0.95)
    assert found["lpl"].difference == f"−0.500 [−{-interval.low:.3f}, −{-interval.high:.3f}]"
    # Unpaired, the spread over seeds would hide this.
    assert stats.ttest_ind(VALUES["lpl"], VALUES["l2"]).pvalue > 0.5
    assert (found["lpl"].verdict, found["worse"].verdict, found["same"].verdict) == ("better", "worse", "undecided")
    assert (found["l2"].difference, found["l2"].verdict) == ("", None)


def test_a_ratio_is_judged_by_its_distance_from_one(table: StudyTable) -> None:
    # 2 is nearer to 1 than 0.4 is, as 1/2 would be.
    assert cells(table, "contrast_ratio")["lpl"].verdict == "better"


def test_the_papers_figures_stand_beside_ours_with_their_ratios(table: StudyTable) -> None:
    assert cells(table, "frechet_distance")["lpl"].paper == "3.79"
    assert cells(table, "images_per_second")["lpl"].paper == "9.6\N{NO-BREAK SPACE}an A100 (×0.58)"
    assert cells(table, "images_per_second")["lpl"].difference == "×1.00"
    assert cells(table, "frechet_distance")["worse"].paper == ""
    assert any(line.startswith("Paper: Table 5 (FID).") for line in table.caption)
    assert table.caption[-1] == "A note."


def test_the_caption_says_what_spread_and_interval_are(table: StudyTable) -> None:
    caption = " ".join(table.caption)
    assert "sample standard deviation over 3 seeds (0, 1, 2)" in caption
    assert "paired by seed" in caption
    assert "All seeds begin from one pre-training" in caption


@pytest.mark.parametrize(("weights", "told"), [("raw", True), ("ema", False)])
def test_the_caption_says_where_arms_begin_from_other_weights(
    studies: StudyFolder, tmp_path: Path, weights: str, told: bool
) -> None:
    file = studies.write(arms={"l2": {}, "lpl": LPL}, posttraining={"training": {"initial_weights": weights}})
    study = load_study(file)
    made = made_up(study, lambda point: {"frechet_distance": 1.0}, tmp_path / "runs")
    caption = " ".join(make_table(study, made, (0,)).caption)
    assert ("pretraining is of averaged weights, arms begin from raw ones" in caption) == told


@pytest.mark.parametrize("width", [70, 200])
def test_terminal_and_markdown_hold_the_same_numbers(table: StudyTable, width: int) -> None:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal_table(table))
    shown = console.export_text()
    markdown = markdown_table(table)
    assert "paper 3.79" in markdown
    assert markdown.splitlines()[0].startswith("|  | Fréchet distance ↓ | Contrast ratio →")
    for text in ("5.000 ± 1.000", "better", "not told apart"):
        assert text in markdown
    assert "5.000" in shown
    assert "better" in shown


def test_one_seed_tells_no_rows_apart(studies: StudyFolder, tmp_path: Path) -> None:
    study = load_study(studies.write(arms={"l2": {}, "lpl": LPL}, show_pretraining=False))
    values = {"l2": 4.0, "lpl": 1.0}
    evidence = made_up(study, lambda point: {"frechet_distance": values[point.arm]}, tmp_path / "runs")
    table = make_table(study, evidence, (0,))
    assert cells(table, "frechet_distance")["lpl"].verdict == "too few seeds"
    assert cells(table, "frechet_distance")["lpl"].difference == "−3.000"
    assert "no two rows can be told apart" in table.caption[0]


def test_an_arm_may_be_compared_with_another_than_the_baseline(studies: StudyFolder, tmp_path: Path) -> None:
    arms = {
        "l2": {},
        "other": {"recipe": {"seed": 0, "training": {"weight_decay": 0.1}}},
        "lpl": {**LPL, "against": "other"},
    }
    study = load_study(studies.write(arms=arms, show_pretraining=False))
    values = {"l2": 4.0, "other": 8.0, "lpl": 7.0}
    evidence = made_up(study, lambda point: {"frechet_distance": values[point.arm]}, tmp_path / "runs")
    table = make_table(study, evidence, (0,))
    found = cells(table, "frechet_distance")
    assert (found["other"].difference, found["lpl"].difference) == ("+4.000", "−1.000")
    assert "Differences to other rows: lpl to other." in table.caption
    said = "3 rows over 1 seed; differences are to l2 but where the notes below the table say otherwise."
    assert lead(table) == said


def test_the_page_says_what_differences_are_to(table: StudyTable) -> None:
    assert lead(table) == "4 rows over 3 seeds; differences are to ℓ2."


def test_a_measure_that_nothing_has_is_named_rather_than_shown(studies: StudyFolder, tmp_path: Path) -> None:
    study = load_study(
        studies.write(arms={"l2": {}}, columns=["frechet_distance", "precision"], show_pretraining=False)
    )
    table = make_table(study, made_up(study, lambda point: {"precision": 0.5}, tmp_path / "runs"), (0,))
    assert [column.name for column in table.columns] == ["precision"]
    assert "Not measured: Fréchet distance; it needs features, set evaluation.extractor." in table.caption


def test_a_measure_that_was_left_out_is_named_with_the_reason_that_the_evaluation_noted(
    studies: StudyFolder, tmp_path: Path
) -> None:
    study = load_study(studies.write(show_pretraining=False, columns=["frechet_distance", "precision"]))
    evidence = made_up(study, lambda point: {"precision": 0.5}, tmp_path / "runs")
    for entry in evidence:
        assert entry.measurement is not None
        entry.measurement["entry"]["notes"] = ["frechet_distance: 250 samples are too few", "precision: is nan"]
    table = make_table(study, evidence, (0,))
    assert "Not measured: Fréchet distance; 250 samples are too few." in table.caption


@pytest.mark.parametrize(
    ("swept", "value", "noted"),
    [
        ([1.0, 2.0, 3.0], 3.0, True),
        ([1.0, 2.0, 3.0], 2.0, False),
        ([2.0, 1.0], 1.0, True),
        ([True, False], True, False),
    ],
)
def test_a_choice_at_an_end_of_its_sweep_is_noted(swept: list, value: float, noted: bool) -> None:
    arms = {"l2": SimpleNamespace(label="ℓ2")}
    config = SimpleNamespace(arms=arms, sweep_of=lambda arm: {"sampling.guidance_scale": swept})
    made = SimpleNamespace(study=SimpleNamespace(config=config), chosen={"l2": (("sampling.guidance_scale", value),)})
    lines = tables._ends_in_words(made)
    assert bool(lines) == noted
    if noted:
        assert f"ℓ2 (guidance_scale={value:g})" in lines[0]


def test_a_collapsed_arm_leaves_the_table_standing(studies: StudyFolder, tmp_path: Path) -> None:
    study = load_study(studies.write(arms={"l2": {}, "lpl": LPL}, seeds=[0, 1, 2], show_pretraining=False))

    def results(point: Point) -> dict[str, float]:
        ratio = 0.0 if (point.arm, point.seed) == ("lpl", 1) else 0.9 + point.seed / 100
        return {"contrast_ratio": ratio, "frechet_distance": 1.0 + point.seed}

    table = make_table(study, made_up(study, results, tmp_path / "runs"), (0, 1, 2))
    assert cells(table, "contrast_ratio")["lpl"].verdict == "undecided"
    assert cells(table, "frechet_distance")["lpl"].text == "2.000 ± 1.000"


def test_what_a_run_has_that_is_no_number_is_left_out(studies: StudyFolder, tmp_path: Path) -> None:
    study = load_study(studies.write(arms={"l2": {}, "lpl": LPL}, seeds=[0, 1], columns=["seconds"]))
    evidence = made_up(study, lambda point: {}, tmp_path / "runs")
    (tmp_path / "runs" / "2" / "run.json").write_text('{"seconds": Infinity}')
    table = make_table(study, evidence, (0, 1))
    assert cells(table, "seconds")["lpl"].text == "10.00 (1 of 2 seeds)"


def test_rows_over_iterations_are_compared_at_their_own_alone(studies: StudyFolder, tmp_path: Path) -> None:
    arms = {"short": {}, "long": {"recipe": {"training": {"steps": 4}}}}
    study = load_study(studies.write(arms=arms, iterations=2, columns=["frechet_distance"]))
    evidence = made_up(study, lambda point: {"frechet_distance": 9.0 - (point.iteration or 0)}, tmp_path / "runs")
    table = make_table(study, evidence, (0,))
    differences = {row.label: row_cells[0].difference for row, row_cells in zip(table.rows, table.cells, strict=True)}
    assert differences == {
        "short, 0 steps": "",
        "short, 2 steps": "",
        "long, 0 steps": "0.000",
        "long, 2 steps": "0.000",
        "long, 4 steps": "",  # the baseline has no such row
    }


def test_a_swept_arm_is_compared_with_the_baseline_at_what_both_are_swept_over(
    studies: StudyFolder, tmp_path: Path
) -> None:
    sweep = {"objective.perceptual.blocks": [1, 2], "sampling.guidance_scale": [1.0, 2.0]}
    study = load_study(studies.write(arms={"l2": {}, "lpl": LPL}, sweep=sweep, show_pretraining=False))

    def results(point: Point) -> dict[str, float]:
        return {"frechet_distance": dict(point.values)["sampling.guidance_scale"] + (point.arm == "lpl") / 2}

    table = make_table(study, made_up(study, results, tmp_path / "runs"), (0,))
    assert [row[0].difference for row in table.cells] == ["", "", *["+0.500"] * 4]


def test_time_and_steps_over_iterations_are_those_so_far(studies: StudyFolder, tmp_path: Path) -> None:
    columns = ["steps", "seconds", "gradient_ratio", "images_per_second", "batch_size"]
    file = studies.write(arms={"l2": {}}, iterations=2, columns=columns, posttraining={"training": {"steps": 4}})
    study = load_study(file)
    evidence = made_up(study, lambda point: {}, tmp_path / "runs", images_per_second=3.0)
    for entry in evidence[1:]:
        assert entry.folder is not None
        for step in (2, 4):
            save_checkpoint(entry.folder / "checkpoints", step, {"model": {}}, {"seconds": 2.5 * step}, keep=9)
        rows = [{"step": step, "gradient_ratio": float(step)} for step in (1, 2, 3, 4)]
        (entry.folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    table = make_table(study, evidence, (0,))
    found = [[cell.summary and cell.summary.mean for cell in row] for row in table.cells]
    # Before its first step an arm has taken none, and what its start's run has is not its own.
    assert found == [[0, 0, None, None, None], [2, 5.0, 2.0, 3.0, 4], [4, 10.0, 3.5, 3.0, 4]]


def test_a_checkpoint_from_elsewhere_is_told_with_its_own_batch(studies: StudyFolder, tmp_path: Path) -> None:
    study = load_study(studies.write(arms={"l2": {}}, columns=["batch_size", "learning_rate"]))
    first, start = made_up(study, lambda point: {}, tmp_path / "runs")
    adopted = Adopted("small-pretraining", tmp_path, start.point.recipe)
    start = replace(start, point=replace(start.point, training=adopted))
    table = make_table(study, [first, start], (0,))
    assert [cell.text for cell in table.cells[1]] == ["–", "–"]
    own = start.point.recipe.model_dump(mode="json")
    own["training"] |= {"batch_size": 7, "learning_rate": 0.5}
    assert start.folder is not None
    (start.folder / "recipe.yaml").write_text(yaml.safe_dump(own))
    table = make_table(study, [first, start], (0,))
    assert [cell.summary and cell.summary.mean for cell in table.cells[1]] == [7, 0.5]
