"""Algorithm 1's mask of channels-last maps, once its thresholds are known."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import WIDE, Mask, on, tiling
from .tiles import STAGES, any_of, bits_of, channels_of, tile

TILE = 2048  # the fewer numbers a tile has, the more often none of them is beyond the thresholds
GROUP = tl.constexpr(32)  # tiles of which the bits of an integer tell which hold a value beyond


def kept_positions(maps: Tensor, lower: Tensor, upper: Tensor, beyond: Tensor, closing: int, opening: int) -> Mask:
    """What lies within the thresholds, dilated by a window of `closing` positions and eroded by one of `opening`.

    Args:
        maps: channels-last (B, C, H, W).
        lower: smallest value within, float32 (B, C).
        upper: largest value within.
        beyond: whether a map has a value beyond the thresholds, uint8 (B, C); one that has none is not read.
        closing: side of the dilation's window, odd.
        opening: side of the erosion's window, odd.
    """
    kept, size = torch.ones_like(maps, dtype=torch.uint8), maps.shape[-2:]
    how, cut = tiling(maps, TILE), tiling(maps)
    partial = maps.new_empty(len(maps), cut.grid[0], how.channels, dtype=torch.int32)
    windows = closing // 2, opening // 2
    with on(maps):
        _holes[how.grid](maps, lower, upper, beyond, kept, *size, *how[2:], *windows)
        _count[cut.grid](kept, beyond, partial, *cut[1:], **WIDE)
    return Mask(kept, partial.sum(dim=1, dtype=torch.int32))


@triton.jit
def outside(value, low, high):
    """Where a value lies beyond `low` or `high`, as NaN does."""
    return ((value >= low) & (value <= high)) == 0


@triton.jit
def beyond_with_window(
    maps,
    step,
    channel,
    present,
    height,
    width,
    channels,
    steps,
    low,
    high,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EVEN: tl.constexpr,
    HALF: tl.constexpr,
):
    """Which numbers of a program's tile lie beyond `low` and `high` with all of the window around them.

    A window reaches `HALF` positions to each side, as far as it lies within the map.
    In few tiles is a value beyond with both that follow it, across and down; only there the whole window is read.

    Returns:
        Where the tile's numbers lie in the maps, the row and column of each position, the flags, and whether any holds.
    """
    position, here, middle = tile(step, channel, present, height * width, channels, steps, ROWS, BLOCK, EVEN)
    y, x = position // width, position % width
    beyond = here & outside(tl.load(maps + middle, mask=here, other=0.0).to(tl.float32), low, high)
    if HALF > 0:
        beyond = _and_neighbour(maps, middle, beyond, y, x, height, width, channels, low, high, 0, 1)
        beyond = _and_neighbour(maps, middle, beyond, y, x, height, width, channels, low, high, 1, 0)
    some = any_of(beyond)
    if HALF > 0:  # noqa: SIM102 - known when compiled, and the other isn't
        if some:
            for up in tl.static_range(-HALF, HALF + 1):
                for across in tl.static_range(-HALF, HALF + 1):
                    beyond = _and_neighbour(maps, middle, beyond, y, x, height, width, channels, low, high, up, across)
            some = any_of(beyond)
    return middle, y, x, beyond, some


@triton.jit
def _and_neighbour(maps, middle, beyond, y, x, height, width, channels, low, high, up, across):
    """Which flags hold where the value so many rows and columns away, if there is one, is beyond too."""
    there = (y + up >= 0) & (y + up < height) & (x + across >= 0) & (x + across < width)
    asked = there[:, None] & beyond
    value = tl.load(maps + middle + (up * width + across) * channels, mask=asked, other=0.0).to(tl.float32)
    return beyond & ((asked == 0) | outside(value, low, high))


@triton.jit
def _holes(
    maps,
    lower,
    upper,
    beyond,
    kept,
    height,
    width,
    channels,
    steps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EVEN: tl.constexpr,
    CLOSING: tl.constexpr,
    OPENING: tl.constexpr,
):
    """Clears the window of the erosion around every position that the dilation leaves a hole.

    That is one whose window of the dilation holds no value within the thresholds, as far as it lies within the map.
    """
    sample = tl.program_id(1)
    channel, present = channels_of(channels, BLOCK)
    positions = height * width
    read = tl.load(beyond + sample * channels + channel, mask=present, other=0) > 0
    if tl.max(read.to(tl.int32), axis=0) > 0:
        # Where nothing is beyond, thresholds are infinite.
        low = tl.load(lower + sample * channels + channel, mask=read, other=float("-inf"))[None, :]
        high = tl.load(upper + sample * channels + channel, mask=read, other=float("inf"))[None, :]
        for group in range(0, steps, GROUP):
            count = tl.minimum(steps - group, GROUP)
            hits = tl.zeros([ROWS, BLOCK], tl.int32)
            for step in tl.range(count, num_stages=STAGES):
                _, here, middle = tile(group + step, channel, present, positions, channels, steps, ROWS, BLOCK, EVEN)
                value = tl.load(maps + middle, mask=here, other=0.0).to(tl.float32)
                hits |= tl.where(here & outside(value, low, high), 1 << step, 0)
            found = bits_of(hits)
            for step in range(count):
                if (found >> step) & 1:
                    middle, y, x, hole, some = beyond_with_window(
                        maps,
                        group + step,
                        channel,
                        present,
                        height,
                        width,
                        channels,
                        steps,
                        low,
                        high,
                        ROWS,
                        BLOCK,
                        EVEN,
                        CLOSING,
                    )
                    if some:
                        for up in tl.static_range(-OPENING, OPENING + 1):
                            for across in tl.static_range(-OPENING, OPENING + 1):
                                there = (y + up >= 0) & (y + up < height) & (x + across >= 0) & (x + across < width)
                                place = middle + (up * width + across) * channels
                                tl.store(kept + place, 0, mask=there[:, None] & hole)


@triton.jit
def _count(
    kept,
    beyond,
    counts,
    positions,
    channels,
    steps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EVEN: tl.constexpr,
):
    """How many positions of a chunk are kept; all, unread, where no channel of a program has any beyond."""
    sample, chunks = tl.program_id(1), tl.num_programs(0)
    channel, present = channels_of(channels, BLOCK)
    first = tl.program_id(0) * steps * ROWS
    number = tl.minimum(steps * ROWS, positions - first) + tl.zeros([BLOCK], tl.int32)
    if tl.max(tl.load(beyond + sample * channels + channel, mask=present, other=0).to(tl.int32), axis=0) > 0:
        total = tl.zeros([ROWS, BLOCK], tl.int32)
        for step in tl.range(steps, num_stages=STAGES):
            _, inside, place = tile(step, channel, present, positions, channels, steps, ROWS, BLOCK, EVEN)
            total += tl.load(kept + place, mask=inside, other=0).to(tl.int32)
        number = tl.sum(total, axis=0)
    tl.store(counts + (sample * chunks + tl.program_id(0)) * channels + channel, number, mask=present)
