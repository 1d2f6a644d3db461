"""Differences of channels-last feature maps: their squares' sums, and bytes that hold them for backward."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Mask, next_power, on
from .statistics import has_holes

ROWS, BLOCK = (
    128,
    64,
)  # positions of a chunk, which share a step, and channels of a program, in whose registers they are


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
    positions = first.shape[2] * first.shape[3]
    steps = first.new_empty(len(first), -(-positions // ROWS), first.shape[1], dtype=torch.float32)
    return _differences(first, second, mask, levels, steps), levels, steps


def from_levels(levels: Tensor, steps: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """q·|q|·s·f of what `difference_levels` gave and f, float32 (B, C): of type `dtype`, channels-last."""
    maps = torch.empty_like(levels, dtype=dtype)
    grid, sizes = _grid(levels)
    with on(levels):
        _values[grid](levels, steps, scale.contiguous(), maps, *sizes)
    return maps


def _differences(
    first: Tensor, second: Tensor, mask: Mask | None, levels: Tensor | None, steps: Tensor | None
) -> Tensor:
    grid, sizes = _grid(first)
    squares = first.new_empty(len(first), grid[0], first.shape[1], dtype=torch.float32)
    with on(first):
        options = mask is not None, levels is not None
        _squares[grid](first, second, *(mask or (None, None)), squares, levels, steps, *sizes, *options)
    return squares.sum(dim=1)


def _grid(maps: Tensor) -> tuple[tuple[int, int, int], tuple[int, int, int, int, bool]]:
    samples, channels, height, width = maps.shape
    positions, block = height * width, min(next_power(channels), BLOCK)
    even = positions % ROWS == 0 and channels % block == 0
    return (-(-positions // ROWS), samples, -(-channels // block)), (positions, channels, ROWS, block, even)


@triton.jit
def _part(positions, channels, ROWS: tl.constexpr, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    """A program's channels, which of them there are, its numbers likewise, and where they lie in the maps."""
    position = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    present = channel < channels
    # If all are there that is known when compiled, and nothing is computed of it.
    inside = tl.full([ROWS, BLOCK], 1, tl.int1) if EVEN else (position < positions)[:, None] & present[None, :]
    start = tl.program_id(1).to(tl.int64) * positions * channels
    return channel, present, inside, start + position[:, None] * channels + channel[None, :]


@triton.jit
def _squares(
    first_maps,
    second_maps,
    kept,
    count,
    squares,
    levels,
    steps,
    positions,
    channels,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EVEN: tl.constexpr,
    MASKED: tl.constexpr,
    KEEP: tl.constexpr,
):
    sample, chunks = tl.program_id(1), tl.num_programs(0)
    channel, present, inside, place = _part(positions, channels, ROWS, BLOCK, EVEN)
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
        tl.store(steps + target, largest * (1.0 / (127.0 * 127.0)), mask=present)


@triton.jit
def _values(
    levels,
    steps,
    scale,
    maps,
    positions,
    channels,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EVEN: tl.constexpr,
):
    sample, chunks = tl.program_id(1), tl.num_programs(0)
    channel, present, inside, place = _part(positions, channels, ROWS, BLOCK, EVEN)
    step = tl.load(steps + (sample * chunks + tl.program_id(0)) * channels + channel, mask=present, other=0.0)
    step *= tl.load(scale + sample * channels + channel, mask=present, other=0.0)
    level = tl.load(levels + place, mask=inside, other=0).to(tl.float32)
    tl.store(maps + place, (level * tl.abs(level) * step[None, :]).to(maps.dtype.element_ty), mask=inside)
