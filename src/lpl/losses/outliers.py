"""The outlier mask ρ: Algorithm 1 of the paper's appendix (A.3)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels import Mask, fused
from .maps import WHOLE, MapSelection, Piece, select_maps
from .moments import count_ones, flags_outside, in_memory_order
from .places import MemoryOrder, in_a_row, places_of
from .thresholds import Suspects, find_suspects, find_thresholds, ranks_of, rounded_down

# A map with more places around which outliers may be left is better looked at whole.
CROWDED = 1000  # of one in so many positions
FEW = 8


@dataclass(frozen=True)
class Outliers:
    """ρ for a block, held as the positions that are masked: few in most decoders, and in most maps none.

    Attributes:
        order: what the places are counted in.
        places: (N,) int64, ascending: what is masked.
    """

    order: MemoryOrder
    places: Tensor

    @property
    def empty(self) -> bool:
        """Whether nothing is masked."""
        return len(self.places) == 0

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        return self.places.device

    @functools.cached_property
    def masked(self) -> Tensor:
        """Number of positions masked in every map, (B, C), int64."""
        if self.empty:
            return torch.zeros(self.order.shape[:2], dtype=torch.int64, device=self.device)
        return self.order.counts(self.places)

    def positions(self) -> Tensor:
        """Number of positions kept in every map, (B, C); at least 1, lest a map masked whole divide by zero."""
        return (math.prod(self.order.shape[2:]) - self.masked).clamp_min_(1)

    def share(self) -> Tensor:
        """Share of all positions that is masked, a scalar."""
        return self.masked.sum() / max(math.prod(self.order.shape), 1)

    def mask(self) -> Tensor:
        """ρ in full: boolean (B, C, H, W), True where a position is kept; made once, and not to be changed."""
        return self._mask

    @functools.cached_property
    def _mask(self) -> Tensor:
        layout = torch.channels_last if self.order.channels_last else torch.contiguous_format
        kept = torch.empty(self.order.shape, dtype=torch.bool, device=self.device, memory_format=layout).fill_(True)
        in_a_row(kept)[self.places] = False
        return kept

    def at_places(self, features: Tensor) -> Tensor:
        """What features (B, C, H, W), in any layout, hold where they are masked: (N,)."""
        if self.order.holds(features):
            return in_a_row(features)[self.places]
        return features[self.order.index(self.places)]

    def clear(self, features: Tensor, piece: Piece = WHOLE) -> Tensor:
        """Multiplies by ρ features (B, C, H, W), or what one of their `pieces` holds, in place."""
        if self.empty:
            return features
        if not self.order.holds(features):
            return features.mul_(self.mask()[piece])
        start = self.order.first(piece)
        ends = torch.searchsorted(self.places, self.places.new_tensor([start, start + features.numel()])).tolist()
        places, values = self.places[slice(*ends)] - start, in_a_row(features)
        values[places] = values[places] * 0  # what is not a finite number stays none
        return features


class DenseOutliers(Outliers):
    """ρ for a block with a byte for every position, as the kernels take it; its `places` are found when asked for.

    Attributes:
        dense: which positions are kept, and how many of each map.
    """

    dense: Mask

    def __init__(self, dense: Mask) -> None:
        object.__setattr__(self, "order", MemoryOrder.of(dense.kept))
        object.__setattr__(self, "dense", dense)

    @functools.cached_property
    def places(self) -> Tensor:
        """What is masked, for what knows no dense masks."""
        return torch.nonzero(in_a_row(self.dense.kept) == 0).flatten()

    @property
    def empty(self) -> bool:
        """Never: where nothing is masked no mask is made."""
        return False

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        return self.dense.kept.device

    @functools.cached_property
    def masked(self) -> Tensor:
        """Number of positions masked in every map."""
        return math.prod(self.order.shape[2:]) - self.dense.number

    def mask(self) -> Tensor:
        """ρ in full."""
        return self.dense.kept.bool()


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
    """The same as `outlier_mask`, held as the positions that are masked; arguments and errors are the same."""
    _check(features, down_f, opening, closing, quantile, offset)
    order, candidates = MemoryOrder.of(features), torch.empty(0, dtype=torch.int64, device=features.device)
    if features.numel() == 0:
        return Outliers(order, candidates)
    dilation, erosion = _odd_window(closing, down_f, round_up=False), _odd_window(opening, down_f, round_up=True)
    if fused(features):
        from ..kernels.outliers import find_mask

        mask = find_mask(features, ranks_of(features, quantile), offset, dilation, erosion)
        return Outliers(order, candidates) if mask is None else DenseOutliers(mask)
    suspects = find_suspects(features, quantile, offset)
    unsearched = suspects.any
    if dilation > 1:
        # Of most maps with values beyond the thresholds the dilation of what is kept closes all.
        candidates, left, crowded = _windows_beyond(features, suspects, dilation)
        unsearched = crowded | (suspects.any & ~suspects.known)
        suspects = suspects.among(left | unsearched)
    lower, upper, beyond = find_thresholds(features, suspects)
    holes = [candidates[_all_beyond(features, candidates, lower, upper, dilation)]]
    for selection in select_maps(features, beyond & unsearched, exactly=False):
        holes.append(_holes(features, selection, lower, upper, dilation))
    return Outliers(order, order.around(torch.cat(holes), erosion))


def _windows_beyond(features: Tensor, suspects: Suspects, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where all positions of a window, as far as it lies within the map, may be outliers.

    Thresholds that are certainly not beyond the real ones leave out none. Every window holds one of a few rows, so that
    there can be one only where those have so many outliers side by side.

    Args:
        features: (B, C, H, W).
        suspects: which maps may have outliers; those whose order statistics nothing is known of are passed over.
        window: its side, odd.

    Returns:
        The windows' centres, ascending; whether a map has any, boolean (B, C); and whether it may have so many that
        they were not looked for one by one, likewise.
    """
    below, above = suspects.bounded_thresholds()
    low, high = -rounded_down(-below, features.dtype), rounded_down(above, features.dtype)
    low, high = (
        torch.where(wanted, value, end)
        for wanted, value, end in zip(suspects.wanted, (low, high), (-torch.inf, torch.inf), strict=True)
    )
    order, height = MemoryOrder.of(features), features.shape[2]
    half = min(window // 2, height - 1)
    rows = (half, window), (height - 1 - half, height)  # the latter is what windows at the map's end hold
    runs = [_runs_beyond(features[..., first::step, :], below, above, window) for first, step in rows]
    crowded = count_ones(runs[0]) > max(math.prod(features.shape[2:]) / CROWDED, FEW)
    wanted = ~crowded[..., None, None]
    found = [_places_in_rows(order, flags.mul_(wanted), *places) for flags, places in zip(runs, rows, strict=True)]
    centres = order.around(torch.cat(found), window, rows_alone=True)
    centres = centres[_all_beyond(features, centres, low, high, window)]
    return centres, order.counts(centres) > 0, crowded


def _runs_beyond(rows: Tensor, below: Tensor, above: Tensor, window: int) -> Tensor:
    """Around which values of rows (B, C, R, W) so many are beyond thresholds (B, C), and a few more: ones, else zeros.

    Values are compared by their distance from the thresholds' middle, with what rounding may take off it.
    """
    middle = (below + above) / 2
    centre = middle.to(rows.dtype)
    radius = (above - below) / 2 - (centre - middle).abs()
    radius = rounded_down(radius * (1 - torch.finfo(rows.dtype).eps), rows.dtype)[..., None, None]
    least = _over_window(torch.minimum, (rows - centre[..., None, None]).abs_(), window, (-1,))
    return torch.gt(least, radius, out=least)


def _places_in_rows(order: MemoryOrder, flags: Tensor, first: int, step: int) -> Tensor:
    """Where ones are among the zeros of (B, C, R, W), which are every `step`-th row of features from the first on."""
    places, count = places_of(in_a_row(flags.to(torch.int8))), flags.shape[2]
    line = places // order.line
    line = line // count * order.shape[2] + first + line % count * step
    return line * order.line + places % order.line


def _all_beyond(features: Tensor, centres: Tensor, low: Tensor, high: Tensor, window: int) -> Tensor:
    """Whether no value of the window around each centre (N,) lies within its map's thresholds, (B, C): (N,)."""
    order = MemoryOrder.of(features)
    values, maps = in_a_row(features)[order.windows(centres, window)], order.maps(centres)
    beyond = (values < low.flatten()[maps, None, None]) | (values > high.flatten()[maps, None, None])
    return beyond.flatten(1).all(dim=1)


def _holes(features: Tensor, selection: MapSelection, low: Tensor, high: Tensor, window: int) -> Tensor:
    """Centres of the windows that hold nothing within thresholds (B, C), in all of some maps, in no order."""
    index = selection.index
    flags = flags_outside(selection.take(features), low[index][None], high[index][None])
    flags = _over_window(torch.bitwise_and, flags, window)
    view, width = in_memory_order(flags)
    places, count, size = places_of(view.flatten()), flags.shape[1], math.prod(flags.shape[2:])
    maps, positions = (places // size, places % size) if width == 3 else (places % count, places // count)
    return MemoryOrder.of(features).numbers(selection.samples[maps], selection.channels[maps], positions)


def _over_window(
    combine: Callable[..., Tensor], flags: Tensor, window: int, dims: tuple[int, ...] = (-2, -1)
) -> Tensor:
    """Combines each position's flag with those of a window around it, as far as that lies within the map."""
    for dim in dims if window > 1 else ():
        combined, size = flags.clone(), flags.shape[dim]
        for shift in range(1, min(window // 2, size - 1) + 1):
            for start, other in ((shift, 0), (0, shift)):
                part = combined.narrow(dim, start, size - shift)
                combine(part, flags.narrow(dim, other, size - shift), out=part)
        flags = combined
    return flags


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
