from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from layouts import channels_last
from lpl.kernels.statistics import count_beyond, map_moments, map_statistics, window_beyond

SHAPES = [(2, 6, 9, 7), (1, 130, 20, 21), (1, 3, 1, 1), (1, 2, 150, 160)]


def maps_of(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(0)
    return channels_last(torch.randn(shape, device=device) * 2 + 100).to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments_and_extremes(device: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    maps = maps_of(shape, device, dtype)
    variance, mean = torch.var_mean(maps.double(), dim=(2, 3), correction=0)
    found = map_statistics(maps)
    torch.testing.assert_close(found.mean.double(), mean, atol=0, rtol=1e-6)
    torch.testing.assert_close(found.variance.double(), variance, atol=1e-7, rtol=2e-5)
    assert torch.equal(found.lowest, maps.amin(dim=(2, 3)))
    assert torch.equal(found.highest, maps.amax(dim=(2, 3)))
    for value, expected in zip(map_moments(maps), found[:2], strict=True):
        torch.testing.assert_close(value, expected, atol=0, rtol=2e-5)  # by other threads, and so in another order


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")  # of the interpreter
@pytest.mark.parametrize("place", [0, 5, 62])
def test_extremes_of_a_map_that_holds_nan(device: torch.device, place: int) -> None:
    maps = maps_of((2, 6, 9, 7), device)
    maps[1, 2, place // 7, place % 7] = torch.nan
    found = map_statistics(maps)
    assert torch.equal(found.lowest.isnan().nonzero(), torch.tensor([[1, 2]], device=device))
    assert torch.equal(found.highest.isnan().nonzero(), torch.tensor([[1, 2]], device=device))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_counts(device: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    maps = maps_of(shape, device, dtype)
    thresholds = torch.stack([maps.float().mean(dim=(2, 3)) + offset for offset in (-1, 0, 1)]).to(dtype)
    expected = [
        compare(maps, threshold[..., None, None]).sum(dim=(2, 3))
        for compare, threshold in zip((torch.ge, torch.le, torch.ge), thresholds, strict=True)
    ]
    found = count_beyond(maps, thresholds, (True, False, True))
    assert torch.equal(found, torch.stack(expected))
    wanted = torch.rand(shape[:2], device=device) < 0.5
    some = count_beyond(maps, thresholds, (True, False, True), wanted)
    assert torch.equal(some[:, wanted], found[:, wanted])
    for number, flag in enumerate((True, False, True)):
        assert torch.equal(count_beyond(maps, thresholds[number][None], (flag,))[0], expected[number])


@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize("shape", [(2, 6, 9, 7), (1, 40, 20, 21), (1, 3, 1, 4)])
def test_windows(device: torch.device, shape: tuple[int, ...], window: int) -> None:
    maps = maps_of(shape, device)
    spread = torch.linspace(0.2, 2.5, shape[1], device=device)
    below, above = maps.mean(dim=(2, 3)) - spread, maps.mean(dim=(2, 3)) + spread
    beyond = (maps < below[..., None, None]) | (maps > above[..., None, None])
    whole = -F.max_pool2d(-beyond.float(), window, stride=1, padding=window // 2)  # cut short at the edges
    expected = whole.amax(dim=(2, 3)) > 0
    found = window_beyond(maps, below, above, window)
    assert torch.equal(found, expected)
    if shape[1] == 40:
        assert int(expected.sum()) > 0
        assert window == 1 or int(expected.sum()) < expected.numel()
