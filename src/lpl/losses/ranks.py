"""Thresholds from order statistics of feature maps.

Floating-point numbers are in the order of their bits but for the sign. Where a count has told that a number of some
rank lies beyond a bound, a sort of what lies beyond it finds that number; else NumPy partitions integers, on the CPU
many times faster than PyTorch's `topk` finds the largest floating-point numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import torch
from torch import Tensor

from .maps import FEW_VALUES
from .moments import flags_in_tails, in_memory_order
from .places import in_a_row

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def widened_order_statistics(maps: Tensor, low_rank: int, high_rank: int, margin: Tensor) -> tuple[Tensor, Tensor]:
    """Each map's `low_rank`-th smallest value less its margin, and the `high_rank`-th plus its margin.

    Rounded to the maps' type such that values x of that type are beyond the thresholds just where they are beyond the
    exact sums.

    Args:
        maps: (1, K, H, W), floating point.
        low_rank: from 1 to H·W.
        high_rank: likewise.
        margin: (K,), in float32 at least, ≥ 0.

    Returns:
        Two of shape (K,), of the maps' type; NaN where the margin is, as that of a map which holds NaN.
    """
    low, high = _nth_smallest(maps[0].flatten(-2), low_rank, high_rank)
    return widened(low, high, margin)


def widened(low: Tensor, high: Tensor, margin: Tensor) -> tuple[Tensor, Tensor]:
    """Low less the margin and high plus it, rounded as for `widened_order_statistics`."""
    return -_sum_rounded_down(-low, margin), _sum_rounded_down(high, margin)


def order_statistics_in_tails(maps: Tensor, ranks: tuple[int, int], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Each map's numbers of two ranks from the smallest, from a sort of what lies in its tails alone.

    Args:
        maps: (1, K, H, W), of a type of two or four bytes, without NaN.
        ranks: from 1 to H·W.
        low: (K,), of the maps' type; at least as many numbers as the first rank says are this small. −∞ where the
            first number is not wanted.
        high: (K,); the number of the second rank and all above it are this large. ∞ where it is not wanted.

    Returns:
        Two of shape (K,), of the maps' type; of no meaning where they are not wanted.
    """
    view, width = in_memory_order(maps)
    channels, positions = maps.shape[1], maps[0, 0].numel()
    places = in_a_row(flags_in_tails(maps, low[None], high[None])).view(torch.bool).nonzero().flatten()
    numbers = places // positions if width == 3 else places % channels  # which map each place is of
    order = order_of(view.flatten()[places])
    # Sorted by map, and within a map by value, at once: by NumPy, several times faster, short integers most of all.
    bits = 8 * maps.element_size()
    keys = (numbers << bits) + order
    keys = keys.int() if channels << bits <= torch.iinfo(torch.int32).max else keys
    ordered = torch.from_numpy(numpy.sort(keys.numpy())).long()
    counts = torch.bincount(numbers, minlength=channels)
    ends = counts.cumsum(0)
    wanted = torch.stack([ends - counts + ranks[0] - 1, ends - positions + ranks[1] - 1])
    found = ordered[wanted.clamp_(0, len(ordered) - 1)]
    low_order, high_order = (found - (torch.arange(channels, device=maps.device) << bits)).to(order.dtype)
    return value_at(low_order, maps.dtype), value_at(high_order, maps.dtype)


def _sum_rounded_down(values: Tensor, margin: Tensor) -> Tensor:
    """The largest number of the values' type that does not exceed value + margin."""
    raised = values.to(margin.dtype) + margin
    cast = raised.to(values.dtype)
    return torch.where(cast > raised, value_at(order_of(cast) - 1, cast.dtype), cast)


def _nth_smallest(values: Tensor, *ranks: int) -> list[Tensor]:
    """Of every row of (K, N), the numbers of these ranks from the smallest, each (K,)."""
    if not values.is_cpu or torch.compiler.is_compiling():
        return [_by_topk(values, rank) for rank in ranks]
    rows = max(FEW_VALUES // values.shape[-1], 1)
    return [
        torch.cat(parts) for parts in zip(*(_by_partition(part, ranks) for part in values.split(rows)), strict=True)
    ]


def _by_partition(values: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    order, found = order_of(values), []
    for rank in ranks:  # one after the other: NumPy is far slower at several in one call
        order.numpy().partition(rank - 1, axis=-1)
        found.append(value_at(order[:, rank - 1], values.dtype))
    return found


def _by_topk(values: Tensor, rank: int) -> Tensor:
    count = values.shape[-1]
    if rank > count // 2:
        return values.topk(count - rank + 1, dim=-1, sorted=False).values.amin(dim=-1)
    return values.topk(rank, dim=-1, largest=False, sorted=False).values.amax(dim=-1)


def order_of(values: Tensor) -> Tensor:
    """Floating-point numbers → integers of their size: a larger number has a larger one, and neighbours differ by 1."""
    bits = values.contiguous().view(_INTEGERS[values.element_size()])
    return _flipped(bits)


def value_at(order: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `order_of`."""
    return _flipped(order.contiguous()).view(dtype)


def _flipped(bits: Tensor) -> Tensor:
    """Integers with all bits but the sign's inverted where they are negative; twice gives them back."""
    information = torch.iinfo(bits.dtype)
    return (bits >> (information.bits - 1)).bitwise_and_(information.max).bitwise_xor_(bits)
