"""Thresholds from order statistics of feature maps, by counting.

On the CPU PyTorch's `topk` takes far longer than a count does, where values are many. Few counts bracket an order
statistic so closely that it does not matter where in the bracket it lies.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .maps import select_maps
from .moments import count_where, wide_type

PROBES = 256  # positions that the first bracket is drawn from
FEW = 1 << 22  # values, up to which `topk` is faster than the many small operations of counting
HALVINGS = 3  # of the brackets between two looks at which of them are settled

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def threshold_above(maps: Tensor, rank: int, margin: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """A number t for each map such that x > t for those values that exceed q + margin, q being the `rank`-th smallest.

    Args:
        maps: (1, K, H, W), floating point.
        rank: from 1 to H·W.
        margin: (K,), in float32 at least, ≥ 0.
        lowest: the smallest value of each map, (K,).
        highest: the largest.

    Returns:
        (K,), of the maps' type; NaN where a map holds NaN.
    """
    if maps.numel() <= FEW or not maps.is_cpu:
        values = maps[0].flatten(-2)
        largest = values.topk(values.shape[-1] - rank + 1, dim=-1, sorted=False).values
        return _raised(largest.amin(dim=-1), margin)
    result = maps.new_empty(maps.shape[1])
    numbers = torch.arange(maps.shape[1])  # of the maps that are not settled yet
    low, high = _first_bracket(maps, rank, order_of(lowest), order_of(highest))
    for round_ in range(_INTEGERS[maps.element_size()].itemsize * 8):
        for _ in range(HALVINGS):
            low, high = _halved(maps, rank, low, high, by_value=round_ < 4)
        lower, upper = (_raised(value_at(bound, maps.dtype), margin) for bound in (low, high))
        beyond = (count_where(torch.gt, maps, bound[None])[0] for bound in (lower, upper))
        settled = torch.eq(*beyond) | (low >= high)
        result[numbers[settled]] = upper[settled]
        if bool(settled.all()):
            break
        low, high, margin, numbers = (values[~settled] for values in (low, high, margin, numbers))
        (rest,) = select_maps(maps, ~settled[None])
        maps = rest.take(maps)
    return result


def _first_bracket(maps: Tensor, rank: int, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds low ≤ q ≤ high, integers (K,), drawn closer by the order statistics of some positions."""
    height, width = maps.shape[-2:]
    stride = max(math.isqrt(height * width // PROBES), 1)
    if stride == 1:
        return low, high
    probes = maps[0, :, stride // 2 :: stride, stride // 2 :: stride].flatten(1).sort(dim=1).values
    share, count = rank / (height * width), probes.shape[1]
    spread = 3 * math.sqrt(count * share * (1 - share)) + 1
    for guess in (share * count - spread, share * count + spread):
        if 0 <= guess < count:
            low, high = _narrowed(maps, rank, low, high, order_of(probes[:, int(guess)].contiguous()))
    return low, high


def _halved(maps: Tensor, rank: int, low: Tensor, high: Tensor, by_value: bool) -> tuple[Tensor, Tensor]:
    """The half of each bracket that q is in; halves of the numbers' range, or of how many numbers there are."""
    middle = (low & high) + ((low ^ high) >> 1)  # (low + high)/2 rounded down, without overflow
    if by_value:
        wide = (value_at(bound, maps.dtype).to(wide_type(maps.dtype)) for bound in (low, high))
        halfway = torch.stack(list(wide)).div(2).sum(dim=0)
        middle = torch.where(halfway.isfinite(), order_of(halfway.to(maps.dtype)), middle)
    return _narrowed(maps, rank, low, high, middle)


def _narrowed(maps: Tensor, rank: int, low: Tensor, high: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
    """The bracket's part below or above a guess: q ≤ guess if `rank` values or more are."""
    guess = torch.minimum(torch.maximum(guess, low), torch.maximum(high - 1, low))
    reached = count_where(torch.le, maps, value_at(guess, maps.dtype)[None])[0] >= rank
    open_ = low < high
    return torch.where(open_ & ~reached, guess + 1, low), torch.where(open_ & reached, guess, high)


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
