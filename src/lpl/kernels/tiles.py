"""What every program of a kernel computes first: its channels, and tile by tile its positions."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def channels_of(channels, BLOCK: tl.constexpr):
    """A program's channels, and which of them there are."""
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    return channel, channel < channels


@triton.jit
def tile(step, channel, present, positions, channels, STEPS: tl.constexpr, ROWS: tl.constexpr):
    """The positions of a program's tile, which numbers of the tile there are, and where they lie in the maps."""
    position = (tl.program_id(0) * STEPS + step) * ROWS + tl.arange(0, ROWS)
    inside = (position < positions)[:, None] & present[None, :]
    start = tl.program_id(1).to(tl.int64) * positions * channels
    return position, inside, start + position[:, None] * channels + channel[None, :]


@triton.jit
def beyond_with_window(maps, middle, here, y, x, height, width, channels, low, high, HALF: tl.constexpr):
    """Which numbers of a tile lie beyond `low` and `high` with all of the window around them.

    A window reaches `HALF` positions to each side, as far as it lies within the map. NaN is beyond any threshold.

    Args:
        maps: channels-last.
        middle: where the tile's numbers lie in them.
        here: which of these numbers there are.
        y: row of each position.
        x: column of each position.
        height: of a map.
        width: of a map.
        channels: of the maps.
        low: smallest value within, of each channel.
        high: largest value within.
        HALF: positions of a window to each side of its centre.
    """
    value = tl.load(maps + middle, mask=here, other=0.0).to(tl.float32)
    beyond = here & (((value >= low) & (value <= high)) == 0)
    if tl.max(tl.max(beyond.to(tl.int32), axis=1), axis=0) > 0:  # few tiles hold a value beyond at all
        for up in tl.static_range(-HALF, HALF + 1):
            for across in tl.static_range(-HALF, HALF + 1):
                there = (y + up >= 0) & (y + up < height) & (x + across >= 0) & (x + across < width)
                asked = there[:, None] & beyond
                value = tl.load(maps + middle + (up * width + across) * channels, mask=asked, other=0.0).to(tl.float32)
                beyond = beyond & ((asked & (value >= low) & (value <= high)) == 0)
    return beyond
