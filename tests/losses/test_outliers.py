from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpl import outlier_mask
from references import appendix_listing


def maps_with_artefacts(seed: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 3, height, width, generator=generator)
    features[0, 0, 2:6, 3:7] += 40
    features[1, 2, -1, 0] -= 60
    return features


@pytest.mark.parametrize("down_f", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(16, 16), (24, 10), (9, 31)])
def test_equals_the_appendix_listing(down_f: int, size: tuple[int, int]) -> None:
    features = maps_with_artefacts(0, *size)
    mask = outlier_mask(features, down_f)
    for sample in range(2):
        for channel in range(3):
            expected = appendix_listing(features[sample, channel].double().numpy(), down_f)
            assert np.array_equal(mask[sample, channel].numpy(), expected)


def test_masks_artefacts_and_their_surroundings_alone() -> None:
    mask = outlier_mask(maps_with_artefacts(1, 32, 32))
    assert not mask[0, 0, 2:6, 3:7].any()
    assert mask[0, 0, 8:, 9:].all()
    assert mask[0, 1].float().mean() > 0.97


def test_a_lone_false_alarm_is_closed_at_full_resolution() -> None:
    features = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(2)).clamp(-1, 1)
    features[0, 0, 10, 10] = 4.5  # beyond the threshold, but a single position: the dilation closes it
    assert outlier_mask(features).all()


def test_small_maps_use_their_extremes() -> None:
    features = torch.randn(1, 4, 3, 3)
    assert outlier_mask(features, down_f=8).all()  # no position lies beyond the extremes
    assert outlier_mask(torch.randn(1, 1, 1, 1)).all()


def test_constant_maps_are_kept_whole() -> None:
    for value in (0.0, 3.3, -1e4):
        assert outlier_mask(torch.full((1, 2, 8, 8), value)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_the_mask_of_the_same_numbers_in_float32(dtype: torch.dtype) -> None:
    features = (maps_with_artefacts(3, 20, 20) * 300).to(dtype)
    assert torch.equal(outlier_mask(features), outlier_mask(features.float()))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    down_f=st.floats(0.5, 16),
    opening=st.integers(1, 9),
    closing=st.integers(1, 9),
)
def test_any_size_and_window_keeps_the_shape(
    height: int, width: int, down_f: float, opening: int, closing: int
) -> None:
    mask = outlier_mask(torch.randn(1, 2, height, width), down_f, opening, closing)
    assert mask.shape == (1, 2, height, width)
    assert mask.dtype == torch.bool


def test_an_empty_batch_is_ordinary() -> None:
    assert outlier_mask(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": torch.zeros(3, 8, 8)}, "features: got"),
        ({"features": torch.zeros(1, 3, 8, 8, dtype=torch.int32)}, "features: got torch.int32"),
        ({"features": torch.zeros(1, 3, 8, 8), "down_f": 0}, "down_f: got 0"),
        ({"features": torch.zeros(1, 3, 8, 8), "opening": 0}, "opening: got 0"),
        ({"features": torch.zeros(1, 3, 8, 8), "quantile": 0.5}, "quantile: got 0.5"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        outlier_mask(**arguments)
