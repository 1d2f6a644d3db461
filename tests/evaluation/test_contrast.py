"""Contrast and saturation against scikit-image's colour conversions."""

from __future__ import annotations

import pytest
import torch
from skimage import color

from lpl.evaluation import contrast, luminance, saturation


def random_images(seed: int = 0) -> torch.Tensor:
    return torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_luminance_and_contrast_equal_scikit_images() -> None:
    images = random_images()
    grey = color.rgb2gray(((images + 1) / 2).permute(0, 2, 3, 1).numpy())  # weights differ in the fourth digit
    torch.testing.assert_close(luminance(images), torch.from_numpy(grey), atol=3e-4, rtol=0, check_dtype=False)
    expected = torch.from_numpy(grey.std(axis=(1, 2)))
    torch.testing.assert_close(contrast(images), expected, atol=3e-4, rtol=0, check_dtype=False)


def test_saturation_equals_scikit_images() -> None:
    images = random_images()
    images[0, :, :5] = -1  # black: no saturation, and no division by zero
    hsv = color.rgb2hsv(((images + 1) / 2).permute(0, 2, 3, 1).numpy())
    expected = torch.from_numpy(hsv[..., 1].mean(axis=(1, 2)))
    torch.testing.assert_close(saturation(images), expected, atol=1e-5, rtol=0, check_dtype=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extremes(dtype: torch.dtype) -> None:
    half = torch.full((1, 3, 8, 8), -1.0, dtype=dtype)
    half[..., :4] = 1
    red = torch.tensor([1.0, -1.0, -1.0], dtype=dtype).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert contrast(half).item() == pytest.approx(0.5)
    assert contrast(red).item() == pytest.approx(0, abs=1e-6)
    assert saturation(red).item() == 1
    assert saturation(half).item() == 0
