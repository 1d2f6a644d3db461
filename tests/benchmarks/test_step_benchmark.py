from __future__ import annotations

import json

import pytest
import typer
from diffusers import AutoencoderKL
from typer.testing import CliRunner

from benchmarks import stages, step
from benchmarks.stages import Profile, remarks
from lpl.denoisers.mmdit import PRESETS, Preset


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The demo's recipe at a size for a test."""
    monkeypatch.setitem(PRESETS, "T", Preset(width=32, depth=2, heads=2))
    monkeypatch.setenv("LPL_CACHE", str(tmp_path / "cache"))
    model = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    )
    model.save_pretrained(tmp_path / "autoencoder")
    sizes = ["data.resolution=32", "data.limit=12", "training.batch_size=2", "sampling.count=2", "sampling.steps=2"]
    return [f"autoencoder.path={tmp_path / 'autoencoder'}", *sizes, "evaluation.reference_limit=8"]


def test_command_profiles_every_command(small, tmp_path) -> None:
    app = typer.Typer()
    app.command()(step.main)
    output, page = tmp_path / "out.json", tmp_path / "out.md"
    files = ["--json", str(output), "--markdown", str(page)]
    called = CliRunner().invoke(app, ["recipes/demo.yaml", *small, "--steps", "3", "--warmup", "1", *files])
    assert called.exit_code == 0, called.output
    profiles = {profile["name"]: profile for profile in json.loads(output.read_text())["profiles"]}
    assert list(profiles) == ["Encoding", "Training, ℓ2", "Training, LPL", "Sampling", "Evaluation"]
    for profile in profiles.values():
        assert sum(profile["seconds"].values()) == pytest.approx(profile["total"], rel=1e-6)
    assert profiles["Training, ℓ2"]["calls"][stages.FORWARD] == 3  # the warm-up is left out
    assert stages.PERCEPTUAL not in profiles["Training, ℓ2"]["seconds"]
    lpl = profiles["Training, LPL"]["seconds"]
    for stage in (stages.PERCEPTUAL, stages.PERCEPTUAL_BACKWARD, stages.BACKWARD, stages.EMA_STAGE, stages.LOGGING):
        assert lpl[stage] > 0
    sampling = profiles["Sampling"]
    assert sampling["calls"][stages.FORWARD] == 4  # Heun: two a step
    assert sampling["numbers"]["largest"] == 4  # two images, guided in one batch
    assert profiles["Encoding"]["threads"]["reading and cropping"] > 0
    assert "What stands out:" in page.read_text()


def profile(name: str, seconds: dict[str, float], **numbers: float) -> Profile:
    return Profile(name, "", sum(seconds.values()), seconds, {}, {}, [], numbers)


def test_what_stands_out() -> None:
    quiet = profile("Training, ℓ2", {stages.FORWARD: 98.5, stages.EMA_STAGE: 1.0, stages.LOGGING: 0.5})
    assert remarks(quiet) == []
    loud = profile("Training, ℓ2", {stages.FORWARD: 89.0, stages.EMA_STAGE: 3.0, stages.DATA: 8.0})
    assert remarks(loud) == [
        "Training, ℓ2: average and logging take 3.0% (at most 2 % wanted).",
        "Training, ℓ2: waits for data 8.0% of the time (never wanted).",
    ]
    twice = profile("Sampling", {stages.FORWARD: 1.0}, guidance=2.0, largest=8.0, batch=8.0)
    assert remarks(twice) == ["Sampling: guidance does not run in one batch of twice the size."]
    once = profile("Sampling", {stages.FORWARD: 1.0}, guidance=2.0, largest=16.0, batch=8.0)
    assert remarks(once) == []
