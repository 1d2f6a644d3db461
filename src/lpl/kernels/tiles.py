"""What every program of a kernel computes first: its channels, and tile by tile its positions."""

from __future__ import annotations

import triton
import triton.language as tl

STAGES = tl.constexpr(3)  # tiles that are on their way while one is worked on, where a program adds up many


@triton.jit
def channels_of(channels, BLOCK: tl.constexpr):
    """A program's channels, and which of them there are."""
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    return channel, channel < channels


@triton.jit
def tile(
    step, channel, present, positions, channels, steps, ROWS: tl.constexpr, BLOCK: tl.constexpr, EVEN: tl.constexpr
):
    """The positions of a program's tile, which numbers of the tile there are, and where they lie in the maps."""
    position = (tl.program_id(0) * steps + step) * ROWS + tl.arange(0, ROWS)
    # If all are there that is known when compiled, and nothing is computed of it.
    inside = tl.full([ROWS, BLOCK], 1, tl.int1) if EVEN else (position < positions)[:, None] & present[None, :]
    start = tl.program_id(1).to(tl.int64) * positions * channels
    return position, inside, start + position[:, None] * channels + channel[None, :]


@triton.jit
def any_of(flags):
    """Whether any of a tile's flags holds: a scalar."""
    return tl.max(tl.max(flags.to(tl.int32), axis=1), axis=0) > 0


@triton.jit
def bits_of(tile_bits):
    """All bits that are set anywhere in a tile of integers: a scalar."""
    return tl.reduce(tl.reduce(tile_bits, 1, either), 0, either)


@triton.jit
def either(first, second):
    """Bits that are set in one or the other."""
    return first | second
