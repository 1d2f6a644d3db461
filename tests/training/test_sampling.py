"""Sampling a run: files, seeds, labels, and what can't be sampled."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lpl.autoencoders import load_autoencoder
from lpl.config import SamplingConfig
from lpl.diffusion import make_path
from lpl.diffusion.samplers import initial_noise
from lpl.training import CheckpointError, load_denoiser, sample_run, train
from lpl.training.sampling import draw_latents, image_grid, sample_labels


@pytest.fixture
def run(tiny_recipe):
    return train(tiny_recipe(training__steps=10, training__learning_rate=3e-3))


def _images(folder):
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("0*.png"))]


def test_samples_are_written_with_all_that_a_report_needs(run, capsys):
    folder = sample_run(run, SamplingConfig(count=5, steps=3, seed=7), progress=False)
    assert folder == run / "samples" / "default"
    assert sorted(path.name for path in folder.iterdir()) == [
        *(f"{index:06d}.png" for index in range(5)),
        "grid.png",
        "samples.json",
    ]
    details = json.loads((folder / "samples.json").read_text())
    assert (details["labels"], details["seed"], details["classes"]) == ([0, 1, 0, 1, 0], 7, ["blue", "red"])
    assert details["settings"]["steps"] == 3
    assert details["checkpoint"] == str(run / "checkpoints" / "step-00000010")
    assert [image.shape for image in _images(folder)] == [(16, 16, 3)] * 5
    assert list(run.glob(".samples*")) == []
    assert capsys.readouterr().err.count("Sampling") == 0


@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_the_batch_size_does_not_change_the_images(run, method):
    config = SamplingConfig(count=5, steps=3, guidance_scale=2.0, method=method)
    alone, together = (
        _images(sample_run(run, config.model_copy(update={"batch_size": size}), f"batch-{size}", progress=False))
        for size in (2, 5)
    )
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1  # the denoiser's rounding may tip a pixel
    assert len({image.tobytes() for image in alone}) == 5


def test_euler_sampling_is_the_written_out_loop(run):
    folder = sample_run(run, SamplingConfig(count=1, steps=4, labels=(1,), weights="raw"), progress=False)
    denoiser, recipe, _ = load_denoiser(run, "raw")
    latents = initial_noise(0, [0], (4, 8, 8))
    with torch.no_grad():
        for step in range(4):
            time = 1 - step / 4
            latents = latents - denoiser(latents, torch.tensor([1000 * time]), torch.tensor([1])) / 4
    image = load_autoencoder(recipe.autoencoder.path).decode(latents)[0]
    expected = ((image + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert np.abs(_images(folder)[0] - expected).max() <= 1


def test_a_ddpm_run_is_sampled_by_ddim(tiny_recipe):
    settings = {"diffusion.path": "ddpm", "diffusion.prediction_type": "v_prediction", "sampling.method": "ddim"}
    settings |= {"objective.weighting": "min_snr"}
    run = train(tiny_recipe(training__steps=2, **{key.replace(".", "__"): value for key, value in settings.items()}))
    config = SamplingConfig(method="ddim", steps=3, eta=1.0, count=3)
    first, second = (_images(sample_run(run, config, name, progress=False)) for name in ("one", "two"))
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
    assert len({image.tobytes() for image in first}) == 3
    with pytest.raises(ValueError, match="method: got 'euler'"):
        sample_run(run, SamplingConfig(), progress=False)


def test_a_set_is_replaced_as_a_whole(run):
    sample_run(run, SamplingConfig(count=4, steps=1), progress=False)
    folder = sample_run(run, SamplingConfig(count=2, steps=1, seed=1), progress=False)
    assert len(_images(folder)) == 2
    assert json.loads((folder / "samples.json").read_text())["seed"] == 1


def test_a_failed_sampling_leaves_the_old_set(run, monkeypatch):
    folder = sample_run(run, SamplingConfig(count=2, steps=1), progress=False)
    before = _images(folder)
    monkeypatch.setattr("lpl.training.sampling.image_grid", lambda images: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sample_run(run, SamplingConfig(count=3, steps=1, seed=5), progress=False)
    assert all(np.array_equal(one, other) for one, other in zip(before, _images(folder), strict=True))


def test_labels_are_taken_in_turn_and_checked():
    assert sample_labels(SamplingConfig(count=5), ["a", "b", "c"]) == [0, 1, 2, 0, 1]
    assert sample_labels(SamplingConfig(count=3, labels=(2, 0)), ["a", "b", "c"]) == [2, 0, 2]
    with pytest.raises(ValueError, match=r"sampling\.labels: got 3, this run takes 0 to 2"):
        sample_labels(SamplingConfig(labels=(0, 3)), ["a", "b", "c"])


def test_what_can_not_be_sampled_is_named(run, tiny_recipe, tmp_path):
    with pytest.raises(CheckpointError, match="has no complete checkpoint"):
        sample_run(tmp_path, SamplingConfig())
    with pytest.raises(ValueError, match=r"set_name: got '\.\./elsewhere'"):
        sample_run(run, SamplingConfig(), "../elsewhere")
    early = train(tiny_recipe("early", training__steps=4, training__ema_start=3, training__checkpoint_every=2))
    (early / "checkpoints" / "step-00000004" / "state.json").unlink()
    with pytest.raises(CheckpointError, match="take weights=raw"):
        sample_run(early, SamplingConfig(count=1))


def test_grid_keeps_the_order():
    images = [Image.new("RGB", (4, 4), (10 * index, 0, 0)) for index in range(5)]
    grid = image_grid(images)
    assert grid.size == (3 * 4 + 2 * 2, 2 * 4 + 2)
    assert [grid.getpixel((6 * column, 6 * row))[0] for row in range(2) for column in range(3)] == [
        *(0, 10, 20),
        *(30, 40, 255),
    ]


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_reduced_precision_is_of_the_denoiser_alone(run, guidance_scale):
    denoiser, recipe, information = load_denoiser(run, "raw")
    exact, reduced = (
        draw_latents(
            denoiser,
            make_path(recipe.diffusion),
            information["latent_shape"],
            SamplingConfig(count=4, steps=4, method="heun", guidance_scale=guidance_scale, precision=precision),
            range(4),
            [0, 1, 0, 1],
        )
        for precision in ("no", "bf16")
    )
    error = (reduced - exact).norm() / exact.norm()
    assert reduced.dtype == torch.float32
    assert 0 < error < 0.02
    # A state that was rounded, too, would be one that bfloat16 holds.
    assert not torch.equal(reduced, reduced.bfloat16().float())
