"""What a convolution's result gets added, in one pass where PyTorch takes one for each, and ReLU's gradient."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import on, tiling
from .tiles import channels_of, tile


def add_(
    maps: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool = False, marked: bool = False
) -> Tensor | None:
    """x + b + r, and then optionally max(·, 0), in place.

    Args:
        maps: x, channels-last (B, C, H, W).
        bias: b, (C,), or None for 0.
        residual: r, of the shape, type and layout of x, or None for 0.
        relu: whether max(·, 0) is applied.
        marked: also return where the result is positive.

    Returns:
        uint8 of the maps' shape and layout, 1 where the result is positive, or None.
    """
    positive = torch.empty_like(maps, dtype=torch.uint8) if marked else None
    if bias is not None or residual is not None or relu or marked:
        how = tiling(maps)
        options = bias is not None, residual is not None, relu, marked
        with on(maps):
            _add[how.grid](maps, bias, residual, positive, *how[1:], *options)
    return positive


def where_positive(gradient: Tensor, positive: Tensor) -> Tensor:
    """The gradient where `positive` is not 0, and 0 elsewhere, also where the gradient is not finite.

    Args:
        gradient: channels-last (B, C, H, W).
        positive: uint8 of its shape and layout.
    """
    how, output = tiling(gradient), torch.empty_like(gradient)
    with on(gradient):
        _where[how.grid](gradient, positive, output, *how[1:])
    return output


@triton.jit
def _add(
    maps,
    bias,
    residual,
    positive,
    positions,
    channels,
    steps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EVEN: tl.constexpr,
    BIASED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
    MARKED: tl.constexpr,
):
    channel, present = channels_of(channels, BLOCK)
    if BIASED:
        constant = tl.load(bias + channel, mask=present, other=0.0).to(tl.float32)[None, :]
    for step in range(steps):
        _, inside, place = tile(step, channel, present, positions, channels, steps, ROWS, BLOCK, EVEN)
        value = tl.load(maps + place, mask=inside, other=0.0).to(tl.float32)
        if BIASED:
            value += constant
        if RESIDUAL:
            value += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
        if RELU:
            value = tl.where(value < 0.0, 0.0, value)  # NaN stays
        tl.store(maps + place, value.to(maps.dtype.element_ty), mask=inside)
        if MARKED:
            tl.store(positive + place, ((value > 0.0) | (value != value)).to(tl.uint8), mask=inside)


@triton.jit
def _where(
    gradient,
    positive,
    output,
    positions,
    channels,
    steps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EVEN: tl.constexpr,
):
    channel, present = channels_of(channels, BLOCK)
    for step in range(steps):
        _, inside, place = tile(step, channel, present, positions, channels, steps, ROWS, BLOCK, EVEN)
        value = tl.load(gradient + place, mask=inside, other=0.0)
        flag = tl.load(positive + place, mask=inside, other=0) > 0
        tl.store(output + place, tl.where(flag, value, 0.0).to(output.dtype.element_ty), mask=inside)
