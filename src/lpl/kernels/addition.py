"""What a convolution's result gets added, in one pass where PyTorch takes one for each."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .launch import on, tiling


def add_(maps: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    """x + b + r in place.

    Args:
        maps: x, channels-last (B, C, H, W).
        bias: b, (C,), or None for 0.
        residual: r, of the shape, type and layout of x, or None for 0.

    Returns:
        The same tensor.
    """
    if bias is None and residual is None:
        return maps
    how = tiling(maps)
    with on(maps):
        _add[how.grid](maps, bias, residual, *how[1:], bias is not None, residual is not None)
    return maps


@triton.jit
def _add(
    maps,
    bias,
    residual,
    positions,
    channels,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    BIASED: tl.constexpr,
    RESIDUAL: tl.constexpr,
):
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    present = channel < channels
    start = tl.program_id(1).to(tl.int64) * positions * channels
    first = tl.program_id(0) * STEPS * ROWS
    if BIASED:
        constant = tl.load(bias + channel, mask=present, other=0.0).to(tl.float32)[None, :]
    for step in range(STEPS):
        position = first + step * ROWS + tl.arange(0, ROWS)
        inside = (position < positions)[:, None] & present[None, :]
        place = start + position[:, None] * channels + channel[None, :]
        value = tl.load(maps + place, mask=inside, other=0.0).to(tl.float32)
        if BIASED:
            value += constant
        if RESIDUAL:
            value += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(maps + place, value.to(maps.dtype.element_ty), mask=inside)
