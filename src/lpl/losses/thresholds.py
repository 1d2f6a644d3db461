"""The thresholds of Algorithm 1 (A.3), for the feature maps that may have values beyond them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .maps import select_maps
from .moments import count_where, moments_and_extremes
from .ranks import order_statistics_in_tails, widened, widened_order_statistics

CONFIRMED = 1.9  # standard deviations from the mean that nearly every map's 0.02 and 0.98 quantiles lie beyond
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Suspects:
    """Maps that may have outliers, and what is known of their order statistics; pairs are of below and above, (B, C).

    Attributes:
        wanted: which maps may have some.
        bounds: what the order statistic lies beyond where that is confirmed, of the features' type.
        confirmed: whether it is.
        margin: offset·std, in float32 at least.
        extremes: smallest and largest value, of the features' type.
        ranks: of the order statistics, from 1 on.
    """

    wanted: Pair
    bounds: Pair
    confirmed: Pair
    margin: Tensor
    extremes: Pair
    ranks: tuple[int, int]

    @property
    def any(self) -> Tensor:
        """Which maps may have outliers at all."""
        return self.wanted[0] | self.wanted[1]

    @property
    def known(self) -> Tensor:
        """Of which maps every bound that matters is confirmed."""
        (bottom, top), (below, above) = self.wanted, self.confirmed
        return (~top | above) & (~bottom | below)

    def among(self, maps: Tensor) -> Suspects:
        """Those that some maps, boolean (B, C), hold."""
        return replace(self, wanted=(self.wanted[0] & maps, self.wanted[1] & maps))

    def bounded_thresholds(self) -> Pair:
        """Thresholds certainly not beyond the real ones, in float32 at least; infinite where nothing is known."""
        (low, high), margin, sought = self.bounds, self.margin * (1 - 1e-3), self.any & self.known
        return torch.where(sought, low - margin, -torch.inf), torch.where(sought, high + margin, torch.inf)


def find_suspects(features: Tensor, quantile: float, offset: float) -> Suspects:
    """Which maps may have outliers, by one count on either side.

    If n − k + 1 of n values or more are at least t, then so is the k-th smallest, q. The largest value M therefore lies
    within the upper threshold q + m if that many are at least M − m. Where M − m is above what q nearly always exceeds,
    that is counted instead, and is then known to bound q from below. The smallest value likewise.
    """
    positions = features.shape[-2] * features.shape[-1]
    low_rank, high_rank = ranks_of(features, quantile)
    mean, variance, lowest, highest = moments_and_extremes(features)
    margin = offset * (variance * (positions / max(positions - 1, 1))).sqrt()
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
    above, below = above > positions - high_rank, below >= low_rank
    varies = highest != lowest
    wanted = varies & (doubtful | ~(within[0] & below)), varies & (doubtful | ~(within[1] & above))
    return Suspects(wanted, (low, high), (below, above), margin, (lowest, highest), (low_rank, high_rank))


def find_thresholds(features: Tensor, suspects: Suspects) -> tuple[Tensor, Tensor, Tensor]:
    """Order statistics at `quantile` and 1 − `quantile` by nearest interpolation, widened by offset·std.

    They are infinite where nothing is suspect.

    Returns:
        Lower and upper thresholds, of the features' type, which decide as the exact ones do, and whether the map has
        a value beyond them; each (B, C).
    """
    lower, upper = _widened_by_sorting(features, suspects)
    (bottom, top), (lowest, highest) = suspects.wanted, suspects.extremes
    lower, upper = torch.where(bottom, lower, -torch.inf), torch.where(top, upper, torch.inf)
    varies = highest != lowest  # a constant map has no outlier
    # Written so that maps that hold NaN, which no threshold bounds, count among those that have outliers.
    return lower, upper, varies & ~((lowest >= lower) & (highest <= upper))


def _widened_by_sorting(features: Tensor, suspects: Suspects) -> Pair:
    """Both thresholds (B, C); infinite, or of no meaning, where they are not wanted.

    Where it is known that what is wanted lies beyond the bounds, only what lies beyond them is sorted.
    """
    (bottom, top), margin, known = suspects.wanted, suspects.margin, suspects.known
    if not features.is_cpu or features.itemsize > 4:
        known = torch.zeros_like(known)
    lower, upper = (features.new_full(margin.shape, value) for value in (-torch.inf, torch.inf))
    low, high = suspects.bounds
    low, high = torch.where(bottom & known, low, lower), torch.where(top & known, high, upper)
    for selection in select_maps(features, suspects.any & known, exactly=False):
        index = selection.index
        found = order_statistics_in_tails(selection.take(features), suspects.ranks, low[index], high[index])
        lower[index], upper[index] = widened(*found, margin[index])
    for selection in select_maps(features, suspects.any & ~known):
        maps, index = selection.take(features), selection.index
        lower[index], upper[index] = widened_order_statistics(maps, *suspects.ranks, margin[index])
    return lower, upper


def rounded_down(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast to `dtype`, to a value that is no larger."""
    return (values - values.abs() * torch.finfo(dtype).eps).to(dtype)


def _rounded_up(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast to `dtype`, to a value that is no smaller."""
    return (values + values.abs() * torch.finfo(dtype).eps).to(dtype)


def ranks_of(features: Tensor, quantile: float) -> tuple[int, int]:
    """k₁ and k₂ of Algorithm 1, counted from 1; k₁ = 0, as small maps give it, means their smallest value."""
    positions = features.shape[-2] * features.shape[-1]
    return max(int(positions * quantile), 1), max(int(positions * (1 - quantile)), 1)
