"""What backward keeps of float32 numbers, in 24 bits."""

from __future__ import annotations

import torch
from torch import Tensor


def shortened(values: Tensor) -> tuple[Tensor, ...]:
    """Keeps the sign, the exponent and 15 bits of the fraction of float32 numbers: 24 bits in place of 32.

    Rounded to nearest, by at most 2⁻¹⁷ of each number. Other types are kept as they are: float64 is asked for where
    digits count, and half precision has few.

    Args:
        values: any shape and layout.

    Returns:
        Tensors for `save_for_backward`, in the layout of `values`; `lengthened` takes them.
    """
    if values.dtype != torch.float32:
        return (values,)
    bits = values.detach().view(torch.int32) + (1 << 7)  # half of the last place kept
    return (bits >> 16).to(torch.int16), (bits >> 8).to(torch.uint8)


def lengthened(*kept: Tensor) -> Tensor:
    """The inverse of `shortened`, up to its rounding."""
    if len(kept) == 1:
        return kept[0]
    high, low = kept
    bits = (high.to(torch.int32) << 16) | (low.to(torch.int32) << 8)
    return bits.view(torch.float32)
