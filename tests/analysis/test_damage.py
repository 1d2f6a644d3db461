from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import data
from skimage.metrics import structural_similarity

from lpl.analysis.damage import (
    DAMAGES,
    gradient_deviation,
    ms_ssim_scales,
    multiscale_dissimilarity,
    patch_distance,
    psnr,
    ssim,
)


@pytest.fixture(scope="module")
def photograph() -> torch.Tensor:
    """A crop of a photograph, (1, 3, 64, 64) in [-1, 1]."""
    pixels = torch.from_numpy(data.astronaut()[64:192:2, 160:288:2].copy()).permute(2, 0, 1)
    return (pixels.float() / 127.5 - 1)[None]


@pytest.fixture(scope="module")
def noisy(photograph) -> torch.Tensor:
    noise = torch.randn(photograph.shape, generator=torch.Generator().manual_seed(0))
    return (photograph + 0.2 * noise).clamp(-1, 1)


def grey(image: torch.Tensor) -> np.ndarray:
    return np.tensordot([0.2126, 0.7152, 0.0722], (image[0].numpy().astype(np.float64) + 1) / 2, axes=1)


def test_gmsd_equals_its_definition(photograph, noisy) -> None:
    magnitudes = []
    for image in (noisy, photograph):
        small = ndimage.uniform_filter(grey(image), 2, origin=-1)[::2, ::2]
        rows, columns = (ndimage.prewitt(small, axis=axis, mode="nearest") / 3 for axis in (0, 1))
        magnitudes.append(np.hypot(rows, columns))
    constant = 0.0026  # of the paper, for luminance in [0, 1], to two digits
    similarity = (2 * magnitudes[0] * magnitudes[1] + constant) / (magnitudes[0] ** 2 + magnitudes[1] ** 2 + constant)
    assert gradient_deviation(noisy, photograph).item() == pytest.approx(similarity.std(), rel=5e-3)


def test_ssim_equals_skimages(photograph, noisy) -> None:
    first, second = (((image[0] + 1) / 2).double().numpy() for image in (noisy, photograph))
    _, full = structural_similarity(
        first,
        second,
        data_range=1.0,
        channel_axis=0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    # The borders, mirrored in slightly different ways, count too.
    assert ssim(noisy, photograph).item() == pytest.approx(full.mean(), abs=5e-3)


def test_ms_ssim_of_one_scale_is_ssim() -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1
    harmed = (images + 0.1 * torch.randn(images.shape, generator=generator)).clamp(-1, 1)
    assert ms_ssim_scales(16) == 1
    torch.testing.assert_close(multiscale_dissimilarity(harmed, images), 1 - ssim(harmed, images), atol=1e-5, rtol=1e-4)


def test_ms_ssim_takes_the_scales_that_fit() -> None:
    assert [ms_ssim_scales(side) for side in (10, 11, 21, 64, 128, 256)] == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="got 8 pixels a side"):
        multiscale_dissimilarity(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))


def test_psnr_is_that_of_the_mean_squared_error() -> None:
    reference = torch.zeros(2, 3, 4, 4)
    images = torch.stack([reference[0] + 0.2, reference[1]])
    assert psnr(images, reference).tolist() == pytest.approx([20.0, 100.0], abs=1e-4)  # 10 log10(4/0.04)


def test_patches_are_compared_as_sets_and_see_lost_contrast(photograph) -> None:
    still, shifted = photograph, photograph.roll(1, dims=-1)
    flat = photograph * 0.5
    assert patch_distance(still, photograph).item() == 0
    assert patch_distance(shifted, photograph).item() < 0.5 * patch_distance(flat, photograph).item()


@pytest.mark.parametrize("name", DAMAGES)
def test_more_noise_is_more_damage(name: str, photograph) -> None:
    noise = torch.randn(photograph.shape, generator=torch.Generator().manual_seed(2))
    harmed = [(photograph + scale * noise).clamp(-1, 1) for scale in (0.0, 0.05, 0.2, 0.6)]
    damage = [DAMAGES[name][0](image, photograph).item() for image in harmed]
    assert damage[0] == pytest.approx(0, abs=1e-5)
    assert damage == sorted(damage)
