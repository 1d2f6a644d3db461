"""Order statistics of channels-last maps, by histograms of what lies between bounds.

Floating-point numbers are in the order of their bits but for the sign, and are counted by that order. A bin that holds
the number sought is counted once more in finer bins, until each is of one number.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import on, tiling
from .tiles import any_of, channels_of, tile

LOGARITHM = tl.constexpr(9)
BINS = 1 << LOGARITHM.value  # of a histogram
ROUNDS = {2: 2, 4: 4}  # by a type's bytes: as many as it takes to tell all its numbers apart
TILE = 2048  # numbers at once: their addresses fill a thread's registers
_BITS = {2: torch.int16, 4: torch.int32}


def find_ranks(maps: Tensor, ranges: Tensor) -> None:
    """Finds, in each map, two numbers: each of a rank within a range that holds it.

    Args:
        maps: channels-last (B, C, H, W), of a type of two or four bytes.
        ranges: int32 (4, 2, B, C); what is found is written into the first row. The order of the range's first number
            (see `order_of`); how many numbers the range has, unsigned, 0 where nothing is sought; the binary logarithm
            of as many of them as fall into a bin, of which `BINS` reach to the range's end; and the rank among what
            lies in the range, from 1 on, or from 0 downwards if it is counted from the largest down: 0 is the largest.
            It costs least if the second range, where there are two, begins behind the first.
    """
    bits, how = maps.view(_BITS[maps.element_size()]), tiling(maps, TILE)
    bins = torch.zeros(*ranges.shape[1:], BINS, dtype=torch.int32, device=maps.device)
    with on(maps):
        for _ in range(ROUNDS[maps.element_size()]):
            _bins[how.grid](bits, ranges, bins, 0, *how[1:], BINS)
            _narrow[(ranges[0].numel(),)](ranges, bins, BINS, num_warps=1)


@triton.jit
def order_of(bits):
    """Bits of a floating-point number, as a signed integer → int32, larger for larger numbers; neighbours differ by 1.

    Twice gives them back.
    """
    wide = bits.to(tl.int32)
    magnitude: tl.constexpr = (1 << (bits.dtype.primitive_bitwidth - 1)) - 1
    return ((wide >> 31) & magnitude) ^ wide


@triton.jit(do_not_specialize=["unaligned"])
def _bins(
    bits,
    ranges,
    bins,
    unaligned,
    positions,
    channels,
    steps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EVEN: tl.constexpr,
    BINS: tl.constexpr,
):
    """An addition in memory for every value that lies in a bin: those of tails are few, and neighbours rarely meet.

    `unaligned` is 0, which the compiler isn't told: it then lets every thread read one channel, whose range its
    registers hold, and not eight at once, which it would hand to other threads for the additions.
    """
    bits += unaligned
    sample, samples = tl.program_id(1), tl.num_programs(1)
    channel, present = channels_of(channels, BLOCK)
    size = samples * channels
    here = ranges + sample * channels + channel
    low_width = tl.load(here + 2 * size, mask=present, other=0).to(tl.uint32, bitcast=True)[None, :]
    high_width = tl.load(here + 3 * size, mask=present, other=0).to(tl.uint32, bitcast=True)[None, :]
    if any_of((low_width > 0) | (high_width > 0)):
        low, high = tl.load(here, mask=present, other=0)[None, :], tl.load(here + size, mask=present, other=0)[None, :]
        low_shift = tl.load(here + 4 * size, mask=present, other=0)[None, :].to(tl.uint32)
        high_shift = tl.load(here + 5 * size, mask=present, other=0)[None, :].to(tl.uint32)
        into = bins + (sample * channels + channel)[None, :].to(tl.int64) * BINS
        upper = size * BINS
        overlap = (low_width > 0) & (high_width > 0) & ((high - low).to(tl.uint32, bitcast=True) < low_width)
        both = any_of(overlap | ((high < low) & (low_width > 0) & (high_width > 0)))
        for step in range(steps):
            _, inside, where = tile(step, channel, present, positions, channels, steps, ROWS, BLOCK, EVEN)
            order = order_of(tl.load(bits + where, mask=inside, other=0))
            # A number is in the range of one or the other, seldom in both.
            other = (high_width > 0) & (order >= high)
            away = (order - tl.where(other, high, low)).to(tl.uint32, bitcast=True)
            counted = inside & (away < tl.where(other, high_width, low_width))
            bin = (away >> tl.where(other, high_shift, low_shift)).to(tl.int32) + tl.where(other, upper, 0)
            tl.atomic_add(tl.max_contiguous(into + bin, [1, BLOCK]), 1, mask=counted, sem="relaxed")
            if both:
                away = (order - low).to(tl.uint32, bitcast=True)
                counted = inside & other & (away < low_width)
                tl.atomic_add(
                    tl.max_contiguous(into + (away >> low_shift).to(tl.int32), [1, BLOCK]),
                    1,
                    mask=counted,
                    sem="relaxed",
                )


@triton.jit
def _narrow(ranges, bins, BINS: tl.constexpr):
    """From a range to the bin that holds the number sought, and bins to zeros."""
    number, size = tl.program_id(0), tl.num_programs(0)
    width = tl.load(ranges + size + number)
    if width != 0:
        index = tl.arange(0, BINS)
        counts = tl.load(bins + number.to(tl.int64) * BINS + index)
        tl.store(bins + number.to(tl.int64) * BINS + index, tl.zeros([BINS], tl.int32))
        shift, rank = tl.load(ranges + 2 * size + number), tl.load(ranges + 3 * size + number)
        rank = tl.where(rank > 0, rank, tl.sum(counts, axis=0) + rank)
        bin = tl.minimum(tl.sum((tl.cumsum(counts, axis=0) < rank).to(tl.int32), axis=0), BINS - 1)
        before = tl.sum(tl.where(index < bin, counts, 0), axis=0)
        finer = tl.maximum(shift - LOGARITHM, 0)
        tl.store(ranges + number, tl.load(ranges + number) + (bin << shift))
        tl.store(ranges + size + number, tl.where(shift > 0, 1 << shift, 0))
        tl.store(ranges + 2 * size + number, finer)
        tl.store(ranges + 3 * size + number, rank - before)
