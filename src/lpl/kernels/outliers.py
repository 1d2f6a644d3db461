"""Algorithm 1 of the paper's appendix (A.3) on channels-last maps: what `lpl.losses.outliers` does, in a few kernels.

Most maps have nothing to mask, which is found out by reading them twice: once for their moments and extremes, and once
to count what lies beyond bounds of the order statistics that the moments give. Nothing is asked of the GPU before the
end, so that Python need not wait for it.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import WIDE, Mask, on, tiling
from .masks import GROUP, TILE, beyond_with_window, kept_positions, outside
from .ranks import LOGARITHM, find_ranks, order_of
from .statistics import PARTS, WIDTH, chunk_moments, chunks_at, merged
from .tiles import STAGES, bits_of, channels_of, tile

CONFIRMED = 1.9  # standard deviations from the mean that nearly every map's 0.02 and 0.98 quantiles lie beyond
NEARER = 1.2  # and those of most others
SLACK = tl.constexpr(1e-3)  # of the margin, lest rounding hide an outlier
MARGIN, LOWEST, HIGHEST, MEAN, STD, LOW, HIGH, WITHIN, LOWER, UPPER = (tl.constexpr(row) for row in range(10))
KNOWN = 10  # rows of float32 (B, C) with what is known of each map
BOTTOM, TOP, DOUBTFUL = tl.constexpr(1), tl.constexpr(2), tl.constexpr(4)  # bits of a row, and of what is wanted


def find_mask(maps: Tensor, ranks: tuple[int, int], offset: float, closing: int, opening: int) -> Mask | None:
    """Which positions Algorithm 1 keeps; None where it keeps all, in which case no mask is made.

    Args:
        maps: channels-last (B, C, H, W), of a type that `fused` takes, of two or four bytes.
        ranks: of the two order statistics from the smallest, from 1 to H·W.
        offset: margin around them, in standard deviations.
        closing: side of the dilation's window, odd.
        opening: side of the erosion's window, odd.
    """
    known, ranges, wanted = look(maps, ranks, offset, closing)
    find_ranks(maps, ranges)
    lower, upper = torch.empty_like(known[:2])
    beyond = torch.empty_like(wanted)
    some = torch.zeros(1, dtype=torch.int32, device=maps.device)
    with on(maps):
        number = wanted.numel()
        _thresholds[(-(-number // 256),)](maps, known, ranges, wanted, lower, upper, beyond, some, number, 256)
    if not bool(some):
        return None
    return kept_positions(maps, lower, upper, beyond, closing, opening)


def look(maps: Tensor, ranks: tuple[int, int], offset: float, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """What is known of each map, in which range each order statistic lies, and which of them are wanted.

    By one count on either side, as `lpl.losses.thresholds.find_suspects` says; a second one, nearer to the mean,
    narrows the range where the first confirms nothing. Where neither does, the order statistic lies between the nearer
    bound and the mean, or a little behind that (Cantelli's inequality).

    Returns:
        float32 (KNOWN, B, C), the ranges for `find_ranks`, whose two numbers are the lower and the upper order
        statistic, and the bits BOTTOM and TOP, uint8 (B, C).
    """
    partial, cut = chunk_moments(maps, extremes=True)
    how = tiling(maps, TILE)
    samples, positions, channels = len(maps), how.positions, how.channels
    known = maps.new_empty(KNOWN, samples, channels, dtype=torch.float32)
    counts = maps.new_empty(5, samples, how.grid[0], channels, dtype=torch.int32)
    ranges = maps.new_empty(4, 2, samples, channels, dtype=torch.int32)
    wanted = maps.new_empty(samples, channels, dtype=torch.uint8)
    outer = max(_reach(ranks[0] / positions), _reach((positions - ranks[1] + 1) / positions))
    inner = max(_reach(ranks[1] / positions), _reach((positions - ranks[0] + 1) / positions))
    grid = samples, -(-channels // WIDTH.value)
    # The margin's standard deviation divides by one position less than the others'.
    wide = offset * math.sqrt(positions / max(positions - 1, 1)), CONFIRMED, NEARER, torch.finfo(maps.dtype).eps
    with on(maps):
        _bounds[grid](maps, partial, known, positions, channels, cut.grid[0], cut.chunk, *wide)
        _look_beyond[how.grid](maps, known, counts, *maps.shape[2:], *how[2:], window // 2, **WIDE)
        _confirm[grid](
            maps, known, counts, ranges, wanted, positions, channels, how.grid[0], *ranks, inner, outer, window > 1
        )
    return known, ranges, wanted


def _reach(share: float) -> float:
    """Standard deviations that a number may lie beyond the mean if this share of all numbers lies at least as far."""
    return math.sqrt((1 - share) / share)


@triton.jit
def _bounds(maps, partial, known, positions, channels, chunks, chunk, offset, confirmed, nearer, eps):
    """From chunks' moments and extremes to what is known of each map, but for what a count is to confirm.

    The margin is `offset`, and bounds `confirmed` and `nearer`, standard deviations wide.
    """
    sample, samples = tl.program_id(0), tl.num_programs(0)
    channel = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    present = channel < channels
    mean, variance = merged(
        partial, sample, channel, present, samples, positions, channels, chunks, chunk, False, WIDTH
    )
    lowest = tl.zeros([WIDTH], tl.float32) + float("inf")
    highest = -lowest
    size = samples * channels
    for start in range(0, chunks, PARTS):
        _, inside, place = chunks_at(start, sample, channel, present, channels, chunks)
        low = tl.load(partial + 2 * size * chunks + place, mask=inside, other=float("inf"))
        high = tl.load(partial + 3 * size * chunks + place, mask=inside, other=float("-inf"))
        lowest, highest = tl.minimum(lowest, tl.min(low, axis=0)), tl.maximum(highest, tl.max(high, axis=0))
    std = tl.sqrt(variance)
    margin = offset * std
    less = (1.0 - SLACK) * margin
    # Where rounding may decide, a map is suspect.
    doubtful = margin * SLACK < 2.0**-21 * tl.maximum(tl.abs(highest), tl.abs(lowest))
    near_top, near_bottom = _rounded_up(highest - less, eps, maps), -_rounded_up(-lowest - less, eps, maps)
    low, high = _rounded(mean - confirmed * std, maps), _rounded(mean + confirmed * std, maps)
    within = tl.where(near_bottom >= low, BOTTOM, 0) | tl.where(near_top <= high, TOP, 0)
    target = known + sample * channels + channel
    tl.store(target + MARGIN * size, margin, mask=present)
    tl.store(target + LOWEST * size, lowest, mask=present)
    tl.store(target + HIGHEST * size, highest, mask=present)
    tl.store(target + MEAN * size, mean, mask=present)
    tl.store(target + STD * size, std, mask=present)
    tl.store(target + LOW * size, tl.maximum(near_bottom, low), mask=present)
    tl.store(target + HIGH * size, tl.minimum(near_top, high), mask=present)
    tl.store(target + LOWER * size, _rounded(mean - nearer * std, maps), mask=present)
    tl.store(target + UPPER * size, _rounded(mean + nearer * std, maps), mask=present)
    tl.store(target + WITHIN * size, (within | tl.where(doubtful, DOUBTFUL, 0)).to(tl.float32), mask=present)


@triton.jit
def _rounded(values, maps):
    """To a number of the maps' type, as float32."""
    return values.to(maps.dtype.element_ty).to(tl.float32)


@triton.jit
def _rounded_up(values, eps, maps):
    """The same, to one that is no smaller; eps is the type's."""
    return _rounded(values + tl.abs(values) * eps, maps)


@triton.jit
def _look_beyond(
    maps,
    known,
    counts,
    height,
    width,
    channels,
    steps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EVEN: tl.constexpr,
    HALF: tl.constexpr,
):
    """How many values of a chunk lie at or behind each bound, and whether a window has all values beyond.

    Bounds are `LOW`, `HIGH`, `LOWER` and `UPPER`. Beyond is what may lie beyond the thresholds, were the first two
    confirmed: what certainly doesn't is left out.
    """
    sample, samples, chunks = tl.program_id(1), tl.num_programs(1), tl.num_programs(0)
    channel, present = channels_of(channels, BLOCK)
    positions, size = height * width, samples * channels
    row = known + sample * channels + channel
    low = tl.load(row + LOW * size, mask=present, other=0.0)[None, :]
    high = tl.load(row + HIGH * size, mask=present, other=0.0)[None, :]
    lower = tl.load(row + LOWER * size, mask=present, other=0.0)[None, :]
    upper = tl.load(row + UPPER * size, mask=present, other=0.0)[None, :]
    less = (1.0 - SLACK) * tl.load(row + MARGIN * size, mask=present, other=0.0)[None, :]
    below, above = low - less, high + less
    packed = tl.zeros([ROWS, BLOCK], tl.int32)  # a byte for each of four counts, of no more than `MOST_STEPS`
    windows = tl.zeros([BLOCK], tl.int32)
    for group in range(0, steps, GROUP):
        count = tl.minimum(steps - group, GROUP)
        hits = tl.zeros([ROWS, BLOCK], tl.int32)
        for step in tl.range(count, num_stages=STAGES):
            _, here, middle = tile(group + step, channel, present, positions, channels, steps, ROWS, BLOCK, EVEN)
            value = tl.load(maps + middle, mask=here, other=0.0).to(tl.float32)
            packed += tl.where((value <= low) & here, 1, 0) + tl.where((value >= high) & here, 1 << 8, 0)
            packed += tl.where((value <= lower) & here, 1 << 16, 0) + tl.where((value >= upper) & here, 1 << 24, 0)
            if HALF > 0:
                hits |= tl.where(here & outside(value, below, above), 1 << step, 0)
        if HALF > 0:
            found = bits_of(hits)
            for step in range(count):
                if (found >> step) & 1:
                    _, _, _, beyond, some = beyond_with_window(
                        maps,
                        group + step,
                        channel,
                        present,
                        height,
                        width,
                        channels,
                        steps,
                        below,
                        above,
                        ROWS,
                        BLOCK,
                        EVEN,
                        HALF,
                    )
                    if some:
                        windows |= tl.max(beyond.to(tl.int32), axis=0)
    target = counts + (sample * chunks + tl.program_id(0)) * channels + channel
    for number in tl.static_range(4):
        tl.store(target + number * size * chunks, tl.sum((packed >> (8 * number)) & 0xFF, axis=0), mask=present)
    if HALF > 0:
        tl.store(target + 4 * size * chunks, windows, mask=present)


@triton.jit
def _confirm(
    maps,
    known,
    counts,
    ranges,
    wanted,
    positions,
    channels,
    chunks,
    low_rank,
    high_rank,
    inner,
    outer,
    WINDOWS: tl.constexpr,
):
    """Which maps may have outliers, and in which range their order statistics lie."""
    sample, samples = tl.program_id(0), tl.num_programs(0)
    channel = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    present = channel < channels
    size = samples * channels
    below = tl.zeros([WIDTH], tl.int32)
    above = tl.zeros([WIDTH], tl.int32)
    below_lower = tl.zeros([WIDTH], tl.int32)
    above_upper = tl.zeros([WIDTH], tl.int32)
    window = tl.zeros([WIDTH], tl.int32)
    for start in range(0, chunks, PARTS):
        _, inside, place = chunks_at(start, sample, channel, present, channels, chunks)
        place = counts + place
        below += tl.sum(tl.load(place, mask=inside, other=0), axis=0)
        above += tl.sum(tl.load(place + size * chunks, mask=inside, other=0), axis=0)
        below_lower += tl.sum(tl.load(place + 2 * size * chunks, mask=inside, other=0), axis=0)
        above_upper += tl.sum(tl.load(place + 3 * size * chunks, mask=inside, other=0), axis=0)
        if WINDOWS:
            found = tl.load(place + 4 * size * chunks, mask=inside, other=0)
            window = tl.maximum(window, tl.max(found, axis=0))
    row = known + sample * channels + channel
    lowest, highest = tl.load(row + LOWEST * size, mask=present), tl.load(row + HIGHEST * size, mask=present)
    mean, std = tl.load(row + MEAN * size, mask=present), tl.load(row + STD * size, mask=present)
    low, high = tl.load(row + LOW * size, mask=present), tl.load(row + HIGH * size, mask=present)
    within = tl.load(row + WITHIN * size, mask=present, other=0.0).to(tl.int32)
    doubtful, valid = (within & DOUBTFUL) > 0, std == std
    varies = (highest != lowest) | (valid == 0)
    top_confirmed, bottom_confirmed = above > positions - high_rank, below >= low_rank
    top = varies & (doubtful | (((within & TOP) > 0) & top_confirmed == 0))
    bottom = varies & (doubtful | (((within & BOTTOM) > 0) & bottom_confirmed == 0))
    if WINDOWS:
        unknown = (top & (top_confirmed == 0)) | (bottom & (bottom_confirmed == 0))
        left = (window > 0) | unknown
        top, bottom = top & left, bottom & left
    tl.store(wanted + sample * channels + channel, tl.where(bottom, BOTTOM, 0) | tl.where(top, TOP, 0), mask=present)
    slack = 0.01 * std + 1e-5 * tl.abs(mean)
    lower, upper = tl.load(row + LOWER * size, mask=present), tl.load(row + UPPER * size, mask=present)
    lower, upper = tl.load(row + LOWER * size, mask=present), tl.load(row + UPPER * size, mask=present)
    # From the bound outwards, or from it to the nearer one, or from behind that to the mean and a little farther.
    nearer = (below_lower >= low_rank) & (lower > low)
    first = tl.where(bottom_confirmed, mean - outer * std - slack, tl.where(nearer, low, lower))
    last = tl.where(bottom_confirmed, low, tl.where(nearer, lower, mean + inner * std + slack))
    rank = low_rank - tl.where(bottom_confirmed, below, below_lower)
    behind = ((bottom_confirmed | nearer) == 0).to(tl.int32)
    target = ranges + sample * channels + channel
    begin, end = _order(tl.maximum(first, lowest), maps) + behind, _order(tl.minimum(last, highest), maps)
    _store_range(target, size, bottom & valid, begin, end, rank, present)
    nearer = (above_upper > positions - high_rank) & (upper < high)
    first = tl.where(top_confirmed, high, tl.where(nearer, upper, mean - inner * std - slack))
    last = tl.where(top_confirmed, mean + outer * std + slack, tl.where(nearer, high, upper))
    rank = tl.where(top_confirmed, above, above_upper) - (positions - high_rank)
    behind = ((top_confirmed | nearer) == 0).to(tl.int32)
    begin, end = _order(tl.maximum(first, lowest), maps), _order(tl.minimum(last, highest), maps) - behind
    _store_range(target + size, size, top & valid, begin, end, rank, present)


@triton.jit
def _store_range(target, size, sought, begin, end, rank, present):
    """For `find_ranks`: the numbers from one order to another."""
    width = tl.where(sought, tl.where(end > begin, end - begin, 0) + 1, 0)  # unsigned: float32's can be so many
    shift = tl.zeros_like(width)
    rest = (width - 1).to(tl.uint32, bitcast=True) >> LOGARITHM
    for _ in tl.static_range(32 - LOGARITHM):
        shift += tl.where(sought & (rest > 0), 1, 0)
        rest = rest >> 1
    tl.store(target, begin, mask=present)
    tl.store(target + 2 * size, width, mask=present)
    tl.store(target + 4 * size, shift, mask=present)
    tl.store(target + 6 * size, rank, mask=present)


@triton.jit
def _order(values, maps):
    """The order of float32 rounded to the maps' type."""
    half: tl.constexpr = maps.dtype.element_ty.primitive_bitwidth == 16
    return order_of(values.to(maps.dtype.element_ty).to(tl.int16 if half else tl.int32, bitcast=True))


@triton.jit
def _thresholds(maps, known, ranges, wanted, lower, upper, beyond, some, number, BLOCK: tl.constexpr):
    """From order statistics to thresholds, infinite where nothing is wanted, and which maps have a value beyond."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    present = index < number
    which = tl.load(wanted + index, mask=present, other=0)
    margin = tl.load(known + MARGIN * number + index, mask=present, other=0.0)
    lowest = tl.load(known + LOWEST * number + index, mask=present, other=0.0)
    highest = tl.load(known + HIGHEST * number + index, mask=present, other=0.0)
    low = _value(tl.load(ranges + index, mask=present, other=0), maps) - margin
    high = _value(tl.load(ranges + number + index, mask=present, other=0), maps) + margin
    low = tl.where((which & BOTTOM) > 0, low, float("-inf"))
    high = tl.where((which & TOP) > 0, high, float("inf"))
    # Written so that a map that holds NaN, which no threshold bounds, counts among those that have outliers.
    has = (which > 0) & (((lowest >= low) & (highest <= high)) == 0)
    tl.store(lower + index, low, mask=present)
    tl.store(upper + index, high, mask=present)
    tl.store(beyond + index, has.to(tl.uint8), mask=present)
    tl.atomic_max(some, tl.max((has & present).to(tl.int32), axis=0))


@triton.jit
def _value(order, maps):
    """The inverse of `_order`, as float32."""
    half: tl.constexpr = maps.dtype.element_ty.primitive_bitwidth == 16
    integer: tl.constexpr = tl.int16 if half else tl.int32
    return order_of(order.to(integer)).to(integer).to(maps.dtype.element_ty, bitcast=True).to(tl.float32)
