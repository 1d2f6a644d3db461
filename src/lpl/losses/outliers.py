"""The outlier mask ρ: Algorithm 1 of the paper's appendix (A.3)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..kernels import fused
from .maps import WHOLE, MapSelection, Piece, select_maps
from .moments import count_ones, count_where, flags_where, largest, moments_and_extremes
from .ranks import order_statistics_by_counting, order_statistics_in_tails, widened, widened_order_statistics

CONFIRMED = 1.9  # standard deviations from the mean that nearly every map's 0.02 and 0.98 quantiles lie beyond
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class OutlierMaps:
    """ρ for some maps of a block.

    Attributes:
        selection: K maps.
        kept: (1, K, H, W) of the features' type, 1 where a position is kept and 0 where it is not.
        count: number of positions kept, (K,).
    """

    selection: MapSelection
    kept: Tensor
    count: Tensor


@dataclass(frozen=True)
class Outliers:
    """ρ for a block, held for those maps alone that have an outlier, which few maps of most decoders do.

    Attributes:
        shape: (B, C, H, W) of the block's features.
        parts: the maps that have an outlier; all others are kept whole.
        device: where the features are.
    """

    shape: torch.Size
    parts: tuple[OutlierMaps, ...]
    device: torch.device

    def positions(self) -> Tensor:
        """Number of positions kept in every map, (B, C); at least 1, lest a map masked whole divide by zero."""
        every = torch.full(self.shape[:2], math.prod(self.shape[-2:]), device=self.device)
        for part in self.parts:
            every[part.selection.index] = part.count
        return every.clamp_min_(1)

    def share(self) -> Tensor:
        """Share of all positions that is masked, a scalar."""
        masked = [part.kept[0].numel() - part.count.sum() for part in self.parts]
        total = torch.stack(masked).sum() if masked else torch.zeros((), device=self.device)
        return total / max(math.prod(self.shape), 1)

    def mask(self) -> Tensor:
        """ρ in full: boolean (B, C, H, W), True where a position is kept."""
        mask = torch.ones(self.shape, dtype=torch.bool, device=self.device)
        for part in self.parts:
            mask[part.selection.index] = part.kept[0].bool()
        return mask

    def clear(self, features: Tensor, piece: Piece = WHOLE) -> Tensor:
        """Sets the positions of features (B, C, H, W), or of a piece of them, that are not kept to zero, in place."""
        for part in self.parts:
            selection, kept = part.selection, part.kept
            if piece != WHOLE:
                selection, numbers = selection.within(piece)
                if len(numbers) == 0:
                    continue
                kept = kept[..., piece[2], :] if len(numbers) == kept.shape[1] else kept[:, numbers, piece[2]]
            selection.put(features, selection.take(features).mul_(kept.to(features.dtype)))
        return features


class DenseOutliers(Outliers):
    """ρ for a block with a byte for every position, as the kernels take it; its `parts` are made when asked for.

    Attributes:
        kept: uint8 (B, C, H, W), channels-last, 1 where a position is kept and 0 where it is not.
        count: number of positions kept, (B, C).
    """

    kept: Tensor
    count: Tensor

    def __init__(self, kept: Tensor, count: Tensor) -> None:
        for name, value in {"shape": kept.shape, "device": kept.device, "kept": kept, "count": count}.items():
            object.__setattr__(self, name, value)

    @functools.cached_property
    def parts(self) -> tuple[OutlierMaps, ...]:
        """The maps that have an outlier, for what knows no dense masks."""
        masked = self.count < math.prod(self.shape[-2:])
        return tuple(
            OutlierMaps(selection, selection.take(self.kept), self.count[selection.index])
            for selection in select_maps(self.kept, masked)
        )

    def positions(self) -> Tensor:
        """Number of positions kept in every map, (B, C); at least 1."""
        return self.count.clamp_min(1)

    def share(self) -> Tensor:
        """Share of all positions that is masked, a scalar."""
        return 1 - self.count.sum() / max(math.prod(self.shape), 1)

    def mask(self) -> Tensor:
        """ρ in full."""
        return self.kept.bool()


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
    fails: maps of fewer than 1/quantile positions use their smallest value (the listing asks for the 0-th smallest),
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
    """The same as `outlier_mask`, held for the maps that have an outlier alone; arguments and errors are the same."""
    _check(features, down_f, opening, closing, quantile, offset)
    if features.numel() == 0:
        return Outliers(features.shape, (), features.device)
    windows = _odd_window(closing, down_f, round_up=False), _odd_window(opening, down_f, round_up=True)
    lower, upper, beyond = _thresholds(features, quantile, offset, windows[0])
    if fused(features) and bool(beyond.any()):
        from ..kernels.masks import kept_positions

        return DenseOutliers(*kept_positions(features, lower, upper, beyond, *windows))
    parts = []
    for selection in select_maps(features, beyond):
        low, high = (values[selection.index] for values in (lower, upper))
        kept = _kept(selection.take(features), low, high, *windows).to(features.dtype)
        parts += _with_outliers(selection, kept)
    return Outliers(features.shape, tuple(parts), features.device)


def _with_outliers(selection: MapSelection, kept: Tensor) -> list[OutlierMaps]:
    """Those of the maps of which something is masked: in most, the dilation has closed every lone false alarm."""
    count = count_ones(kept)[0]
    left = torch.nonzero(count < kept[0, 0].numel()).flatten()
    if len(left) == 0:
        return []
    if len(left) < len(count):
        selection, kept, count = selection[left], kept[:, left], count[left]
    return [OutlierMaps(selection, kept, count)]


@dataclass(frozen=True)
class _Suspects:
    """Maps that may have outliers, and what is known of their order statistics; pairs are of below and above, (B, C).

    Attributes:
        wanted: which maps may have some.
        bounds: what the order statistic lies beyond where that is confirmed, of the features' type.
        confirmed: whether it is.
        margin: offset·std, in float32 at least.
    """

    wanted: Pair
    bounds: Pair
    confirmed: Pair
    margin: Tensor

    @property
    def any(self) -> Tensor:
        """Which maps may have outliers at all."""
        return self.wanted[0] | self.wanted[1]

    @property
    def known(self) -> Tensor:
        """Of which maps every bound that matters is confirmed."""
        (bottom, top), (below, above) = self.wanted, self.confirmed
        return (~top | above) & (~bottom | below)

    def among(self, maps: Tensor) -> _Suspects:
        """Those that some maps, boolean (B, C), hold."""
        return replace(self, wanted=(self.wanted[0] & maps, self.wanted[1] & maps))


def _thresholds(features: Tensor, quantile: float, offset: float, closing: int) -> tuple[Tensor, Tensor, Tensor]:
    """Order statistics at `quantile` and 1 − `quantile` by nearest interpolation, widened by offset·std.

    They are infinite where the order statistic does not matter: where one count tells that the map's extreme lies
    within (see `_suspects`), and where every value that may lie beyond is closed by the dilation (see `_survivors`).

    Returns:
        Lower and upper thresholds, of the features' type, which decide as the exact ones do, and whether the map has
        a value beyond them; each (B, C).
    """
    positions = features.shape[-2] * features.shape[-1]
    ranks = _ranks(positions, quantile)
    mean, variance, lowest, highest = moments_and_extremes(features)
    margin = offset * (variance * (positions / max(positions - 1, 1))).sqrt()
    suspects = _suspects(features, ranks, (mean, variance), (lowest, highest), margin)
    if closing > 1:
        suspects = suspects.among(_survivors(features, suspects, closing))
    if features.itemsize == 2 and fused(features):
        lower, upper = _widened_by_counting(features, suspects, ranks, (lowest, highest))
    else:
        lower, upper = _widened_by_sorting(features, suspects, ranks)
    bottom, top = suspects.wanted
    lower, upper = torch.where(bottom, lower, -torch.inf), torch.where(top, upper, torch.inf)
    varies = highest != lowest  # a constant map has no outlier
    # Written so that maps that hold NaN, which no threshold bounds, count among those that have outliers.
    return lower, upper, varies & ~((lowest >= lower) & (highest <= upper))


def _suspects(features: Tensor, ranks: tuple[int, int], moments: Pair, extremes: Pair, margin: Tensor) -> _Suspects:
    """Which maps may have outliers, by one count on either side.

    If n − k + 1 of n values or more are at least t, then so is the k-th smallest, q. The largest value M therefore lies
    within the upper threshold q + m if that many are at least M − m. Where M − m is above what q nearly always exceeds,
    that is counted instead, and is then known to bound q from below. The smallest value likewise.
    """
    (mean, variance), (lowest, highest), (low_rank, high_rank) = moments, extremes, ranks
    # A little less than the margin, lest rounding hide an outlier; where rounding may decide, a map is suspect.
    less = (1 - 1e-3) * margin
    extreme = torch.maximum(highest.abs(), lowest.abs()).to(margin.dtype)
    doubtful = margin * 1e-3 < 4 * torch.finfo(margin.dtype).eps * extreme
    around = CONFIRMED * variance.sqrt()
    low, high = (mean - around).to(features.dtype), (mean + around).to(features.dtype)
    near_top, near_bottom = _rounded_up(highest - less, features.dtype), -_rounded_up(-lowest - less, features.dtype)
    within = near_bottom >= low, near_top <= high
    low, high = torch.maximum(near_bottom, low), torch.minimum(near_top, high)
    above, below = count_where(features, (torch.ge, high), (torch.le, low))
    above, below = above > features.shape[-2] * features.shape[-1] - high_rank, below >= low_rank
    varies = highest != lowest
    wanted = varies & (doubtful | ~(within[0] & below)), varies & (doubtful | ~(within[1] & above))
    return _Suspects(wanted, (low, high), (below, above), margin)


def _widened_by_counting(features: Tensor, suspects: _Suspects, ranks: tuple[int, int], extremes: Pair) -> Pair:
    """Both thresholds (B, C); of no meaning for maps that they are not wanted of."""
    (low, high), (below, above), (lowest, highest) = suspects.bounds, suspects.confirmed, extremes
    tails = (lowest, torch.where(below, low, highest)), (torch.where(above, high, lowest), highest)
    return widened(*order_statistics_by_counting(features, ranks, *tails, suspects.wanted), suspects.margin)


def _widened_by_sorting(features: Tensor, suspects: _Suspects, ranks: tuple[int, int]) -> Pair:
    """The same, for maps that are taken out.

    Where it is known that what is wanted lies beyond the bounds, only what lies beyond them is sorted.
    """
    (bottom, top), margin, known = suspects.wanted, suspects.margin, suspects.known
    lower, upper = (features.new_full(margin.shape, value) for value in (-torch.inf, torch.inf))
    low, high = torch.where(bottom, suspects.bounds[0], lower), torch.where(top, suspects.bounds[1], upper)
    if not features.is_cpu or features.itemsize > 4:
        known = torch.zeros_like(known)
    for selection in select_maps(features, suspects.any & known):
        index = selection.index
        found = order_statistics_in_tails(selection.take(features), ranks, low[index], high[index])
        lower[index], upper[index] = widened(*found, margin[index])
    for selection in select_maps(features, suspects.any & ~known):
        maps, index = selection.take(features), selection.index
        lower[index], upper[index] = widened_order_statistics(maps, *ranks, margin[index])
    return lower, upper


def _survivors(features: Tensor, suspects: _Suspects, closing: int) -> Tensor:
    """Whether a map may have outliers that the dilation of what is kept leaves, (B, C); no for most.

    An outlier is left if all positions of a window around it are outliers; few rows tell which maps may have such a
    window at all. Thresholds that are certainly not beyond the real ones give no fewer outliers: those around a bound
    of the order statistic that one count confirms.

    Args:
        features: (B, C, H, W).
        suspects: which maps may have outliers.
        closing: side of the dilation's window in this map's positions.
    """
    (low, high), (bottom, top), beyond = suspects.bounds, suspects.wanted, suspects.margin * (1 - 1e-3)
    above = torch.where(top, _rounded_down(high + beyond, features.dtype), torch.inf)
    below = torch.where(bottom, -_rounded_down(beyond - low, features.dtype), -torch.inf)
    if fused(features):
        from ..kernels.statistics import window_beyond

        return (~suspects.known | window_beyond(features, below, above, closing)) & suspects.any
    survive = ~suspects.known
    for rows in _rows_in_every_window(features, closing):
        survive |= _may_have_run(rows, low - beyond, high + beyond, closing)
    survive &= suspects.any
    for selection in select_maps(features, survive & suspects.known):
        high, low = (values[selection.index][None] for values in (above, below))
        survive[selection.index] = _have_window(selection.take(features), low, high, closing)[0]
    return survive


def _rows_in_every_window(features: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Rows of which every window of so many rows around a row holds one, also where the map's edge cuts it short."""
    height = features.shape[-2]
    half = min(window // 2, height - 1)
    return features[..., half::window, :], features[..., height - 1 - half : height - half, :]


def _may_have_run(rows: Tensor, below: Tensor, above: Tensor, window: int) -> Tensor:
    """Which maps' rows (B, C, R, W) have so many values in a row beyond their thresholds (B, C), and a few more.

    Values are compared by their distance from the thresholds' middle, with what rounding may take off it.
    """
    middle = (below + above) / 2
    centre = middle.to(rows.dtype)
    radius = (above - below) / 2 - (centre - middle).abs()
    least = _over_window(torch.minimum, (rows - centre[..., None, None]).abs_(), window, (-1,))
    return largest(least) > _rounded_down(radius * (1 - torch.finfo(rows.dtype).eps), rows.dtype)


def _have_window(maps: Tensor, below: Tensor, above: Tensor, window: int) -> Tensor:
    """Which maps (B, C, H, W) have a window in which every value is beyond its thresholds (B, C)."""
    flags = flags_where(torch.gt, maps, above).bitwise_or_(flags_where(torch.lt, maps, below))
    return largest(_over_window(torch.bitwise_and, flags, window)) > 0


def _kept(maps: Tensor, lower: Tensor, upper: Tensor, closing: int, opening: int) -> Tensor:
    """What is within the thresholds (K,), dilated by a window of `closing` positions and eroded by one of `opening`."""
    kept = flags_where(torch.ge, maps, lower[None]).bitwise_and_(flags_where(torch.le, maps, upper[None]))
    return _over_window(torch.bitwise_and, _over_window(torch.bitwise_or, kept, closing), opening)


def _over_window(
    combine: Callable[..., Tensor], flags: Tensor, window: int, dims: tuple[int, ...] = (-2, -1)
) -> Tensor:
    """Combines each position's flag with those of a window around it, as far as that lies within the map."""
    for dim in dims:
        combined, size = flags.clone(), flags.shape[dim]
        for shift in range(1, min(window // 2, size - 1) + 1):
            for start, other in ((shift, 0), (0, shift)):
                part = combined.narrow(dim, start, size - shift)
                combine(part, flags.narrow(dim, other, size - shift), out=part)
        flags = combined
    return flags


def _rounded_down(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast to `dtype`, to a value that is no larger."""
    return (values - values.abs() * torch.finfo(dtype).eps).to(dtype)


def _rounded_up(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast to `dtype`, to a value that is no smaller."""
    return (values + values.abs() * torch.finfo(dtype).eps).to(dtype)


def _ranks(positions: int, quantile: float) -> tuple[int, int]:
    """k₁ and k₂ of Algorithm 1, counted from 1; k₁ = 0, as small maps give it, means their smallest value."""
    return max(int(positions * quantile), 1), max(int(positions * (1 - quantile)), 1)


def _odd_window(size: int, down_f: float, round_up: bool) -> int:
    """⌈size/down_f⌉, made odd so that a window has a centre: upwards for the opening, downwards for the closing."""
    window = math.ceil(size / down_f)
    if window % 2 == 0:
        window += 1 if round_up else -1
    return window


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
