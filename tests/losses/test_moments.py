from __future__ import annotations

import numpy as np
import pytest
import torch

from lpl.losses import maps as pieces_module
from lpl.losses import moments as module
from lpl.losses.moments import count_ones, count_where, extremes, moments, sum_of_squares

LAYOUTS = {
    "contiguous": lambda maps: maps.contiguous(),
    "channels_last": lambda maps: maps.contiguous(memory_format=torch.channels_last),
    "neither": lambda maps: maps.transpose(-1, -2).contiguous().transpose(-1, -2)[..., ::2],
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-4, torch.float16: 2e-4}


def some_maps(layout: str, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([1e-2, 1.0, 30.0]).view(1, 3, 1, 1)
    maps = torch.randn(2, 3, 30, 42, generator=generator) * scale + 2 * scale
    return LAYOUTS[layout](maps.to(dtype))


@pytest.mark.parametrize("strip", [1 << 16, 100])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equal_numpys_in_float64(layout: str, dtype: torch.dtype, strip: int, monkeypatch) -> None:
    monkeypatch.setattr(module, "STRIP", strip)
    maps = some_maps(layout, dtype)
    exact = maps.double().numpy()
    mean, variance = moments(maps)
    assert mean.dtype == variance.dtype == torch.promote_types(dtype, torch.float32)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(mean.numpy(), exact.mean(axis=(-2, -1)), rtol=tolerance)
    np.testing.assert_allclose(variance.numpy(), exact.var(axis=(-2, -1)), rtol=tolerance)
    np.testing.assert_allclose(sum_of_squares(maps).numpy(), (exact**2).sum(axis=(-2, -1)), rtol=tolerance)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_counts_of_several_conditions(layout: str, dtype: torch.dtype, cut: bool, monkeypatch) -> None:
    if cut:
        monkeypatch.setattr(pieces_module, "FEW_VALUES", 64)
    maps = some_maps(layout, dtype)
    thresholds = [maps.flatten(2)[..., place] for place in (7, 3, 0)]  # values that occur
    conditions = list(zip((torch.ge, torch.le, torch.gt), thresholds, strict=True))
    expected = [compare(maps, value[..., None, None]).sum(dim=(-2, -1)) for compare, value in conditions]
    assert torch.equal(count_where(maps, *conditions), torch.stack(expected))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_large_mean_costs_no_digits(layout: str) -> None:
    maps = LAYOUTS[layout](torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(1)) + 1000)
    np.testing.assert_allclose(moments(maps)[1].numpy(), maps.double().numpy().var(axis=(-2, -1)), rtol=1e-3)


def test_squares_of_half_precision_do_not_overflow() -> None:
    maps = torch.full((1, 2, 8, 8), 3e4, dtype=torch.float16)
    assert sum_of_squares(maps)[0].tolist() == pytest.approx([64 * 9e8] * 2, rel=1e-6)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(1, 1, 700, 521), (2, 3, 5, 1024), (1, 2, 1, 7)])
def test_counts_are_exact_in_every_type(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    flags = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.9
    assert torch.equal(count_ones(flags.to(dtype)), flags.sum(dim=(-2, -1)))


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_extremes(layout: str, cut: bool, monkeypatch) -> None:
    if cut:
        monkeypatch.setattr(pieces_module, "FEW_VALUES", 64)
    maps = some_maps(layout, torch.float32)
    maps[0, 1, 0, 0] = torch.nan
    lowest, highest = extremes(maps)
    np.testing.assert_array_equal(lowest.numpy(), maps.numpy().min(axis=(-2, -1)))
    np.testing.assert_array_equal(highest.numpy(), maps.numpy().max(axis=(-2, -1)))
