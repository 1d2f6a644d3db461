from __future__ import annotations

import pytest
import torch

from layouts import channels_last
from lpl.kernels.statistics import map_moments
from lpl.losses.outliers import DenseOutliers, Outliers, find_outliers
from lpl.losses.ranks import order_statistics_by_counting


def maps_with_outliers(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Normally distributed, with blobs far away in some maps, a constant map, and one that holds NaN."""
    torch.manual_seed(0)
    maps = torch.randn(shape)
    maps[0, 0, 2:6, 3:7] = 30
    maps[0, 1, :3, -3:] = -30
    maps[1, 2, 4, 4] = 30
    maps[1, 3] = 2
    maps[1, 4, 1, 1] = torch.nan
    return maps.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("down_f", [1, 2, 4])
@pytest.mark.parametrize("size", [(14, 17), (40, 33)])  # of one chunk of positions, and of three
def test_the_mask_is_the_plain_one(
    device: torch.device, dtype: torch.dtype, down_f: int, size: tuple[int, int]
) -> None:
    maps = maps_with_outliers((2, 6, *size), dtype)
    maps[0, 5, size[0] // 2 - 2 : size[0] // 2 + 2, 5:9] = -40
    expected = find_outliers(maps, down_f)  # contiguous: without kernels
    found = find_outliers(channels_last(maps.to(device)), down_f)
    assert isinstance(found, DenseOutliers)
    assert torch.equal(found.mask().cpu(), expected.mask())
    assert torch.equal(found.positions().cpu(), expected.positions())
    assert found.share().item() == pytest.approx(expected.share().item(), abs=1e-6)
    assert 0 < expected.share() < 1
    # What knows no dense masks goes by the places.
    assert torch.equal(Outliers(found.order, found.places).mask(), found.mask())
    cleared = found.clear(torch.ones_like(found.kept, dtype=torch.float32))
    assert torch.equal(cleared.bool(), found.mask())


def test_maps_without_outliers_need_no_mask(device: torch.device) -> None:
    maps = channels_last(torch.rand(1, 4, 12, 12, device=device)).bfloat16()
    found = find_outliers(maps, 1)
    assert not isinstance(found, DenseOutliers)
    assert len(found.places) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ranks", [(1, 99), (2, 98), (50, 50), (99, 1)])
def test_order_statistics(device: torch.device, dtype: torch.dtype, ranks: tuple[int, int]) -> None:
    torch.manual_seed(0)
    maps = channels_last(torch.randn(2, 5, 9, 11, device=device) * torch.logspace(-6, 4, 5)[:, None, None].to(device))
    maps[0, 0] = 0
    maps[0, 1, :5] = -0.0
    maps = maps.to(dtype)
    ordered = maps.flatten(2).sort(dim=-1).values
    every = torch.ones(2, 5, dtype=torch.bool, device=device)
    whole = ordered[..., 0], ordered[..., -1]
    for slack in (2, 98):  # numbers between the bounds and the map's ends
        low = ordered[..., 0], ordered[..., min(ranks[0] - 1 + slack, 98)]
        high = ordered[..., max(ranks[1] - 1 - slack, 0)], ordered[..., -1]
        for bounds in ((whole, whole), (low, high), (whole, high)):
            found = order_statistics_by_counting(maps, ranks, *bounds, (every, every))
            for rank, values in zip(ranks, found, strict=True):
                assert torch.equal(values, ordered[..., rank - 1])


def test_moments_of_kept_positions(device: torch.device) -> None:
    torch.manual_seed(0)
    maps = channels_last(torch.randn(2, 6, 23, 19, device=device) + 20)
    kept = channels_last((torch.rand(maps.shape, device=device) < 0.7).to(torch.uint8))
    kept[0, 0] = 0
    maps[0, 1, 0, 0], kept[0, 1, 0, 0] = 1e5, 0  # an outlier where a chunk begins costs no digits
    mean, variance = map_moments(maps, kept)
    assert variance[0, 0] == 0
    for sample in range(2):
        for channel in range(6):
            values = maps[sample, channel][kept[sample, channel].bool()].double()
            if len(values):
                assert mean[sample, channel].item() == pytest.approx(values.mean().item(), rel=1e-6)
                assert variance[sample, channel].item() == pytest.approx(values.var(correction=0).item(), rel=1e-5)
