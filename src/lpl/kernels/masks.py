"""Algorithm 1's mask of channels-last maps, once its thresholds are known."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import WIDE, on, tiling
from .statistics import count_beyond
from .tiles import beyond_with_window, channels_of, tile


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
    kept, beyond = torch.ones_like(maps, dtype=torch.uint8), beyond.contiguous()
    size = maps.shape[-2:]
    with on(maps):
        _holes[how.grid](
            maps,
            lower.contiguous(),
            upper.contiguous(),
            beyond,
            kept,
            *size,
            *how[2:],
            closing // 2,
            opening // 2,
            **WIDE,
        )
    counts = count_beyond(kept, kept.new_ones(1, *beyond.shape), (True,), beyond)[0]
    return kept, torch.where(beyond, counts, how.positions)


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
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    CLOSING: tl.constexpr,
    OPENING: tl.constexpr,
):
    """Clears the window of the erosion around every position that the dilation leaves a hole.

    That is one whose window of the dilation holds no value within the thresholds, as far as it lies within the map.
    """
    sample = tl.program_id(1)
    channel, present = channels_of(channels, BLOCK)
    positions = height * width
    read = present & (tl.load(beyond + sample * channels + channel, mask=present, other=0) > 0)
    low = tl.load(lower + sample * channels + channel, mask=read, other=0.0).to(tl.float32)[None, :]
    high = tl.load(upper + sample * channels + channel, mask=read, other=0.0).to(tl.float32)[None, :]
    for step in range(STEPS):
        position, here, middle = tile(step, channel, read, positions, channels, STEPS, ROWS)
        y, x = position // width, position % width
        hole = beyond_with_window(maps, middle, here, y, x, height, width, channels, low, high, CLOSING)
        if tl.max(tl.max(hole.to(tl.int32), axis=1), axis=0) > 0:
            for up in tl.static_range(-OPENING, OPENING + 1):
                for across in tl.static_range(-OPENING, OPENING + 1):
                    there = (y + up >= 0) & (y + up < height) & (x + across >= 0) & (x + across < width)
                    place = middle + (up * width + across) * channels
                    tl.store(kept + place, 0, mask=there[:, None] & hole)
