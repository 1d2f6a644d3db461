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
def test_the_mask_is_the_plain_one(device: torch.device, dtype: torch.dtype, down_f: int) -> None:
    maps = maps_with_outliers((2, 6, 14, 17), dtype)
    expected = find_outliers(maps, down_f)  # contiguous: without kernels
    found = find_outliers(channels_last(maps.to(device)), down_f)
    assert isinstance(found, DenseOutliers)
    assert torch.equal(found.mask().cpu(), expected.mask())
    assert torch.equal(found.positions().cpu(), expected.positions())
    assert found.share().item() == pytest.approx(expected.share().item(), abs=1e-6)
    assert 0 < expected.share() < 1
    # What knows no dense masks goes by its parts.
    assert torch.equal(Outliers(found.shape, found.parts, found.device).mask(), found.mask())
    cleared = found.clear(torch.ones_like(found.kept, dtype=torch.float32))
    assert torch.equal(cleared.bool(), found.mask())


def test_maps_without_outliers_need_no_mask(device: torch.device) -> None:
    maps = channels_last(torch.rand(1, 4, 12, 12, device=device)).bfloat16()
    found = find_outliers(maps, 1)
    assert not isinstance(found, DenseOutliers)
    assert found.parts == ()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ranks", [(1, 99), (2, 98), (50, 50), (99, 1)])
def test_order_statistics(device: torch.device, dtype: torch.dtype, ranks: tuple[int, int]) -> None:
    torch.manual_seed(0)
    maps = channels_last(torch.randn(2, 5, 9, 11, device=device) * torch.logspace(-6, 4, 5)[:, None, None].to(device))
    maps[0, 0] = 0
    maps[0, 1, :5] = -0.0
    maps = maps.to(dtype)
    ordered = maps.flatten(2).sort(dim=-1).values
    bounds = maps.amin(dim=(2, 3)).expand(2, -1, -1), maps.amax(dim=(2, 3)).expand(2, -1, -1)
    found = order_statistics_by_counting(maps, ranks, *bounds, torch.ones(2, 5, dtype=torch.bool, device=device))
    for rank, values in zip(ranks, found, strict=True):
        # Hardware and the interpreter may take numbers too small to be normal for zero.
        torch.testing.assert_close(values, ordered[..., rank - 1], rtol=0, atol=torch.finfo(torch.bfloat16).tiny)


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
