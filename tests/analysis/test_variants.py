from __future__ import annotations

import numpy as np
import pytest
import torch

from lpl.analysis import AnalysisError
from lpl.analysis.variants import METHODS, plan_variants, shrink_and_enlarge


def plain_resize(row: np.ndarray, size: int, mode: str) -> np.ndarray:
    """One row of numbers resampled by hand: pixel centres at (i + ½)·scale − ½, edges repeated."""
    scale = len(row) / size
    if mode == "nearest":
        return row[np.floor(np.arange(size) * scale).astype(int)]
    centres = np.clip((np.arange(size) + 0.5) * scale - 0.5, 0, None)
    low = np.floor(centres).astype(int)
    high = np.minimum(low + 1, len(row) - 1)
    share = centres - low
    return row[low] * (1 - share) + row[high] * share


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("side", [3, 5])
def test_shrinking_and_enlarging_is_plain_interpolation(mode: str, side: int) -> None:
    image = np.random.default_rng(0).normal(size=(8, 8))

    def resize(values: np.ndarray, size: int) -> np.ndarray:
        columns = np.stack([plain_resize(row, size, mode) for row in values])
        return np.stack([plain_resize(column, size, mode) for column in columns.T]).T

    expected = resize(resize(image, side), 8)
    actual = shrink_and_enlarge(torch.tensor(image)[None, None], side, mode)[0, 0]
    np.testing.assert_allclose(actual, expected, atol=1e-12)


def test_sides_are_rounded() -> None:
    variants = plan_variants(latent_side=16, resolution=128, scales=(1.3, 3.0))
    assert [variant.side for variant in variants] == [98, 43, 12, 5, 12, 5, 12, 5]
    assert [variant.method for variant in variants[::2]] == list(METHODS)


@pytest.mark.parametrize(
    ("side", "resolution", "scales", "message"),
    [
        (8, 64, (6.0,), r"64×64 pixels are too small for s = 6: .* would keep 1×1 .* at most 4, or images of about 72"),
        (4, 32, (1.1,), r"s = 1.1 leaves latents of 4×4 as they are"),
        (8, 64, (1.0,), "got 1, takes numbers above 1"),
        (8, 64, (float("nan"),), "got nan, takes numbers above 1"),
        (8, 64, (), "got none"),
        (8, 64, (2.0, 3.0, 2.0), "got 2 more than once"),
        (8, 8, (2.0,), "resolution: got 8, structural similarity needs 11"),
    ],
)
def test_impossible_scales_are_named(side: int, resolution: int, scales: tuple, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        plan_variants(side, resolution, scales)
