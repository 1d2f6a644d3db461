from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from skimage import data

import zoo
from lpl import LatentPerceptualLoss
from lpl.analysis import AnalysisError
from lpl.analysis.interpolation import correlate, study_interpolation
from lpl.analysis.variants import METHODS, Variant
from lpl.autoencoders import Autoencoder


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    crops = [data.astronaut()[:128:4, 96:224:4], data.chelsea()[100:228:4, 100:228:4], data.coffee()[:128:4, :128:4]]
    return torch.stack([torch.from_numpy(crop.copy()).permute(2, 0, 1) for crop in crops]).float() / 127.5 - 1


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    return Autoencoder(zoo.make("stable_diffusion"))


@pytest.fixture(scope="module")
def study(autoencoder, images):
    return study_interpolation(
        autoencoder, images, scales=(1.5, 2.0), normalizations=("prediction", "none"), pictures=2, batch_size=2
    )


def test_values_are_those_of_each_image_and_variant(study, autoencoder, images) -> None:
    """One entry of each table, measured again from the beginning."""
    image, column = 2, next(i for i, v in enumerate(study.variants) if v.name == "latent-bicubic-2")
    latents = autoencoder.encode(images[image : image + 1])[0]
    small = torch.nn.functional.interpolate(latents, size=(2, 2), mode="bicubic")
    harmed = torch.nn.functional.interpolate(small, size=(4, 4), mode="bicubic")
    assert study.values["latent_mse"][image, column] == pytest.approx(
        (harmed - latents).square().mean().item(), rel=1e-5
    )
    pixels = (autoencoder.decode(harmed) - autoencoder.decode(latents)).square().mean().item()
    assert study.values["pixel_mse"][image, column] == pytest.approx(pixels, rel=1e-3)
    loss = LatentPerceptualLoss(autoencoder.model, sigma_threshold=None)
    terms = loss(harmed, latents, return_terms=True)
    assert study.values["feature/all/prediction"][image, column] == pytest.approx(terms.loss.item(), rel=1e-4)
    last = study.values["feature/up_blocks.3/prediction"][image, column]
    assert last / 8 == pytest.approx(terms.blocks["up_blocks.3"].item(), rel=1e-4)


def test_pixels_are_shrunk_before_they_are_encoded(study, autoencoder, images) -> None:
    column = next(i for i, v in enumerate(study.variants) if v.name == "pixel-bilinear-2")
    small = torch.nn.functional.interpolate(images[:1], size=(16, 16), mode="bilinear")
    harmed = autoencoder.encode(torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear"))[0]
    expected = (harmed - autoencoder.encode(images[:1])[0]).square().mean().item()
    assert study.values["latent_mse"][0, column] == pytest.approx(expected, rel=1e-4)


def test_shapes(study) -> None:
    variants = len(METHODS) * 2
    assert {values.shape for values in (study.values | study.damages).values()} == {(3, variants)}
    assert study.decoded.shape == (2, variants, 3, 32, 32)
    assert study.reference.shape == (2, 3, 32, 32)
    assert study.set_distance.shape == (variants,)
    assert {entry.subset for entry in study.correlations} == {"all", "latent"}


def test_correlations_are_oriented_and_leave_themselves_out() -> None:
    draw = np.random.default_rng(3)
    variants = [Variant(method, scale, 4) for method in METHODS for scale in (1.5, 2.0, 3.0)]
    harm = draw.normal(size=(6, 12))
    values = {"latent_mse": harm + draw.normal(size=harm.shape), "psnr": -harm}
    damages = {"gmsd": harm, "ms_ssim": harm**3}
    found = correlate(variants, values, damages)
    by_key = {(c.measure, c.damage, c.subset): c for c in found}
    assert ("gmsd", "gmsd", "all") not in by_key
    perfect = by_key["psnr", "gmsd", "all"]
    assert perfect.rho.mean == pytest.approx(1.0)
    assert perfect.discordant.mean == 0
    expected = [spearmanr(a[3:], b[3:]).statistic for a, b in zip(values["latent_mse"], harm, strict=True)]
    assert by_key["latent_mse", "gmsd", "latent"].per_image == pytest.approx(expected)
    advantage = by_key["psnr", "gmsd", "latent"].advantage
    assert advantage is not None
    assert advantage.mean == pytest.approx(1 - np.mean(expected))
    assert advantage.low > 0


def test_a_block_that_does_not_exist_is_named(autoencoder, images) -> None:
    with pytest.raises(AnalysisError, match=r"no block 'up_blocks.9'"):
        study_interpolation(autoencoder, images, scales=(2.0,), blocks=["up_blocks.9"])


def test_images_of_another_size_are_named(autoencoder) -> None:
    with pytest.raises(AnalysisError, match="got 30, takes a multiple of 8"):
        study_interpolation(autoencoder, torch.zeros(2, 3, 30, 30), scales=(2.0,))
