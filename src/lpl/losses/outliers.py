"""The outlier mask ρ: Algorithm 1 of the paper's appendix (A.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .moments import count_where, moments, wide_type


@dataclass(frozen=True)
class Outliers:
    """ρ for the maps of a block, held for those alone that have an outlier, which few maps do.

    Attributes:
        shape: (B, C, H, W) of the block's features.
        samples: (K,) and
        channels: (K,), the maps that have an outlier.
        kept: boolean (K, H, W), True where such a map's position is kept.
    """

    shape: torch.Size
    samples: Tensor
    channels: Tensor
    kept: Tensor

    @property
    def maps(self) -> tuple[Tensor, Tensor]:
        """Index of the maps that have an outlier: `features[outliers.maps]` is (K, H, W)."""
        return self.samples, self.channels

    def positions(self) -> Tensor:
        """Number of positions kept in every map, (B, C); at least 1, lest a map masked whole divide by zero."""
        every = self.kept.new_full(self.shape[:2], math.prod(self.shape[-2:]), dtype=torch.long)
        return every.index_put_(self.maps, self.kept.sum(dim=(-2, -1))).clamp_min_(1)

    def share(self) -> Tensor:
        """Share of all positions that is masked, a scalar."""
        return (~self.kept).sum() / max(math.prod(self.shape), 1)

    def mask(self) -> Tensor:
        """ρ in full: boolean (B, C, H, W), True where a position is kept."""
        mask = torch.ones(self.shape, dtype=torch.bool, device=self.kept.device)
        mask[self.maps] = self.kept
        return mask


def outlier_mask(
    features: Tensor,
    down_f: float = 1.0,
    opening: int = 5,
    closing: int = 3,
    quantile: float = 0.02,
    offset: float = 2.0,
) -> Tensor:
    """Marks the positions of each feature map to keep; artefacts with far too large activations are masked out.

    A position is kept if its activation lies between the map's `quantile` and 1 − `quantile` order statistics, widened
    by `offset` standard deviations. The kept region is then dilated by a window of `closing` positions and eroded by
    one of `opening`, both shrunk by `down_f`, so that lone false alarms vanish and real ones grow a margin.

    Where the published listing runs on maps that are not constant, the result equals it. It differs where the listing
    fails: maps of fewer than 1/quantile positions use their extremes (the listing asks for the 0-th smallest value),
    half precision is computed in float32, windows are always odd, and a constant map is kept whole.

    Args:
        features: (B, C, H, W), floating point.
        down_f: image resolution over this map's resolution, at least 1 in practice.
        opening: side of the erosion's window at image resolution.
        closing: side of the dilation's window at image resolution.
        quantile: share of positions beyond each threshold, in (0, 0.5).
        offset: margin around the thresholds, in standard deviations of the map, ≥ 0.

    Returns:
        Boolean mask of the shape of `features`, True where a position is kept.

    Raises:
        ValueError: an argument outside its range, or features that are not a floating-point (B, C, H, W).

    Reference:
        Berrada et al., 2025, Algorithm 1.
    """
    return find_outliers(features, down_f, opening, closing, quantile, offset).mask()


@torch.no_grad()
def find_outliers(
    features: Tensor,
    down_f: float = 1.0,
    opening: int = 5,
    closing: int = 3,
    quantile: float = 0.02,
    offset: float = 2.0,
) -> Outliers:
    """The same as `outlier_mask`, for the maps that have an outlier alone; arguments and errors are the same.

    Order statistics are slow to find, and only maps that may have outliers need them; the others are told by counting
    (see `_suspects`), which takes a tenth of the time and decides nothing differently.
    """
    _check(features, down_f, opening, closing, quantile, offset)
    if features.numel() == 0:
        return _none(features)
    suspects = torch.nonzero(_suspects(features, quantile, offset), as_tuple=True)
    if len(suspects[0]) == 0:
        return _none(features)
    maps = features[suspects].to(wide_type(features.dtype))
    lower, upper = _thresholds(maps, quantile, offset)
    kept = (maps >= lower) & (maps <= upper)
    # Dilation and erosion leave maps without outliers as they are.
    found = ~kept.flatten(1).all(dim=1)
    samples, channels = suspects[0][found], suspects[1][found]
    kept = kept[found].unsqueeze(1).to(torch.float32)
    kept = _dilate(kept, _odd_window(closing, down_f, round_up=False))
    kept = -_dilate(-kept, _odd_window(opening, down_f, round_up=True))
    return Outliers(features.shape, samples, channels, kept.squeeze(1).bool())


def _none(features: Tensor) -> Outliers:
    nothing = torch.zeros(0, dtype=torch.long, device=features.device)
    kept = torch.ones(0, *features.shape[-2:], dtype=torch.bool, device=features.device)
    return Outliers(features.shape, nothing, nothing, kept)


def _suspects(features: Tensor, quantile: float, offset: float) -> Tensor:
    """Maps whose extremes may lie beyond the thresholds, (B, C); those of all other maps certainly do not.

    The largest value M lies within the upper threshold q + m, where q is the k-th smallest of n values, if q ≥ M − m,
    and so if n − k + 1 values or more are at least M − m; the smallest value likewise.
    """
    positions = features.shape[-2] * features.shape[-1]
    low_rank, high_rank = _ranks(positions, quantile)
    highest, lowest = features.amax(dim=(-2, -1)), features.amin(dim=(-2, -1))
    # A little less than the margin that `_thresholds` takes, lest rounding lets an outlier pass; where rounding may
    # decide all the same, a map is suspect.
    margin = (1 - 1e-3) * offset * moments(features)[1].sqrt()
    extreme = torch.maximum(highest.abs(), lowest.abs()).to(margin.dtype)
    decisive = margin * 1e-3 >= 4 * torch.finfo(margin.dtype).eps * extreme
    near_top = count_where(torch.ge, features, _rounded_up(highest - margin, features.dtype))
    near_bottom = count_where(torch.le, features, -_rounded_up(-lowest - margin, features.dtype))
    cleared = decisive & (near_top > positions - high_rank) & (near_bottom >= low_rank)
    return ~cleared & (highest != lowest)  # a constant map has no outlier


def _rounded_up(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast to `dtype`, to a value that is no smaller."""
    return (values + values.abs() * torch.finfo(dtype).eps).to(dtype)


def _thresholds(maps: Tensor, quantile: float, offset: float) -> tuple[Tensor, Tensor]:
    """Order statistics at `quantile` and 1 − `quantile` by nearest interpolation, widened by offset·std; (K, 1, 1)."""
    flat = maps.flatten(1)
    low_rank, high_rank = _ranks(flat.shape[1], quantile)
    low = flat.kthvalue(low_rank, dim=1).values
    high = flat.kthvalue(high_rank, dim=1).values
    margin = offset * flat.std(dim=1, correction=1 if flat.shape[1] > 1 else 0)
    return (low - margin)[:, None, None], (high + margin)[:, None, None]


def _ranks(positions: int, quantile: float) -> tuple[int, int]:
    """k₁ and k₂ of Algorithm 1, counted from 1; k₁ = 0, as small maps give it, means their smallest value."""
    return max(int(positions * quantile), 1), max(int(positions * (1 - quantile)), 1)


def _odd_window(size: int, down_f: float, round_up: bool) -> int:
    """⌈size/down_f⌉, made odd so that a window has a centre: upwards for the opening, downwards for the closing."""
    window = math.ceil(size / down_f)
    if window % 2 == 0:
        window += 1 if round_up else -1
    return window


def _dilate(values: Tensor, window: int) -> Tensor:
    """Maximum over a window; positions outside the map never win."""
    if window == 1 or len(values) == 0:
        return values
    return F.max_pool2d(values, window, stride=1, padding=(window - 1) // 2)


def _check(features: Tensor, down_f: float, opening: int, closing: int, quantile: float, offset: float) -> None:
    if features.ndim != 4 or not features.is_floating_point():
        raise ValueError(f"features: got {features.dtype} of shape {tuple(features.shape)}, takes floats (B, C, H, W)")
    if not 0 < down_f < math.inf:
        raise ValueError(f"down_f: got {down_f}, takes a positive number")
    for name, size in (("opening", opening), ("closing", closing)):
        if size < 1:
            raise ValueError(f"{name}: got {size}, takes an integer of at least 1")
    if not 0 < quantile < 0.5:
        raise ValueError(f"quantile: got {quantile}, takes a number between 0 and 0.5")
    if not 0 <= offset < math.inf:
        raise ValueError(f"offset: got {offset}, takes a number of at least 0")
