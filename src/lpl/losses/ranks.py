"""Thresholds from order statistics of feature maps, by counting.

On the CPU PyTorch's `topk` takes far longer than a count does, where values are many. Few counts bracket an order
statistic so closely that it does not matter where in the bracket it lies: two beside the place that it has among
normally distributed values, then two beside the place that those counts tell.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from .maps import select_maps
from .moments import count_where, wide_type

FEW = 1 << 22  # values, up to which `topk` is faster than the many small operations of counting
FIRST_WIDTH = 0.1  # of the first bracket to either side of a normal distribution's quantile, in standard deviations
CURVATURE = 0.06  # how far interpolation is off in a normal distribution's tail: this × width², in standard deviations
INTERPOLATED_ROUNDS = 4  # after them every other round halves the bracket, whatever the values' distribution

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Statistics:
    """Of K maps, each (K,).

    Attributes:
        mean: in float32 at least.
        deviation: standard deviation, likewise.
        lowest: the smallest value, of the maps' type.
        highest: the largest.
    """

    mean: Tensor
    deviation: Tensor
    lowest: Tensor
    highest: Tensor

    def __getitem__(self, index: Any) -> Statistics:
        """Those of some maps."""
        return Statistics(*(getattr(self, entry.name)[index] for entry in fields(self)))

    def negated(self) -> Statistics:
        """Those of the maps times −1."""
        return Statistics(-self.mean, self.deviation, -self.highest, -self.lowest)


@torch.no_grad()
def threshold_above(maps: Tensor, rank: int, margin: Tensor, statistics: Statistics) -> Tensor:
    """A number t for each map such that x > t for those values that exceed q + margin, q being the `rank`-th smallest.

    Args:
        maps: (1, K, H, W), floating point.
        rank: from 1 to H·W.
        margin: (K,), in float32 at least, ≥ 0.
        statistics: of the maps; mean and deviation say where to look first and need not be exact.

    Returns:
        (K,), of the maps' type; NaN where a map holds NaN.
    """
    if maps.numel() <= FEW or not maps.is_cpu:
        values = maps[0].flatten(-2)
        largest = values.topk(values.shape[-1] - rank + 1, dim=-1, sorted=False).values
        return _raised(largest.amin(dim=-1), margin)
    counted = _by_counting(maps, rank, margin, statistics)
    return torch.where(statistics.highest.isnan(), torch.nan, counted)


def _by_counting(maps: Tensor, rank: int, margin: Tensor, statistics: Statistics) -> Tensor:
    """Narrows a bracket around each map's order statistic until no value lies between the thresholds at its ends."""
    result = maps.new_empty(maps.shape[1])
    numbers = torch.arange(maps.shape[1])  # of the maps that are not settled yet
    bracket, deviation = _Bracket.whole(maps, statistics), statistics.deviation
    guesses = _normal_guesses(maps, rank, statistics)
    for rounds in itertools.count(1):
        bracket = bracket.narrowed(maps, rank, *guesses)
        lower, upper = (_raised(value_at(bound, maps.dtype), margin) for bound in (bracket.low, bracket.high))
        beyond = count_where(maps, (torch.gt, lower[None]), (torch.gt, upper[None]))[:, 0]
        settled = beyond[0].eq(beyond[1]) | (bracket.low >= bracket.high)
        result[numbers[settled]] = upper[settled]
        if bool(settled.all()):
            break
        rest = ~settled
        bracket, margin, numbers, deviation = bracket[rest], margin[rest], numbers[rest], deviation[rest]
        (selection,) = select_maps(maps, rest[None])
        maps = selection.take(maps)
        halve = rounds > INTERPOLATED_ROUNDS and rounds % 2 == 0
        guesses = bracket.quarters() if halve else bracket.interpolated(maps, rank, deviation)
    return result


def _normal_guesses(maps: Tensor, rank: int, statistics: Statistics) -> tuple[Tensor, Tensor]:
    """To either side of where the order statistic of normally distributed values lies."""
    share = (rank - 0.5) / (maps.shape[-2] * maps.shape[-1])
    quantile = NormalDist().inv_cdf(share)
    guesses = (statistics.mean + statistics.deviation * (quantile + side) for side in (-FIRST_WIDTH, FIRST_WIDTH))
    lower, upper = (order_of(guess.to(maps.dtype)) for guess in guesses)
    return lower, upper


@dataclass(frozen=True)
class _Bracket:
    """Bounds low ≤ q ≤ high of each map's order statistic, and how many values lie beside them; each int64 (K,).

    Attributes:
        low: as `order_of` numbers floating-point values.
        high: likewise.
        below: number of values smaller than `low`.
        upto: number of values not larger than `high`.
    """

    low: Tensor
    high: Tensor
    below: Tensor
    upto: Tensor

    @classmethod
    def whole(cls, maps: Tensor, statistics: Statistics) -> _Bracket:
        """From the smallest value to the largest."""
        low, high = order_of(statistics.lowest), order_of(statistics.highest)
        return cls(low, high, torch.zeros_like(low), torch.full_like(low, maps.shape[-2] * maps.shape[-1]))

    def __getitem__(self, index: Any) -> _Bracket:
        return _Bracket(*(getattr(self, entry.name)[index] for entry in fields(self)))

    def narrowed(self, maps: Tensor, rank: int, *guesses: Tensor) -> _Bracket:
        """The part between, below or above the guesses that q is in: q ≤ guess if `rank` values or more are."""
        inside = [
            torch.minimum(torch.maximum(guess, self.low), torch.maximum(self.high - 1, self.low)) for guess in guesses
        ]
        counts = count_where(maps, *((torch.le, value_at(guess, maps.dtype)[None]) for guess in inside))[:, 0]
        low, high, below, upto = self.low, self.high, self.below, self.upto
        open_ = low < high
        for guess, count in zip(inside, counts, strict=True):
            lowered = open_ & (count >= rank) & (guess < high)
            high, upto = torch.where(lowered, guess, high), torch.where(lowered, count, upto)
            raised = open_ & (count < rank) & (guess >= low)
            low, below = torch.where(raised, guess + 1, low), torch.where(raised, count, below)
        return _Bracket(low, high, below, upto)

    def quarters(self) -> tuple[Tensor, Tensor]:
        """A quarter and three quarters of the numbers in between: few steps to the end, however they are spread."""
        middle = _middle(self.low, self.high)
        return _middle(self.low, middle), _middle(middle, self.high)

    def interpolated(self, maps: Tensor, rank: int, deviation: Tensor) -> tuple[Tensor, Tensor]:
        """To either side of where q lies if the logarithm of how many values are larger falls linearly.

        They are as far apart as that is likely to be off: for the curve's bend, and for how unevenly values lie.
        """
        wide = wide_type(maps.dtype)
        low, high = (value_at(bound, maps.dtype).to(wide) for bound in (self.low, self.high))
        positions = maps.shape[-2] * maps.shape[-1]
        above_low, above_high = positions - self.below.to(wide), positions - self.upto.to(wide) + 0.5
        share = (above_low / (positions - rank + 0.5)).log() / (above_low / above_high).log()
        width = high - low
        error = CURVATURE * width / deviation + (self.upto - self.below).to(wide).rsqrt()
        error = error.clamp(max=0.25)
        middle = _middle(self.low, self.high)
        guesses = []
        for place in (share - error, share + error):
            guess = low + width * place.clamp(0, 1)
            guesses.append(torch.where(guess.isfinite(), order_of(guess.to(maps.dtype)), middle))
        return guesses[0], guesses[1]


def _middle(low: Tensor, high: Tensor) -> Tensor:
    """(low + high)/2 rounded down, without overflow."""
    return (low & high) + ((low ^ high) >> 1)


def _raised(values: Tensor, margin: Tensor) -> Tensor:
    """The largest number of the values' type that does not exceed value + margin."""
    raised = values.to(margin.dtype) + margin
    cast = raised.to(values.dtype)
    return torch.where(cast > raised, value_at(order_of(cast) - 1, cast.dtype), cast)


def order_of(values: Tensor) -> Tensor:
    """Floating-point numbers → int64 such that a larger number has a larger one, and neighbours differ by 1."""
    bits = values.contiguous().view(_INTEGERS[values.element_size()]).long()
    return torch.where(bits < 0, _lowest(values.dtype) - bits - 1, bits)


def value_at(order: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `order_of`."""
    bits = torch.where(order < 0, _lowest(dtype) - order - 1, order)
    return bits.to(_INTEGERS[dtype.itemsize]).view(dtype)


def _lowest(dtype: torch.dtype) -> int:
    """The integer of the type's size with the sign bit alone, which is −0."""
    return torch.iinfo(_INTEGERS[dtype.itemsize]).min
