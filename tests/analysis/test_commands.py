"""The commands on a tiny autoencoder of random weights: what they write, and what they say of mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

import zoo
from lpl.analysis import features
from lpl.analysis.commands import analyze, calibrate
from lpl.config import build_recipe, load_recipe
from lpl.training import train

app = typer.Typer()
app.add_typer(analyze, name="analyze")
app.command()(calibrate)

FAST = ["--resolution", "32", "--limit", "3"]


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("autoencoder")
    zoo.make("stable_diffusion").save_pretrained(folder)
    return str(folder)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def written(folder: Path, name: str) -> dict[str, Any]:
    """The JSON file, once every picture that it names is known to be there and readable."""
    content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    assert content["analysis"] == name
    assert content["autoencoder"]["kind"] == "AutoencoderKL"
    for path in _pictures(content):
        with Image.open(folder / path) as picture:
            picture.verify()
    return content


def _pictures(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [path for entry in value.values() for path in _pictures(entry)]
    if isinstance(value, list):
        return [path for entry in value for path in _pictures(entry)]
    named = isinstance(value, str) and not value.startswith("/") and "[" not in value
    return [value] if named and value.endswith((".png", ".webp")) and "photograph" not in value else []


def test_interpolation(autoencoder: str, tmp_path: Path) -> None:
    result = run(
        "analyze",
        "interpolation",
        autoencoder,
        "photographs",
        *FAST,
        "--scale",
        "1.5",
        "--scale",
        "2",
        "--pictures",
        "1",
        "--output",
        str(tmp_path),
    )
    assert result.exit_code == 0, result.output
    content = written(tmp_path, "interpolation")
    assert [variant["scale"] for variant in content["results"]["variants"]] == [1.5, 2.0] * 4
    assert len(content["images"]) == 3
    assert len(content["images"][0]["decodes"]) == 8
    assert {"figure-11-000", "correlations"} <= set(content["figures"])
    values = content["results"]["measures"]["latent_mse"]["values"]
    assert len(values) == 3
    assert len(values[0]) == 8
    assert [claim["better"] for claim in content["results"]["claims"]] == ["latent-nearest-1.5", "latent-nearest-2"]
    assert "nearest, bilinear 2" in result.output


def test_perturbation(autoencoder: str, tmp_path: Path) -> None:
    result = run(
        "analyze",
        "perturbation",
        autoencoder,
        "photographs",
        *FAST,
        "--limit",
        "1",
        "--position",
        "0,3",
        "--position",
        "2,1",
        "--statistics",
        "2",
        "--output",
        str(tmp_path),
    )
    assert result.exit_code == 0, result.output
    content = written(tmp_path, "perturbation")
    assert content["results"]["positions"] == [[0, 3], [2, 1]]
    assert "worst-positions" in content["figures"]
    assert content["images"][0]["decodes"]["tile"] == [32, 32]
    assert content["images"][0]["influence"]["tile"] == [4, 4]
    assert [entry["position"] for entry in content["images"][0]["worst"]] in ([[0, 3], [2, 1]], [[2, 1], [0, 3]])


def test_features(autoencoder: str, tmp_path: Path) -> None:
    result = run(
        "analyze",
        "features",
        autoencoder,
        "photographs",
        *FAST,
        "--block",
        "mid_block",
        "--block",
        "up_blocks.2",
        "--channel",
        "5",
        "--pictures",
        "1",
        "--output",
        str(tmp_path),
    )
    assert result.exit_code == 0, result.output
    content = written(tmp_path, "features")
    assert list(content["results"]["blocks"]) == ["mid_block", "up_blocks.2"]
    assert content["settings"]["channels_shown"] == {"mid_block": [5], "up_blocks.2": [5]}
    maps = content["images"][0]["maps"]["up_blocks.2"]
    assert sorted(maps["channels"]) == list(range(32))
    with Image.open(tmp_path / maps["before"]) as sheet:
        assert sheet.size == (8 * 32, 4 * 32)


def test_linear(autoencoder: str, tmp_path: Path) -> None:
    result = run(
        "analyze",
        "linear",
        autoencoder,
        "photographs",
        *FAST,
        "--resolution",
        "16",
        "--steps",
        "8",
        "--probes",
        "1",
        "--metrics",
        "1",
        "--output",
        str(tmp_path),
    )
    assert result.exit_code == 0, result.output
    content = written(tmp_path, "linear")
    assert [entry["shape"] for entry in content["results"]["equations"]] == ["tall", "square", "wide"]
    assert max(entry["identity_error"] for entry in content["results"]["equations"]) < 1e-6
    assert len(content["images"][0]["metric"]["ritz_values"]) == 8
    assert len(content["results"]["taylor"]["errors"]) == 3
    predictions = content["results"]["taylor_of_predictions"]
    assert predictions["predictor"].startswith("Gaussian")
    assert predictions["latent_errors"] == sorted(predictions["latent_errors"])


def test_calibrate(autoencoder: str, tmp_path: Path) -> None:
    result = run(
        "calibrate",
        autoencoder,
        "photographs",
        *FAST,
        "--gradient-images",
        "2",
        "--path",
        "ddpm",
        "--prediction-type",
        "v_prediction",
        "--block",
        "mid_block",
        "--block",
        "up_blocks.0",
        "--output",
        str(tmp_path),
    )
    assert result.exit_code == 0, result.output
    content = written(tmp_path, "calibration")
    recipe = load_recipe(tmp_path / content["results"]["recipe"])
    assert recipe.objective.perceptual is not None
    assert recipe.objective.perceptual.weight == content["results"]["settings"]["weight"]
    assert "sigma_threshold" in result.output
    assert content["settings"]["diffusion"]["prediction_type"] == "v_prediction"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["interpolation", "photographs", *FAST, "--scale", "6"], "too small for s = 6"),
        (["interpolation", "photographs", "--resolution", "33"], "got 33, takes a multiple of 8"),
        (["interpolation", "photographs", *FAST, "--outliers", "some"], "outliers: got 'some', takes deep, all, none"),
        (["interpolation", "photographs", *FAST, "--extractor", "x.py:f"], "x.py:f: no such file"),
        (["perturbation", "photographs", *FAST, "--position", "9,9"], "(9, 9) lies outside the latent"),
        (["perturbation", "photographs", *FAST, "--position", "1;2"], "position: got '1;2', takes ROW,COLUMN"),
        (["features", "photographs", *FAST, "--block", "up_blocks.9"], "no block 'up_blocks.9'"),
        (
            ["features", "photographs", *FAST, "--channel", "999"],
            "channel: got 999, block mid_block has channels 0 to",
        ),
        (["features", "EMPTY", *FAST], "holds no images"),
        (["interpolation", "EMPTY", *FAST], "holds no images"),
        (["perturbation", "EMPTY", *FAST], "holds no images"),
        (["linear", "EMPTY", *FAST], "holds no images"),
        (["linear", "photographs", *FAST, "--steps", "1"], "steps: got 1"),
        (["linear", "photographs", "--resolution", "36"], "got 36, takes a multiple of 8"),
        (["interpolation", "photographs", *FAST, "--scale", "2", "--block", "mid"], "no block 'mid'"),
        (["interpolation", "photographs", *FAST, "--scale", "2", "--scale", "2"], "scales: got 2 more than once"),
        (["perturbation", "photographs", *FAST, "--position=-1,0"], "(-1, 0) lies outside the latent"),
        (["perturbation", "photographs", *FAST, "--window-radius", "2"], "latents of 4×4 take 0 to 1"),
        (["perturbation", "photographs", *FAST, "--variance", "0"], "variance: got 0"),
        (
            ["features", "photographs", *FAST, "--device", "gpu"],
            "device: got 'gpu', takes cpu, or a GPU that torch finds",
        ),
        (["features", "photographs", *FAST, "--device", "cuda:99"], "device: got 'cuda:99', takes cpu"),
    ],
)
def test_mistakes_are_named(autoencoder: str, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    name, data, *options = (str(tmp_path / "empty") if value == "EMPTY" else value for value in arguments)
    result = run("analyze", name, autoencoder, data, *options, "--output", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused_before_anything_is_computed(
    autoencoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "study_features", lambda *_, **__: pytest.fail("computed"))
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        result = run("analyze", "features", autoencoder, "photographs", *FAST, "--output", str(output))
        assert result.exit_code == 1
        assert f"{tmp_path / 'file'} is a file; takes a folder" in " ".join(result.output.split())


def test_a_denoiser_of_other_latents_is_refused(autoencoder: str, tmp_path: Path, trained: Trained) -> None:
    own, other = trained(autoencoder, 32), trained(str(_another(tmp_path)), 32)
    for run_folder, options, message in (
        (other, FAST, "was trained on latents of another autoencoder"),
        (own, ["--resolution", "64", "--limit", "3"], "resolution: got 64, latents of 8 × 8; "),
    ):
        result = run("calibrate", autoencoder, "photographs", *options, "--denoiser", str(run_folder))
        assert result.exit_code == 1
        assert message in " ".join(result.output.split())


Trained = Callable[[str, int], Path]


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    """Trains a denoiser for a step in an autoencoder's latents."""

    def train_in(autoencoder: str, resolution: int) -> Path:
        values = {
            "output": str(tmp_path / f"run-{Path(autoencoder).name}"),
            "data": {"resolution": resolution, "limit": 4, "cache": str(tmp_path / f"cache-{Path(autoencoder).name}")},
            "autoencoder": {"path": autoencoder},
            "denoiser": {"preset": "T", "patch_size": 1},
            "training": {"steps": 1, "batch_size": 2},
        }
        return train(build_recipe(values))

    return train_in


def _another(folder: Path) -> Path:
    torch.manual_seed(1)
    zoo.kl(levels=4).save_pretrained(folder / "another")
    return folder / "another"


def test_mistakes_of_calibrate_are_named(autoencoder: str, tmp_path: Path) -> None:
    for options, message in (
        (["--path", "straight"], "path: got 'straight', takes flow_ot, ddpm"),
        (["--denoiser", str(tmp_path / "none")], "denoiser:"),
        (["--limit", "1"], "calibration takes 2 or more"),
        (["--block", "up_blocks.7"], "no block 'up_blocks.7'"),
        (["--resolution", "36"], "got 36, takes a multiple of 8"),
    ):
        result = run("calibrate", autoencoder, "photographs", *FAST, *options, "--output", str(tmp_path / "out"))
        assert result.exit_code == 1
        assert message in result.output
    (tmp_path / "empty").mkdir()
    empty = run("calibrate", autoencoder, str(tmp_path / "empty"), *FAST)
    assert empty.exit_code == 1
    assert "holds no images" in empty.output
    missing = run("calibrate", str(tmp_path / "nothing here"), "photographs")
    assert missing.exit_code == 1
    assert "autoencoder" in missing.output
