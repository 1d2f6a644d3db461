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
