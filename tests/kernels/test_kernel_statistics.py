from __future__ import annotations

import pytest
import torch

from layouts import channels_last
from lpl.kernels.ranks import LOGARITHM, find_ranks
from lpl.kernels.statistics import chunk_moments, map_moments
from lpl.losses.ranks import order_of

SHAPES = [(2, 6, 9, 7), (1, 130, 20, 21), (1, 3, 1, 1), (1, 2, 150, 160)]


def maps_of(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(0)
    return channels_last(torch.randn(shape, device=device) * 2 + 100).to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments_and_extremes(device: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    maps = maps_of(shape, device, dtype)
    variance, mean = torch.var_mean(maps.double(), dim=(2, 3), correction=0)
    found = map_moments(maps)
    torch.testing.assert_close(found[0].double(), mean, atol=0, rtol=1e-6)
    torch.testing.assert_close(found[1].double(), variance, atol=1e-7, rtol=2e-5)
    partial, how = chunk_moments(maps, extremes=True)
    assert partial.shape == (4, shape[0], how.grid[0], shape[1])
    assert torch.equal(partial[2].amin(dim=1), maps.amin(dim=(2, 3)).float())
    assert torch.equal(partial[3].amax(dim=1), maps.amax(dim=(2, 3)).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rank", [1, 2, 50, 98, 99])
@pytest.mark.parametrize("slack", [0, 2, 98])
def test_numbers_of_a_rank(device: torch.device, dtype: torch.dtype, rank: int, slack: int) -> None:
    """Within ranges that hold a few numbers more on either side, counted from the smallest or from the largest."""
    torch.manual_seed(0)
    maps = channels_last(torch.randn(2, 5, 9, 11, device=device) * torch.logspace(-6, 4, 5)[:, None, None].to(device))
    maps[0, 0] = 0
    maps[0, 1, :5] = -0.0
    maps = maps.to(dtype)
    ordered = order_of(maps.flatten(2)).int().sort(dim=-1).values
    first, last = ordered[..., max(rank - 1 - slack, 0)], ordered[..., min(rank - 1 + slack, 98)]
    width = (last.long() - first.long() + 1).clamp_max(2**32 - 1)
    shift = torch.frexp(((width - 1) >> LOGARITHM.value).double()).exponent
    below = (ordered < first[..., None]).sum(dim=-1)
    from_first, above = rank - below, (ordered > last[..., None]).sum(dim=-1)
    from_last = from_first - (99 - below - above)
    width = torch.where(width < 2**31, width, width - 2**32)
    ranges = torch.stack([torch.stack([value.int()] * 2) for value in (first, width, shift, from_first)])
    ranges[3, 1] = from_last
    find_ranks(maps, ranges)
    for found in ranges[0]:
        assert torch.equal(found, ordered[..., rank - 1])


def test_numbers_that_are_not_sought_cost_no_reading(device: torch.device) -> None:
    maps = maps_of((1, 4, 9, 7), device, torch.bfloat16)
    ranges = torch.zeros(4, 1, 1, 4, dtype=torch.int32, device=device)
    find_ranks(maps, ranges)
    assert int(ranges.abs().sum()) == 0
