from __future__ import annotations

import pytest
import torch
import yaml

import zoo
from lpl.analysis import AnalysisError, calibrate_loss, recipe_fragment
from lpl.autoencoders import Autoencoder
from lpl.config import load_recipe
from lpl.diffusion import DDPM, FlowOT
from lpl.losses import LatentPerceptualLoss


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    smooth = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(smooth, size=(6, 6), mode="bilinear")


@pytest.fixture(scope="module")
def calibration(latents):
    autoencoder = Autoencoder(zoo.make("stable_diffusion"))
    return calibrate_loss(autoencoder, latents, FlowOT(), gradient_images=3, sigmas=(0.3, 1.0, 3.0, 8.0))


def test_every_setting_is_decided_with_a_reason(calibration) -> None:
    assert [entry.setting for entry in calibration.advice] == [
        "outliers",
        "normalization",
        "variance_floor",
        "sigma_threshold",
        "blocks",
        "depth_weights",
        "weight",
    ]
    assert all(entry.reason for entry in calibration.advice)


def test_the_fragment_is_a_recipe(calibration, tmp_path) -> None:
    text = recipe_fragment(calibration, ["made by a test"])
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    loaded = load_recipe(path).objective.perceptual
    assert loaded == calibration.config
    assert loaded.weight == calibration.settings["weight"]
    assert set(yaml.safe_load(text)["objective"]["perceptual"]) == set(calibration.settings)
    assert text.startswith("# made by a test\n")
    assert max(map(len, text.splitlines())) <= 120
    child = tmp_path / "child.yaml"
    child.write_text("extends: recipe.yaml\ntraining: {steps: 5}\n", encoding="utf-8")
    assert load_recipe(child).objective.perceptual == calibration.config


def test_the_weight_brings_the_loss_to_parity(calibration, latents) -> None:
    """A Monte Carlo of training: fresh noise, times as the path draws them, the loss as configured."""
    config, path = calibration.config, FlowOT()
    perceptual = LatentPerceptualLoss(
        zoo.make("stable_diffusion"),
        blocks=config.blocks,
        sigma_threshold=config.sigma_threshold,
        normalization=config.normalization,
        outliers=config.outliers,
        depth_weights=config.depth_weights,
        variance_floor=config.variance_floor,
    )
    from lpl.analysis import fit_gaussian

    generator = torch.Generator().manual_seed(3)
    clean = latents[:3].repeat(40, 1, 1, 1)
    times = path.sample_timesteps(len(clean), generator)
    noise = torch.randn(clean.shape, generator=generator)
    noisy, gaussian = path.add_noise(clean, noise, times), fit_gaussian(latents)
    sigma = path.sigma(times)
    observed = noisy / (1 - times)[:, None, None, None]
    best = torch.cat([gaussian.posterior_mean(z[None], float(s)) for z, s in zip(observed, sigma, strict=True)])
    output = ((noisy - best) / times[:, None, None, None]).requires_grad_()
    loss = config.weight * perceptual(path.predicted_latent(output, noisy, times), clean, sigma)
    diffusion = (output - path.target(clean, noise, times)).square().mean()
    norms = [torch.autograd.grad(value, output)[0].norm().item() for value in (loss, diffusion)]
    assert norms[0] / norms[1] == pytest.approx(1.0, rel=0.5)  # four noise levels stand for all


def test_blocks_may_be_chosen_beforehand(latents) -> None:
    autoencoder = Autoencoder(zoo.make("stable_diffusion"))
    found = calibrate_loss(
        autoencoder, latents, DDPM(), blocks=["mid_block", "up_blocks.0"], gradient_images=2, sigmas=(0.5, 3.0)
    )
    assert found.config.blocks is not None
    assert set(found.config.blocks) <= {"mid_block", "up_blocks.0"}


def test_one_image_is_too_few(latents) -> None:
    with pytest.raises(AnalysisError, match="images: got 1, calibration takes 2 or more"):
        calibrate_loss(Autoencoder(zoo.make("tiny")), latents[:1], FlowOT())
