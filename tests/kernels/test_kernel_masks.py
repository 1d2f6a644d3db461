from __future__ import annotations

import pytest
import torch

from layouts import channels_last
from lpl.kernels import Mask
from lpl.kernels.outliers import look
from lpl.kernels.ranks import find_ranks
from lpl.kernels.statistics import map_moments
from lpl.losses.outliers import DenseOutliers, Outliers, find_outliers
from lpl.losses.ranks import order_of


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
    cleared = found.clear(torch.ones_like(found.dense.kept, dtype=torch.float32))
    assert torch.equal(cleared.bool(), found.mask())


def test_maps_without_outliers_need_no_mask(device: torch.device) -> None:
    maps = channels_last(torch.rand(1, 4, 12, 12, device=device)).bfloat16()
    found = find_outliers(maps, 1)
    assert not isinstance(found, DenseOutliers)
    assert len(found.places) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("closing", [3, 5])
def test_windows_at_the_edges(device: torch.device, dtype: torch.dtype, closing: int) -> None:
    """A window is cut short where the map ends; one value within it closes the hole."""
    torch.manual_seed(0)
    maps = torch.randn(1, 6, 48, 40)
    maps[0, 0, :2, :2] = maps[0, 1, -2:, -2:] = maps[0, 2, -2:, :2] = maps[0, 3, 10:13, -2:] = 40
    maps[0, 4, 8:13, 8:13], maps[0, 4, 10, 11] = 40, 0
    maps[0, 5, 8:13, 8:13] = -40
    maps = maps.to(dtype)
    expected = find_outliers(maps, closing=closing)
    found = find_outliers(channels_last(maps.to(device)), closing=closing)
    assert torch.equal(found.mask().cpu(), expected.mask())
    assert (expected.masked[0] > 0).tolist() == [closing == 3] * 5 + [True]


def maps_of_all_kinds() -> torch.Tensor:
    """Bounds that are confirmed and that are not, on either side, and maps far from zero."""
    torch.manual_seed(0)
    normal = torch.randn(20, 66, 60)
    maps = normal.clone()
    maps[1] = normal[1].exp()  # skewed
    maps[2] = -(2 * normal[2]).exp()
    maps[3] = normal[3].relu()
    maps[4] = normal[4] ** 3
    maps[5] = normal[5].sign()
    maps[6] = torch.where(torch.rand(66, 60) < 0.03, 50 * normal[6], normal[6])  # few, far away
    maps[7] = torch.where(torch.rand(66, 60) < 0.015, 50.0, normal[7])
    maps[8] = torch.where(torch.rand(66, 60) < 0.015, -50.0, normal[8].abs())
    maps[9] = normal[9] + 1000
    maps[10] = 1e-4 * normal[10] - 1
    maps[11] = torch.arange(66 * 60).view(66, 60)
    maps[12] = 0
    maps[12, 5:9, 5:9] = 1
    maps[13] *= 1e-5
    maps[14, 20:24] = 9
    maps[15, :, :2] = -30
    # With a few values far away neither bound is confirmed, or only the nearer; numbers of bfloat16 there occur twice.
    for channel, value in ((16, 130), (17, 130), (18, 80), (19, 80)):
        far = torch.rand(66, 60) < 0.004
        maps[channel] = torch.where(far, value * normal[channel].sign(), 6 * normal[channel])
    return maps[None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_order_statistics_whatever_the_distribution(device: torch.device, dtype: torch.dtype) -> None:
    maps = channels_last(maps_of_all_kinds().to(device)).to(dtype)
    ranks = 79, 3880
    _, ranges, wanted = look(maps, ranks, 2.0, 1)
    sought = ranges[1] != 0
    assert torch.equal(sought.sum(dim=0), (wanted & 1) + (wanted >> 1))
    find_ranks(maps, ranges)
    ordered = order_of(maps.flatten(2)).int().sort(dim=-1).values
    for rank, found, which in zip(ranks, ranges[0], sought, strict=True):
        assert torch.equal(found[which], ordered[..., rank - 1][which])
        assert which.sum() > 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_mask_whatever_the_distribution(device: torch.device, dtype: torch.dtype) -> None:
    maps = maps_of_all_kinds().to(dtype)
    for down_f in (1.0, 2.0):
        expected = find_outliers(maps, down_f)
        found = find_outliers(channels_last(maps.to(device)), down_f)
        assert torch.equal(found.mask().cpu(), expected.mask())
    assert 3 < int((expected.masked > 0).sum()) < 20


def test_moments_of_kept_positions(device: torch.device) -> None:
    torch.manual_seed(0)
    maps = channels_last(torch.randn(2, 6, 23, 19, device=device) + 20)
    kept = channels_last((torch.rand(maps.shape, device=device) < 0.7).to(torch.uint8))
    kept[0, 0] = 0
    maps[0, 1, 0, 0], kept[0, 1, 0, 0] = 1e5, 0  # an outlier where a chunk begins costs no digits
    mean, variance = map_moments(maps, Mask(kept, kept.sum(dim=(2, 3), dtype=torch.int32)))
    assert variance[0, 0] == 0
    for sample in range(2):
        for channel in range(6):
            values = maps[sample, channel][kept[sample, channel].bool()].double()
            if len(values):
                assert mean[sample, channel].item() == pytest.approx(values.mean().item(), rel=1e-6)
                assert variance[sample, channel].item() == pytest.approx(values.var(correction=0).item(), rel=1e-5)
