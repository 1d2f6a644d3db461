"""Differences of channels-last feature maps: their squares' sums, and bytes that hold them for backward."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Mask, Tiling, next_power, on
from .statistics import has_holes
from .tiles import channels_of, tile

# Positions of a chunk, which have a step in common, and channels of a program, in whose registers they are.
ROWS, BLOCK = 128, 64


def difference_sums(first: Tensor, second: Tensor, mask: Mask | None = None) -> Tensor:
    """Σ d² over the positions of each map, d = a − b.

    Args:
        first: a, channels-last (B, C, H, W).
        second: b, of the same shape and type.
        mask: positions at which d is taken to be 0; None: nowhere.

    Returns:
        (B, C), float32.
    """
    return _differences(first, second, mask, None, None)


def difference_levels(first: Tensor, second: Tensor, mask: Mask | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Σ d² as `difference_sums` gives it, and bytes q with q·|q|·s ≈ d; see `lpl.losses.distance.in_bytes`.

    Arguments are the same.

    Returns:
        (B, C), float32; q, int8, channels-last; and s of every `ROWS` positions, float32 (B, chunks, C), not finite
        where a difference isn't.
    """
    levels = torch.empty_like(first, dtype=torch.int8)
    steps = first.new_empty(len(first), _tiling(first).grid[0], first.shape[1], dtype=torch.float32)
    return _differences(first, second, mask, levels, steps), levels, steps


def from_levels(levels: Tensor, steps: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """q·|q|·s·f of what `difference_levels` gave and f, float32 (B, C): of type `dtype`, channels-last."""
    maps = torch.empty_like(levels, dtype=dtype)
    how = _tiling(levels)
    with on(levels):
        _values[how.grid](levels, steps, scale.contiguous(), maps, *how[1:])
    return maps


def _differences(
    first: Tensor, second: Tensor, mask: Mask | None, levels: Tensor | None, steps: Tensor | None
) -> Tensor:
    how = _tiling(first)
    squares = first.new_empty(len(first), how.grid[0], first.shape[1], dtype=torch.float32)
    with on(first):
        options = mask is not None, levels is not None
        _squares[how.grid](first, second, *(mask or (None, None)), squares, levels, steps, *how[1:], *options)
    return squares.sum(dim=1)


def _tiling(maps: Tensor) -> Tiling:
    """One tile a program."""
    samples, channels, height, width = maps.shape
    positions, block = height * width, min(next_power(channels), BLOCK)
    even = positions % ROWS == 0 and channels % block == 0
    return Tiling((-(-positions // ROWS), samples, -(-channels // block)), positions, channels, 1, ROWS, block, even)


@triton.jit
def _squares(
    first_maps,
    second_maps,
    kept,
    count,
    squares,
    levels,
    sizes,
    positions,
    channels,
    steps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EVEN: tl.constexpr,
    MASKED: tl.constexpr,
    KEEP: tl.constexpr,
):
    sample, chunks = tl.program_id(1), tl.num_programs(0)
    channel, present = channels_of(channels, BLOCK)
    _, inside, place = tile(0, channel, present, positions, channels, steps, ROWS, BLOCK, EVEN)
    a = tl.load(first_maps + place, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(second_maps + place, mask=inside, other=0.0).to(tl.float32)
    difference = a - b
    if MASKED:
        masked = has_holes(count, sample, channel, present, positions, channels)
        flags = tl.load(kept + place, mask=inside & masked, other=1)
        difference = tl.where(flags > 0, difference, 0.0)
    square = tl.sum(difference * difference, axis=0)
    target = (sample * chunks + tl.program_id(0)) * channels + channel
    tl.store(squares + target, square, mask=present)
    if KEEP:
        magnitude = tl.abs(difference)
        # The hardware's maxima skip NaN; the smallest number, for a chunk of zeros, has a finite inverse.
        largest = tl.where(square == square, tl.maximum(tl.max(magnitude, axis=0), 2.0**-60), square)
        factor = 127.0 * 127.0 / largest
        level = (tl.sqrt(magnitude * factor[None, :]) + 0.5).to(tl.int32)
        level = tl.where(difference < 0.0, -level, level)
        tl.store(levels + place, level.to(tl.int8), mask=inside)
        tl.store(sizes + target, largest * (1.0 / (127.0 * 127.0)), mask=present)


@triton.jit
def _values(
    levels,
    sizes,
    scale,
    maps,
    positions,
    channels,
    steps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EVEN: tl.constexpr,
):
    sample, chunks = tl.program_id(1), tl.num_programs(0)
    channel, present = channels_of(channels, BLOCK)
    _, inside, place = tile(0, channel, present, positions, channels, steps, ROWS, BLOCK, EVEN)
    size = tl.load(sizes + (sample * chunks + tl.program_id(0)) * channels + channel, mask=present, other=0.0)
    size *= tl.load(scale + sample * channels + channel, mask=present, other=0.0)
    level = tl.load(levels + place, mask=inside, other=0).to(tl.float32)
    tl.store(maps + place, (level * tl.abs(level) * size[None, :]).to(maps.dtype.element_ty), mask=inside)
