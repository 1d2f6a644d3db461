"""Sliced Wasserstein distance: pyramids against scipy, 1-D distances against scipy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from lpl.evaluation import PatchSettings, sliced_wasserstein
from lpl.evaluation.checks import TooFewSamplesError
from lpl.evaluation.sliced_wasserstein import (
    PatchSampler,
    compare_patches,
    extract_patches,
    laplacian_pyramid,
    pyramid_sides,
    sorted_wasserstein,
)

SMALL = PatchSettings(patches_per_image=16, max_images=64, directions=64)
BINOMIAL = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256


def random_images(count: int, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def smooth(images: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)


def scipy_pyramid(channel: np.ndarray, levels: int) -> list[np.ndarray]:
    """Laplacian pyramid of one channel by scipy's mirrored convolution."""
    pyramid = []
    for _ in range(levels - 1):
        small = ndimage.convolve(channel, BINOMIAL, mode="mirror")[::2, ::2]
        spread = np.zeros_like(channel)
        spread[::2, ::2] = small
        pyramid.append(channel - 4 * ndimage.convolve(spread, BINOMIAL, mode="mirror"))
        channel = small
    return [*pyramid, channel]


@pytest.mark.parametrize("side", [64, 37])
def test_pyramid_equals_scipys(side: int) -> None:
    images = random_images(2, side).double()
    levels = len(pyramid_sides(side))
    ours = laplacian_pyramid(images, levels)
    for image in range(2):
        for channel in range(3):
            expected = scipy_pyramid(images[image, channel].numpy(), levels)
            for level, reference in zip(ours, expected, strict=True):
                np.testing.assert_allclose(level[image, channel].numpy(), reference, atol=1e-12)


def test_pyramid_sides_stop_at_sixteen() -> None:
    assert pyramid_sides(256) == [256, 128, 64, 32, 16]
    assert pyramid_sides(50) == [50, 25]
    assert pyramid_sides(8) == [8]
    with pytest.raises(ValueError, match=r"images of 6×6 .* patch_size=7"):
        pyramid_sides(6)


def test_patches_are_the_windows_at_their_corners() -> None:
    level = random_images(2, 12)
    corners = torch.tensor([[[0, 0], [5, 3]], [[2, 5], [1, 4]]])
    patches = extract_patches(level, corners, 7)
    for image in range(2):
        for index, (row, column) in enumerate(corners[image].tolist()):
            torch.testing.assert_close(patches[image, index], level[image, :, row : row + 7, column : column + 7])


@pytest.mark.parametrize(("n", "m"), [(50, 50), (50, 75), (64, 7), (1, 9), (97, 100)])
def test_distance_of_rows_equals_scipys(n: int, m: int) -> None:
    draw = np.random.default_rng(n * m)
    first, second = draw.normal(size=(3, n)), draw.gamma(2.0, size=(3, m))
    expected = [stats.wasserstein_distance(a, b) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(sorted_wasserstein(np.sort(first), np.sort(second)), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("mean", "std", "expected"), [(0.7, 1.0, 0.7), (0.0, 2.5, 1.5 * math.sqrt(2 / math.pi)), (-2.0, 1.0, 2.0)]
)
def test_distance_of_gaussians_equals_the_closed_form(mean: float, std: float, expected: float) -> None:
    first = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)[None]
    second = stats.norm.ppf((np.arange(5000) + 0.5) / 5000)[None] * std + mean
    assert sorted_wasserstein(first, second)[0] == pytest.approx(expected, rel=2e-3)


def test_twice_the_contrast_is_seen_on_the_references_scale_only() -> None:
    patches = {16: torch.randn(4000, 3, 7, 7, generator=torch.Generator().manual_seed(0))}
    doubled = {16: patches[16] * 2}
    distances = compare_patches(doubled, patches, 64, ("each", "reference"))
    assert distances["each"].mean == pytest.approx(0, abs=1e-3)
    # Projections of unit white noise are N(0, 1): W1 to N(0, 2²) is √(2/π), times 1000.
    assert distances["reference"].mean == pytest.approx(1000 * math.sqrt(2 / math.pi), rel=0.02)


def test_a_shift_of_one_channel_moves_projections_by_its_share() -> None:
    patches = {16: torch.randn(2000, 3, 7, 7, generator=torch.Generator().manual_seed(0))}
    shifted = {16: patches[16].clone()}
    shifted[16][:, 0] += 5
    distance = compare_patches(shifted, patches, 512, ("reference",))["reference"].mean
    # The shift along a random unit vector is 5 Σ of 49 of its 147 entries: N(0, 25 · 49 / 147), of mean size below.
    assert distance == pytest.approx(1000 * 5 * math.sqrt(49 / 147) * math.sqrt(2 / math.pi), rel=0.1)


def test_equal_sets_are_at_zero_and_blur_is_farthest_at_the_finest_level() -> None:
    images = random_images(60, 64)
    assert sliced_wasserstein(images, images, SMALL).mean == 0
    other = random_images(60, 64, seed=1)
    fresh, blurred = (sliced_wasserstein(x, other, SMALL, "reference") for x in (images, smooth(images)))
    assert list(blurred.levels) == [64, 32, 16]
    assert blurred.levels[64] > 5 * fresh.levels[64]
    assert blurred.levels[64] == max(blurred.levels.values())
    assert blurred.mean == pytest.approx(np.mean(list(blurred.levels.values())))


def test_seed_fixes_the_result_and_moves_it() -> None:
    first, second = random_images(20), smooth(random_images(30, seed=1))
    again = [sliced_wasserstein(first, second, SMALL, seed=seed).mean for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2]
    assert again[0] == pytest.approx(again[2], rel=0.2)


@pytest.mark.parametrize("batch", [7, 100])
def test_patches_come_from_an_even_choice_of_images_whatever_the_batch(batch: int) -> None:
    shades = torch.linspace(-1, 1, 100)
    images = shades[:, None, None, None].expand(100, 3, 16, 16)
    sampler = PatchSampler(PatchSettings(patches_per_image=2, max_images=12), seed=3)
    for part in images.split(batch):
        sampler.add(part)
    patches = sampler.finish()[16]
    chosen = [int(index) for index in ((patches[::2, 0, 0, 0].float() + 1) / 2 * 99).round()]
    keys = [np.random.default_rng([3, index]).random() for index in range(100)]
    assert patches.shape == (24, 3, 7, 7)
    assert chosen == sorted(np.argsort(keys)[:12])


def test_constant_images_are_no_obstacle() -> None:
    flat = torch.zeros(4, 3, 32, 32)
    assert sliced_wasserstein(flat, flat, SMALL).mean == 0
    assert math.isfinite(sliced_wasserstein(flat, random_images(4), SMALL).mean)


def test_bad_input_is_named() -> None:
    images = random_images(2)
    with pytest.raises(ValueError, match=r"samples are \(3, 32, 32\) and reference images \(3, 64, 64\)"):
        sliced_wasserstein(images, random_images(2, 64))
    with pytest.raises(ValueError, match=r"samples: values must lie in \[-1, 1\], got .* to 255"):
        sliced_wasserstein(torch.full((1, 3, 32, 32), 255.0), images)
    with pytest.raises(TypeError, match=r"samples: expected a float tensor .* torch.uint8"):
        sliced_wasserstein(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), images)
    with pytest.raises(ValueError, match="directions=0: must be at least 1"):
        PatchSettings(directions=0)
    with pytest.raises(TooFewSamplesError, match="at least one image"):
        PatchSampler(SMALL).finish()
