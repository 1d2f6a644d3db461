"""Every study of the paper's tables and figures, as small as it can be, from one store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_studies import StudyFolder

from lpl.denoisers import mmdit
from lpl.study import bundled_studies, load_study
from lpl.study import timing as study_timing
from lpl.training import batch_size

SIZES = (
    "pretraining.training.steps=3",
    "posttraining.training.steps=4",
    "perceptual.matching_batches=2",
    "training.batch_size=4",
    "training.log_every=1",
    "training.warmup_steps=0",
    "data.limit=24",
    "data.resolution=16",
    "denoiser.patch_size=1",
    "sampling.count=8",
    "evaluation.reference_limit=24",
)
SCALES = ("tiny", "cpu", "small", "paper")
PLOTTED = {"figures14-16", "figures15-18", "figure20", "ablation-blocks", "ablation-weight"}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyFolder]:
    """One store for all of them, and a denoiser of a hundredth of the size."""
    folder = tmp_path_factory.mktemp("bundled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LPL_CACHE", str(folder / "cache"))
        patch.setenv("COLUMNS", "160")
        patch.setitem(mmdit.PRESETS, "T", mmdit.Preset(width=32, depth=3, heads=1))
        patch.setattr(study_timing, "ROUNDS", 1)
        patch.setattr(study_timing, "TURN_SECONDS", 0.01)
        yield StudyFolder(folder)


def run(shelf: StudyFolder, name: str, *more: str) -> list[dict[str, Any]]:
    """Runs a study at tiny, and returns its rows."""
    result = shelf.run(name, *SIZES, *more)
    assert result.exit_code == 0, result.output
    output = shelf.path / "out" / name
    page = (output / "report.html").read_text()
    assert "What the study found" in page
    assert ('class="chart"' in page.split('id="pictures"')[0]) == (name in PLOTTED or name == "table9")
    rows: list[dict[str, Any]] = json.loads((output / "results.json").read_text())["rows"]
    return rows


def values(rows: list[dict[str, Any]], column: str) -> dict[str, float]:
    """One column by row; every row has a number."""
    return {row["row"]: row["columns"][column]["values"]["0"] for row in rows}


@pytest.mark.parametrize("name", list(bundled_studies()))
@pytest.mark.parametrize("scale", SCALES)
def test_every_recipe_of_every_scale_is_sound(name: str, scale: str) -> None:
    from evidence import NothingMeasured

    from lpl.study.planning import plan, plan_selection

    own = name in ("demo", "scenes-128")
    if own and scale != "tiny":
        pytest.skip("has one size")
    study = load_study(name, None if own else scale)
    if study.config.select:
        assert plan_selection(study, NothingMeasured())
    points = plan(study, NothingMeasured())
    assert set(study.config.arms) <= {point.arm for point in points}


@pytest.mark.slow
def test_headline(shelf: StudyFolder) -> None:
    rows = run(shelf, "headline", "seeds=[0]")
    steps = values(rows, "steps")
    assert steps["ℓ2"] == steps["LPL"] == 4
    assert steps["ℓ2, LPL's time"] > 4
    assert rows[1]["columns"]["sliced_wasserstein"]["verdict"] == "too few seeds"
    # At equal time ℓ2 is compared with LPL itself.
    distances = values(rows, "sliced_wasserstein")
    told = rows[2]["columns"]["sliced_wasserstein"]["difference"].replace("−", "-")
    assert float(told) == pytest.approx(distances["ℓ2, LPL's time"] - distances["LPL"], abs=0.06)


@pytest.mark.slow
def test_table5(shelf: StudyFolder) -> None:
    shorter = [
        f"arms.latent-lpips{gate}.recipe.objective.perceptual.classifier_training.steps=2" for gate in ("", "-gated")
    ]
    rows = run(shelf, "table5", "separate_processes=false", "sampling.steps=1", *shorter)
    assert len(values(rows, "sliced_wasserstein")) == 8
    arms = [row for row in rows if row["arm"] != "pretraining"]
    assert all(weight > 0 for row, weight in values(arms, "perceptual_weight").items() if row != "ℓ2")
    assert all(speed > 0 for speed in values(arms, "speed").values())
    assert all(row["columns"]["peak_memory"]["values"]["0"] > 0 for row in arms)
    assert rows[6]["columns"]["frechet_distance"]["paper"] == "3.79"


@pytest.mark.slow
def test_table6(shelf: StudyFolder) -> None:
    rows = run(shelf, "table6", "sampling.steps=1")
    gains = {}
    for row in rows[:4]:
        logged = Path(row["runs"]["0"]) / "metrics.jsonl"
        gains[row["arm"]] = json.loads(logged.read_text().splitlines()[-1]).get("gate_gain")
    assert gains.pop("gated") > 0  # measured, not set
    assert set(gains.values()) == {None}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["figures14-16", "figures15-18"])
def test_figures_over_iterations(shelf: StudyFolder, name: str) -> None:
    ema = "posttraining.training.ema_start=2"
    rows = run(shelf, name, "iterations=2", ema, "sampling.steps=1")
    scratch = name == "figures14-16"
    assert [row["iteration"] for row in rows] == [2, 4, 2, 4] if scratch else [0, 2, 4, 0, 2, 4]
    assert len(values(rows, "sliced_wasserstein")) == len(rows)
    page = (shelf.path / "out" / name / "report.html").read_text()
    assert "the average of weights begins" in page


def test_table8_counts_without_training(shelf: StudyFolder) -> None:
    result = shelf.run("table8", "denoiser.preset=T")  # XL takes half a minute
    assert result.exit_code == 0, result.output
    rows = {
        row["arm"]: row["columns"] for row in json.loads((shelf.path / "out/table8/results.json").read_text())["rows"]
    }
    flops = {arm: columns["flops"]["values"]["0"] for arm, columns in rows.items()}
    # The same model on four times the tokens, in a fourth of the batch: attention alone costs more, up to four times.
    assert 1 < flops["xl-512"] / flops["xl-256"] < 4
    assert flops["xl-256-lpl"] > flops["xl-256"]
    assert flops["own-lpl"] > flops["own"] > 0
    total = rows["xl-512"]["total_flops"]["values"]["0"]
    assert total == pytest.approx((600_000 * flops["xl-256"] + 120_000 * flops["xl-512"]) / 1e6)
    batch = rows["xl-256"]["matching_batch"]["values"]["0"]
    assert batch == pytest.approx(63.342 / (flops["xl-256"] / 64))
    assert rows["xl-512-lpl"]["flops"]["paper"].endswith("(×1.54)")


@pytest.mark.slow
def test_table7(shelf: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "START", 2)
    monkeypatch.setattr(batch_size, "MOST", 4)  # samples that are tried
    settings = ["memory_limit=64", "separate_processes=false", "posttraining.training.time_budget=0.3"]
    rows = run(shelf, "table7", *settings, "posttraining.training.steps=100000", "sampling.steps=1")
    arms = [row for row in rows if row["arm"] != "pretraining"]
    assert set(values(arms, "batch_size").values()) == {4}
    assert all(seconds == pytest.approx(0.3, abs=0.5) for seconds in values(arms, "seconds").values())
    assert all(0 < steps < 100_000 for steps in values(arms, "steps").values())
    assert arms[0]["columns"]["steps"]["paper"] == "122,500"


@pytest.mark.slow
def test_table9(shelf: StudyFolder) -> None:
    smaller = [f"arms.{arm}.throughout.sampling.steps=1" for arm in ("flow-ot", "ddpm-epsilon", "ddpm-v")]
    rows = run(shelf, "table9", "sweep.sampling.guidance_scale=[1.0,4.0]", *smaller)
    assert [row["arm"] for row in rows] == ["flow-ot", "ddpm-epsilon", "ddpm-v"]
    results = json.loads((shelf.path / "out" / "table9" / "results.json").read_text())
    assert set(results["chosen"]) == {"flow-ot", "ddpm-epsilon", "ddpm-v"}
    for row in rows:
        assert row["at"] == results["chosen"][row["arm"]]
        # The figure's samples are not those that it was chosen by.
        run_folder = Path(row["runs"]["0"])
        sets = [json.loads(file.read_text()) for file in run_folder.glob("samples/*/samples.json")]
        chosen = [
            entry for entry in sets if entry["settings"]["guidance_scale"] == row["at"]["sampling.guidance_scale"]
        ]
        assert {entry["seed"] for entry in chosen} == {0, 10_000}
    assert "chosen on samples of other noise" in " ".join(results["caption"])
    assert "Chosen at an end of its sweep" in " ".join(results["caption"])  # a sweep of two has nothing between


@pytest.mark.slow
def test_figures21_to_23_sample_two_runs_in_two_ways(shelf: StudyFolder) -> None:
    rows = run(shelf, "figures21-23", "sampling.steps=1")
    runs = {row["arm"]: row["runs"]["0"] for row in rows}
    assert runs["l2-plain"] == runs["l2"] != runs["lpl"] == runs["lpl-plain"]
    assert len(set(values(rows, "sliced_wasserstein").values())) == 4


@pytest.mark.slow
def test_ablation_estimators_match_the_same_weight(shelf: StudyFolder) -> None:
    window = "arms.window.recipe.objective.perceptual.estimator.window=2"  # latents are of 2 × 2
    rows = run(shelf, "ablation-estimators", "sampling.steps=1", window)
    weights = values([row for row in rows if row["arm"] not in ("l2", "pretraining")], "perceptual_weight")
    assert len(weights) == 4
    assert len(set(weights.values())) == 1
    assert len(set(values(rows, "sliced_wasserstein").values())) > 3


@pytest.mark.slow
def test_ablation_paradigms(shelf: StudyFolder) -> None:
    smaller = [
        f"arms.{arm}-{loss}.throughout.sampling.steps=1" for arm in ("ddpm-epsilon", "ddpm-v") for loss in ("l2", "lpl")
    ]
    rows = run(shelf, "ablation-paradigms", "sampling.steps=1", *smaller)
    assert len(values(rows, "sliced_wasserstein")) == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("figure20", 7),
        ("ablation-blocks", 6),
        ("ablation-normalization", 7),
        ("ablation-outliers", 5),
        ("ablation-depth-weights", 4),
        ("ablation-weight", 6),
    ],
)
def test_sweeps_of_the_loss(shelf: StudyFolder, name: str, rows: int) -> None:
    found = run(shelf, name, "sampling.steps=1")
    assert len(values(found, "sliced_wasserstein")) == rows
    assert [row["arm"] for row in found] == ["l2", *["lpl"] * (rows - 2), "pretraining"]
