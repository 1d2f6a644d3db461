"""Order statistics of feature maps by counting: a bisection of the floating-point numbers themselves.

On the CPU PyTorch's `kthvalue` takes a hundred times as long as one count does, and a number of 32 bits is found,
exactly, by at most 32 counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .moments import count_where

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def kth_smallest(maps: Tensor, rank: int) -> Tensor:
    """The `rank`-th smallest value of each map.

    Args:
        maps: (B, C, H, W), floating point.
        rank: from 1 to H·W.

    Returns:
        (B, C), of the maps' type; NaN where a map holds NaN.
    """
    if not maps.is_cpu:
        return maps.flatten(-2).kthvalue(rank, dim=-1).values
    low, high = order_of(maps.amin(dim=(-2, -1))), order_of(maps.amax(dim=(-2, -1)))
    # The smallest number that `rank` values or more do not exceed; that number is one of them.
    while bool((open_ := low < high).any()):
        middle = (low & high) + ((low ^ high) >> 1)  # (low + high)/2 rounded down, without overflow
        reached = count_where(torch.le, maps, value_at(middle, maps.dtype)) >= rank
        high = torch.where(open_ & reached, middle, high)
        low = torch.where(open_ & ~reached, middle + 1, low)
    return value_at(low, maps.dtype)


def order_of(values: Tensor) -> Tensor:
    """Floating-point numbers → int64 such that a larger number has a larger one, and neighbours differ by 1."""
    bits = values.contiguous().view(_INTEGERS[values.element_size()]).long()
    return torch.where(bits < 0, _lowest(values.dtype) - bits - 1, bits)


def value_at(order: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `order_of`."""
    bits = torch.where(order < 0, _lowest(dtype) - order - 1, order)
    return bits.to(_INTEGERS[dtype.itemsize]).view(dtype)


def next_value(values: Tensor, direction: float) -> Tensor:
    """The neighbouring number towards −∞ or ∞, for every floating-point type."""
    return value_at(order_of(values) + (1 if direction > 0 else -1), values.dtype)


def _lowest(dtype: torch.dtype) -> int:
    """The integer of the type's size with the sign bit alone, which is −0."""
    return torch.iinfo(_INTEGERS[dtype.itemsize]).min
