from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import zoo
from lpl.cli import app
from lpl.config import RecipeError
from lpl.study import PRETRAINING, load_study, study_recipe

STUDIES = sorted((Path(__file__).parent.parent / "studies").glob("*.yaml"))


@pytest.fixture
def study_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study that does everything, as small as it can be."""
    monkeypatch.setenv("LPL_CACHE", str(tmp_path / "cache"))
    zoo.make("stable_diffusion").save_pretrained(tmp_path / "vae")
    recipe = {
        "data": {"resolution": 16, "limit": 24},
        "autoencoder": {"path": str(tmp_path / "vae")},
        "denoiser": {"preset": "T", "patch_size": 1, "max_tokens_per_side": 8},
        "training": {"steps": 3, "batch_size": 4, "log_every": 1, "ema_decay": 0.5},
        "sampling": {"method": "euler", "steps": 2, "count": 12, "batch_size": 8},
        "evaluation": {"reference_limit": 24},
    }
    study = {
        "name": "tiny",
        "title": "A tiny study",
        "recipe": "recipe.yaml",
        "posttraining": {"training": {"steps": 2}},
        "arms": {
            "l2": {},
            "lpl": {"recipe": {"objective": {"perceptual": {"weight": 0.5}}}},
            "l2-equal-time": {"recipe": {"training": {"steps": 50}}, "same_time_as": "lpl"},
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


@pytest.mark.slow
def test_a_whole_study_from_photographs_to_a_report(study_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "runs"
    arguments = ["study", str(study_file), "--output", str(output)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    for name in (PRETRAINING, "l2", "lpl", "l2-equal-time"):
        assert json.loads((output / name / "run.json").read_text())["status"] == "complete"
        assert len(list((output / name / "samples" / "default").glob("0*.png"))) == 12
        assert (
            "reconstruction" in json.loads((output / name / "metrics.json").read_text())["sets"]["default"]["baselines"]
        )
    logged = [json.loads(line) for line in (output / "lpl" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged] == [1, 2]
    assert all(row["loss/perceptual"] >= 0 and "loss/perceptual/mid_block" in row for row in logged)
    assert "A tiny study" in (output / "report.html").read_text()
    assert "Contrast" in result.output

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in output.glob("*/samples/default/0*.png")}

    before = written()
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0, again.output
    assert written() == before  # what is done is not done again
    changed = CliRunner().invoke(app, [*arguments, "sampling.seed=5"])
    assert changed.exit_code == 0, changed.output
    assert written() != before


def test_arms_change_the_recipe_and_begin_from_the_pretraining(study_file: Path, tmp_path: Path) -> None:
    study = load_study(study_file)
    pretraining = study_recipe(study, PRETRAINING, tmp_path)
    lpl = study_recipe(study, "lpl", tmp_path, ["training.batch_size=5"])
    assert pretraining.training.steps == 3
    assert pretraining.training.initial_checkpoint is None
    assert lpl.training.steps == 2
    assert lpl.training.batch_size == 5
    assert lpl.training.initial_checkpoint == str(tmp_path / PRETRAINING)
    assert lpl.objective.perceptual is not None
    assert lpl.folder == tmp_path / "lpl"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": {"a": {"same_time_as": "b"}, "b": {}}}, "arms.a.same_time_as: b is not an arm listed before"),
        ({"arms": {"pretraining": {}}}, "choose another"),
        ({"arms": {}}, "arms: got"),
        ({"recipe": "none.yaml"}, "none.yaml: no such recipe file"),
        ({"arm": {}}, "arm: no such key; did you mean arms?"),
    ],
)
def test_mistakes_in_a_study_are_named(study_file: Path, change: dict, message: str) -> None:
    study_file.write_text(yaml.safe_dump(yaml.safe_load(study_file.read_text()) | change, sort_keys=False))
    with pytest.raises(RecipeError, match=message):
        load_study(study_file)


def test_a_mistake_in_the_last_arm_stops_the_study_before_it_starts(study_file: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(study_file.read_text())
    values["arms"]["l2-equal-time"]["recipe"] = {"training": {"stps": 1}}
    study_file.write_text(yaml.safe_dump(values, sort_keys=False))
    result = CliRunner().invoke(app, ["study", str(study_file), "--output", str(tmp_path / "runs")])
    assert result.exit_code == 1
    assert "training.stps: no such key; did you mean training.steps?" in result.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.name)
def test_every_study_of_the_repository_is_sound(path: Path, tmp_path: Path) -> None:
    study = load_study(path)
    for name in (PRETRAINING, *study.config.arms):
        assert study_recipe(study, name, tmp_path).name == name
