"""What backward keeps of float32 numbers, in 24 bits."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .layout import memory_format

PIECE = 1 << 18  # numbers worked on at a time on the CPU, so that what is in between stays in the cache


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
    kept = room_for(values)
    shorten_into(values, *kept)
    return kept


def room_for(values: Tensor) -> tuple[Tensor, Tensor]:
    """What `shorten_into` fills for float32 numbers of this shape and layout, at once or part by part."""
    return torch.empty_like(values, dtype=torch.int16), torch.empty_like(values, dtype=torch.uint8)


def shorten_into(values: Tensor, high: Tensor, low: Tensor) -> None:
    """Writes 24 bits of float32 numbers, 16 and 8, into tensors of their shape."""
    for source, upper, lower in _pieces(values.detach().view(torch.int32), high, low):
        bits = source + (1 << 7)  # half of the last place kept
        lower.copy_(bits >> 8)
        upper.copy_(bits.bitwise_right_shift_(16))


def lengthened(*kept: Tensor) -> Tensor:
    """The inverse of `shortened`, up to its rounding."""
    if len(kept) == 1:
        return kept[0]
    values = torch.empty_like(kept[0], dtype=torch.int32)
    for bits, upper, lower in _pieces(values, *kept):
        bits.copy_(upper).bitwise_left_shift_(16).bitwise_or_(lower.to(torch.int32).bitwise_left_shift_(8))
    return values.view(torch.float32)


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of tensors of the same shape and layout, piece by piece in the order that they lie in memory.

    All at once where there is nothing to gain, and where that order is not known.
    """
    first = tensors[0]
    alike = all(tensor.is_contiguous(memory_format=memory_format(first)) for tensor in tensors)
    if torch.compiler.is_compiling() or not first.is_cpu or not alike:
        yield tensors
    else:
        yield from zip(*(tensor.as_strided((tensor.numel(),), (1,)).split(PIECE) for tensor in tensors), strict=True)
