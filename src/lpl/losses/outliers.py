"""The outlier mask ρ: Algorithm 1 of the paper's appendix (A.3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
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
        offset: margin around the thresholds, in standard deviations of the map.

    Returns:
        Boolean mask of the shape of `features`, True where a position is kept.

    Raises:
        ValueError: an argument outside its range, or features that are not a floating-point (B, C, H, W).

    Reference:
        Berrada et al., 2025, Algorithm 1.
    """
    _check(features, down_f, opening, closing, quantile)
    if features.numel() == 0:
        return torch.ones_like(features, dtype=torch.bool)
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    lower, upper = _thresholds(features, quantile, offset)
    mask = (features >= lower) & (features <= upper)
    # Dilation and erosion leave maps without outliers as they are, which nearly all maps are.
    flagged = ~mask.flatten(-2).all(dim=-1)
    maps = mask[flagged].unsqueeze(1).to(features.dtype)
    maps = _dilate(maps, _odd_window(closing, down_f, round_up=False))
    maps = -_dilate(-maps, _odd_window(opening, down_f, round_up=True))
    mask[flagged] = maps.squeeze(1).bool()
    return mask


def _thresholds(features: Tensor, quantile: float, offset: float) -> tuple[Tensor, Tensor]:
    """Order statistics at `quantile` and 1 − `quantile` by nearest interpolation, widened by offset·std."""
    flat = features.flatten(-2)
    positions = flat.shape[-1]
    low = flat.kthvalue(max(int(positions * quantile), 1), dim=-1).values
    high = flat.kthvalue(max(int(positions * (1 - quantile)), 1), dim=-1).values
    margin = offset * flat.std(dim=-1, correction=1 if positions > 1 else 0)
    return (low - margin)[..., None, None], (high + margin)[..., None, None]


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


def _check(features: Tensor, down_f: float, opening: int, closing: int, quantile: float) -> None:
    if features.ndim != 4 or not features.is_floating_point():
        raise ValueError(f"features: got {features.dtype} of shape {tuple(features.shape)}, takes floats (B, C, H, W)")
    if not 0 < down_f < math.inf:
        raise ValueError(f"down_f: got {down_f}, takes a positive number")
    for name, size in (("opening", opening), ("closing", closing)):
        if size < 1:
            raise ValueError(f"{name}: got {size}, takes an integer of at least 1")
    if not 0 < quantile < 0.5:
        raise ValueError(f"quantile: got {quantile}, takes a number between 0 and 0.5")
