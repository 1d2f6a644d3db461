"""Algorithm 1's mask of channels-last maps, once its thresholds are known."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import on, tiling


def kept_positions(maps: Tensor, lower: Tensor, upper: Tensor, closing: int, opening: int) -> tuple[Tensor, Tensor]:
    """What lies within the thresholds, dilated by a window of `closing` positions and eroded by one of `opening`.

    Args:
        maps: channels-last (B, C, H, W).
        lower: smallest value within, of the maps' type, (B, C).
        upper: largest value within.
        closing: side of the dilation's window, odd.
        opening: side of the erosion's window, odd.

    Returns:
        uint8 of the maps' shape and layout, 1 where a position is kept, and how many are, (B, C), int64.
    """
    how, size = tiling(maps), maps.shape[-2:]
    thresholds = lower.contiguous(), upper.contiguous()
    kept = torch.empty_like(maps, dtype=torch.uint8)
    counts = maps.new_empty(len(maps), how.grid[0], how.channels, dtype=torch.int32)
    source, half = maps, opening // 2
    with on(maps):
        if closing > 1:
            source = torch.empty_like(maps, dtype=torch.uint8)
            _dilated[how.grid](maps, *thresholds, source, *size, *how[2:], closing // 2)
        _eroded[how.grid](source, *thresholds, kept, counts, *size, *how[2:], half, closing == 1)
    return kept, counts.sum(dim=1)


@triton.jit
def _within(maps, place, inside, low, high):
    value = tl.load(maps + place, mask=inside, other=0.0).to(tl.float32)
    return (value >= low) & (value <= high)


@triton.jit
def _dilated(
    maps,
    lower,
    upper,
    output,
    height,
    width,
    channels,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    HALF: tl.constexpr,
):
    sample = tl.program_id(1)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    present = channel < channels
    positions = height * width
    low = tl.load(lower + sample * channels + channel, mask=present, other=0.0).to(tl.float32)[None, :]
    high = tl.load(upper + sample * channels + channel, mask=present, other=0.0).to(tl.float32)[None, :]
    start = sample.to(tl.int64) * positions * channels
    first = tl.program_id(0) * STEPS * ROWS
    for step in range(STEPS):
        position = first + step * ROWS + tl.arange(0, ROWS)
        y, x = position // width, position % width
        here = (position < positions)[:, None] & present[None, :]
        kept = tl.zeros([ROWS, BLOCK], tl.int32)
        for up in tl.static_range(-HALF, HALF + 1):
            for across in tl.static_range(-HALF, HALF + 1):
                there = (y + up >= 0) & (y + up < height) & (x + across >= 0) & (x + across < width)
                inside = there[:, None] & here
                place = start + (position + up * width + across)[:, None] * channels + channel[None, :]
                kept |= (_within(maps, place, inside, low, high) & inside).to(tl.int32)
        tl.store(output + start + position[:, None] * channels + channel[None, :], kept.to(tl.uint8), mask=here)


@triton.jit
def _eroded(
    source,
    lower,
    upper,
    output,
    counts,
    height,
    width,
    channels,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    HALF: tl.constexpr,
    VALUES: tl.constexpr,
):
    """Of flags, or of what lies within the thresholds where the source holds values."""
    sample, chunks = tl.program_id(1), tl.num_programs(0)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    present = channel < channels
    positions = height * width
    low = tl.load(lower + sample * channels + channel, mask=present, other=0.0).to(tl.float32)[None, :]
    high = tl.load(upper + sample * channels + channel, mask=present, other=0.0).to(tl.float32)[None, :]
    start = sample.to(tl.int64) * positions * channels
    first = tl.program_id(0) * STEPS * ROWS
    number = tl.zeros([ROWS, BLOCK], tl.int32)
    for step in range(STEPS):
        position = first + step * ROWS + tl.arange(0, ROWS)
        y, x = position // width, position % width
        here = (position < positions)[:, None] & present[None, :]
        kept = here.to(tl.int32)
        for up in tl.static_range(-HALF, HALF + 1):
            for across in tl.static_range(-HALF, HALF + 1):
                there = (y + up >= 0) & (y + up < height) & (x + across >= 0) & (x + across < width)
                inside = there[:, None] & here
                place = start + (position + up * width + across)[:, None] * channels + channel[None, :]
                if VALUES:
                    flag = _within(source, place, inside, low, high)
                else:
                    flag = tl.load(source + place, mask=inside, other=1) > 0
                kept &= (flag | (inside == 0)).to(tl.int32)
        number += kept
        tl.store(output + start + position[:, None] * channels + channel[None, :], kept.to(tl.uint8), mask=here)
    partial = (sample * chunks + tl.program_id(0)) * channels + channel
    tl.store(counts + partial, tl.sum(number, axis=0), mask=present)
