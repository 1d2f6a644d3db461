"""Algorithm 1's mask of channels-last maps, once its thresholds are known."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import on, tiling
from .tiles import channels_of, tile


def kept_positions(
    maps: Tensor, lower: Tensor, upper: Tensor, beyond: Tensor, closing: int, opening: int
) -> tuple[Tensor, Tensor]:
    """What lies within the thresholds, dilated by a window of `closing` positions and eroded by one of `opening`.

    Args:
        maps: channels-last (B, C, H, W).
        lower: smallest value within, of the maps' type, (B, C).
        upper: largest value within.
        beyond: whether a map has a value beyond the thresholds, boolean (B, C); one that has none is not read.
        closing: side of the dilation's window, odd.
        opening: side of the erosion's window, odd.

    Returns:
        uint8 of the maps' shape and layout, 1 where a position is kept, and how many are, (B, C), int64.
    """
    how = tiling(maps)
    flags = torch.empty_like(maps, dtype=torch.uint8)
    other, beyond = torch.empty_like(flags), beyond.contiguous()
    size, cut = maps.shape[-2:], how[2:]
    counts = maps.new_empty(len(maps), how.grid[0], how.channels, dtype=torch.int32)
    with on(maps):
        _within[how.grid](maps, lower.contiguous(), upper.contiguous(), beyond, flags, *how[1:])
        for number, (window, every) in enumerate(((closing, False), (opening, True))):
            half = window // 2
            if half or number == 1:
                _combined[how.grid](flags, beyond, other, counts, *size, *cut, half, 0, every, False)
                _combined[how.grid](other, beyond, flags, counts, *size, *cut, 0, half, every, number == 1)
    return flags, counts.sum(dim=1)


@triton.jit
def _within(
    maps,
    lower,
    upper,
    beyond,
    flags,
    positions,
    channels,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """1 where a value lies within its map's thresholds, and in maps that have none beyond."""
    sample = tl.program_id(1)
    channel, present = channels_of(channels, BLOCK)
    read = present & (tl.load(beyond + sample * channels + channel, mask=present, other=0) > 0)
    low = tl.load(lower + sample * channels + channel, mask=read, other=0.0).to(tl.float32)[None, :]
    high = tl.load(upper + sample * channels + channel, mask=read, other=0.0).to(tl.float32)[None, :]
    for step in range(STEPS):
        _, here, place = tile(step, channel, present, positions, channels, STEPS, ROWS)
        value = tl.load(maps + place, mask=here & read[None, :], other=0.0).to(tl.float32)
        within = ((value >= low) & (value <= high)) | (read == 0)[None, :]
        tl.store(flags + place, within.to(tl.uint8), mask=here)


@triton.jit
def _combined(
    source,
    beyond,
    output,
    counts,
    height,
    width,
    channels,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    ACROSS: tl.constexpr,
    UP: tl.constexpr,
    EVERY: tl.constexpr,
    COUNTED: tl.constexpr,
):
    """Whether every flag, or any, of a window along one axis is set, as far as it lies within the map."""
    sample, chunks = tl.program_id(1), tl.num_programs(0)
    channel, present = channels_of(channels, BLOCK)
    read = (present & (tl.load(beyond + sample * channels + channel, mask=present, other=0) > 0))[None, :]
    positions = height * width
    number = tl.zeros([ROWS, BLOCK], tl.int32)
    for step in range(STEPS):
        position, here, middle = tile(step, channel, present, positions, channels, STEPS, ROWS)
        y, x = position // width, position % width
        combined = tl.zeros([ROWS, BLOCK], tl.int32) + (1 if EVERY else 0)
        for shift in tl.static_range(-(ACROSS + UP), ACROSS + UP + 1):
            if ACROSS > 0:
                there, distance = (x + shift >= 0) & (x + shift < width), shift
            else:
                there, distance = (y + shift >= 0) & (y + shift < height), shift * width
            neutral = 1 if EVERY else 0
            flag = tl.load(source + middle + distance * channels, mask=there[:, None] & here & read, other=neutral).to(
                tl.int32
            )
            combined = combined & flag if EVERY else combined | flag
        combined = tl.where(read, combined, 1)
        if COUNTED:
            number += tl.where(here, combined, 0)
        tl.store(output + middle, combined.to(tl.uint8), mask=here)
    if COUNTED:
        target = counts + (sample * chunks + tl.program_id(0)) * channels + channel
        tl.store(target, tl.sum(number, axis=0), mask=present)
