"""Moments, extremes and counts of channels-last maps, each read once."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import WIDE, Tiling, on, tiling
from .tiles import beyond_with_window, channels_of, tile


def chunk_moments(maps: Tensor) -> tuple[Tensor, Tiling]:
    """Mean and Σ (x − mean)² of each chunk of channels-last maps (B, C, H, W).

    Returns:
        Both, float32 (2, B, chunks, C), and how the maps were cut.
    """
    how = tiling(maps)
    partial = maps.new_empty(2, maps.shape[0], how.grid[0], how.channels, dtype=torch.float32)
    with on(maps):
        _moments[how.grid](maps, None, partial, *how[1:], False, False)
    return partial, how


class MapStatistics(NamedTuple):
    """Of each map, (B, C): mean and variance over the positions, float32, smallest and largest value."""

    mean: Tensor
    variance: Tensor
    lowest: Tensor
    highest: Tensor


def map_statistics(maps: Tensor) -> MapStatistics:
    """Of channels-last maps (B, C, H, W); NaN for the extremes of a map that holds NaN."""
    how = tiling(maps)
    partial = maps.new_empty(4, maps.shape[0], how.grid[0], how.channels, dtype=torch.float32)
    with on(maps):
        _moments[how.grid](maps, None, partial, *how[1:], False, True, **WIDE)
    mean, variance = merged(partial, how)
    lowest, highest = partial[2].amin(dim=1), partial[3].amax(dim=1)
    return MapStatistics(mean, variance, lowest.to(maps.dtype), highest.to(maps.dtype))


def map_moments(maps: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and variance over positions of channels-last maps (B, C, H, W), float32 (B, C).

    Args:
        maps: of any type that `fused` takes.
        kept: the positions that count, uint8 of the maps' shape and layout, 0 where one does not; None: all do. A map
            of which none does has variance 0.
    """
    if kept is None:
        return merged(*chunk_moments(maps))
    how = tiling(maps)
    partial = maps.new_empty(3, maps.shape[0], how.grid[0], how.channels, dtype=torch.float32)
    with on(maps):
        _moments[how.grid](maps, kept, partial, *how[1:], True, False)
    counts = partial[2]
    total = counts.sum(dim=1, keepdim=True).clamp_min_(1)
    return _merged(partial, counts / total, total[:, 0])


def merged(partial: Tensor, how: Tiling) -> tuple[Tensor, Tensor]:
    """Mean and variance of all chunks together, (B, C)."""
    chunks, rest = how.grid[0], how.positions % how.chunk
    shares = partial.new_full((chunks, 1), how.chunk / how.positions)
    if rest:
        shares[-1] = rest / how.positions
    return _merged(partial, shares, how.positions)


def _merged(partial: Tensor, shares: Tensor, total: Tensor | int) -> tuple[Tensor, Tensor]:
    """Of chunks that hold these shares of so many positions (Chan et al., 1983)."""
    means, squares = partial[0], partial[1]
    mean = (shares * means).sum(dim=1)
    away = means - mean[:, None]
    return mean, squares.sum(dim=1) / total + (shares * away.square()).sum(dim=1)


def count_beyond(maps: Tensor, thresholds: Tensor, at_least: tuple[bool, ...], wanted: Tensor | None = None) -> Tensor:
    """Number of positions whose value is at least, or at most, a threshold.

    Args:
        maps: channels-last (B, C, H, W).
        thresholds: of the maps' type, (T, B, C), up to four.
        at_least: of each of the T, whether values at least as large are counted, or values at most as large.
        wanted: which maps are counted in, boolean (B, C); None: all. Counts of the others mean nothing.

    Returns:
        (T, B, C), int64.
    """
    how, directions = tiling(maps), sum(1 << number for number, flag in enumerate(at_least) if flag)
    counts = maps.new_empty(len(at_least), len(maps), how.grid[0], how.channels, dtype=torch.int32)
    with on(maps):
        options = len(at_least), directions, wanted is not None
        _counts[how.grid](maps, thresholds.contiguous(), wanted, counts, *how[1:], *options, **WIDE)
    return counts.sum(dim=2)


BINS = 256  # of a histogram: two of them, one within a bin of the other, tell all numbers of 16 bits apart
SMALLER = 4  # a histogram's tiles are to those of other kernels: the values' addresses fill a thread's registers


def histograms(maps: Tensor, first: Tensor, width: Tensor, shift: Tensor, wanted: Tensor) -> Tensor:
    """How many of a map's values lie in each of `BINS` bins, one after the other, of 2^shift numbers of its type each.

    Args:
        maps: channels-last (B, C, H, W), of a type of two bytes.
        first: the number that the first bin begins with, as `lpl.losses.ranks.order_of` counts them: int32 (T, B, C),
            one for each of T histograms. Values before it are in none.
        width: int32 (T, B, C), ≥ 0 and below `BINS`·2^shift: nor are values more than so many numbers behind it.
        shift: int32 (T, B, C), ≥ 0.
        wanted: which maps a histogram is wanted of, boolean (T, B, C); those of others are empty.

    Returns:
        (T, B, C, `BINS`), int32.
    """
    how = tiling(maps)
    counts = torch.zeros(*first.shape, BINS, dtype=torch.int32, device=maps.device)
    limits = first.contiguous(), torch.where(wanted, width, -1), shift.contiguous()
    cut = how.positions, how.channels, how.steps * SMALLER, how.rows // SMALLER, how.block
    with on(maps):
        _bins[how.grid](maps.view(torch.int16), *limits, counts, *cut, len(first), BINS)
    return counts


def window_beyond(maps: Tensor, below: Tensor, above: Tensor, window: int) -> Tensor:
    """Whether a map has a window of `window`² positions, cut short at the edges, all of whose values are beyond.

    Args:
        maps: channels-last (B, C, H, W).
        below: values smaller than this are beyond, as NaN is; of the maps' type, (B, C).
        above: and so are values larger than this.
        window: side, odd.

    Returns:
        Boolean (B, C).
    """
    how = tiling(maps)
    found = maps.new_empty(len(maps), how.grid[0], how.channels, dtype=torch.int32)
    height, width = maps.shape[-2:]
    with on(maps):
        _windows[how.grid](
            maps, below.contiguous(), above.contiguous(), found, height, width, *how[2:], window // 2, **WIDE
        )
    return found.amax(dim=1) > 0


@triton.jit
def _moments(
    maps,
    kept,
    partial,
    positions,
    channels,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
    EXTREMES: tl.constexpr,
):
    """Means, then Σ (x − mean)², then counts of what is kept or the extremes, each (B, chunks, C).

    Sums are of differences to the mean of what counts of the chunk's first rows, so that no digits are lost to a mean
    far from zero, nor to an outlier that does not count.
    """
    sample, chunks = tl.program_id(1), tl.num_programs(0)
    channel, present = channels_of(channels, BLOCK)
    first = tl.program_id(0) * STEPS * ROWS
    last = tl.minimum(first + STEPS * ROWS, positions)
    _, counted, place = tile(0, channel, present, positions, channels, STEPS, ROWS)
    value = tl.load(maps + place, mask=counted, other=0.0).to(tl.float32)
    if MASKED:
        counted = tl.load(kept + place, mask=counted, other=0) > 0
    origin = tl.sum(tl.where(counted, value, 0.0), axis=0)
    origin = origin / tl.maximum(tl.sum(tl.where(counted, 1.0, 0.0), axis=0), 1.0)
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    square = tl.zeros([ROWS, BLOCK], tl.float32)
    low = tl.zeros([ROWS, BLOCK], tl.float32) + float("inf")
    high = -low
    invalid = tl.zeros([ROWS, BLOCK], tl.float32)
    number = tl.zeros([ROWS, BLOCK], tl.float32)
    for step in range(STEPS):
        _, inside, place = tile(step, channel, present, positions, channels, STEPS, ROWS)
        value = tl.load(maps + place, mask=inside, other=0.0).to(tl.float32)
        counted = inside
        if MASKED:
            counted = tl.load(kept + place, mask=inside, other=0) > 0
            number += tl.where(counted, 1.0, 0.0)
        away = tl.where(counted, value - origin[None, :], 0.0)
        total += away
        square += away * away
        if EXTREMES:
            low = tl.minimum(low, tl.where(inside, value, float("inf")))
            high = tl.maximum(high, tl.where(inside, value, float("-inf")))
            invalid += tl.where(value != value, 1.0, 0.0)
    count = (last - first).to(tl.float32)
    if MASKED:
        count = tl.sum(number, axis=0)
    share = 1.0 / tl.maximum(count, 1.0)
    sums, squared = tl.sum(total, axis=0), tl.sum(square, axis=0)
    size = tl.num_programs(1) * chunks * channels
    target = partial + (sample * chunks + tl.program_id(0)) * channels + channel
    tl.store(target, origin + sums * share, mask=present)
    tl.store(target + size, tl.maximum(squared - sums * sums * share, 0.0), mask=present)
    if MASKED:
        tl.store(target + 2 * size, count, mask=present)
    if EXTREMES:
        nothing = tl.where(tl.sum(invalid, axis=0) > 0.0, float("nan"), 0.0)  # the hardware's extremes skip NaN
        tl.store(target + 2 * size, tl.min(low, axis=0) + nothing, mask=present)
        tl.store(target + 3 * size, tl.max(high, axis=0) + nothing, mask=present)


@triton.jit
def _counts(
    maps,
    thresholds,
    wanted,
    counts,
    positions,
    channels,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    CONDITIONS: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    SOME: tl.constexpr,
):
    """A tile's counts of up to four conditions are the bytes of one integer."""
    sample, samples, chunks = tl.program_id(1), tl.num_programs(1), tl.num_programs(0)
    channel, present = channels_of(channels, BLOCK)
    if SOME:
        present = present & (tl.load(wanted + sample * channels + channel, mask=present, other=0) > 0)
    limits, stride = thresholds + sample * channels + channel, samples * channels
    # Loaded once; where there are fewer conditions the last ones are not looked at.
    limit0 = tl.load(limits, mask=present, other=0.0).to(tl.float32)[None, :]
    limit1 = tl.load(limits + (1 % CONDITIONS) * stride, mask=present, other=0.0).to(tl.float32)[None, :]
    limit2 = tl.load(limits + (2 % CONDITIONS) * stride, mask=present, other=0.0).to(tl.float32)[None, :]
    limit3 = tl.load(limits + (3 % CONDITIONS) * stride, mask=present, other=0.0).to(tl.float32)[None, :]
    packed = tl.zeros([ROWS, BLOCK], tl.int32)
    for step in range(STEPS):
        _, inside, place = tile(step, channel, present, positions, channels, STEPS, ROWS)
        value = tl.load(maps + place, mask=inside, other=0.0).to(tl.float32)
        holds = value >= limit0 if DIRECTIONS & 1 else value <= limit0
        packed += tl.where(holds & inside, 1, 0)
        if CONDITIONS > 1:
            holds = value >= limit1 if DIRECTIONS & 2 else value <= limit1
            packed += tl.where(holds & inside, 1 << 8, 0)
        if CONDITIONS > 2:
            holds = value >= limit2 if DIRECTIONS & 4 else value <= limit2
            packed += tl.where(holds & inside, 1 << 16, 0)
        if CONDITIONS > 3:
            holds = value >= limit3 if DIRECTIONS & 8 else value <= limit3
            packed += tl.where(holds & inside, 1 << 24, 0)
    for number in tl.static_range(CONDITIONS):
        partial = ((number * samples + sample) * chunks + tl.program_id(0)) * channels + channel
        tl.store(counts + partial, tl.sum((packed >> (8 * number)) & 255, axis=0), mask=channel < channels)


@triton.jit
def _bins(
    bits,
    first,
    width,
    shift,
    counts,
    positions,
    channels,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    HISTOGRAMS: tl.constexpr,
    BINS: tl.constexpr,
):
    """An addition in memory for every value that lies in a bin: those of tails are few, and neighbours rarely meet."""
    sample, samples = tl.program_id(1), tl.num_programs(1)
    channel, present = channels_of(channels, BLOCK)
    place = sample * channels + channel
    read = tl.zeros([BLOCK], tl.int32)
    for number in tl.static_range(HISTOGRAMS):
        asked = tl.load(width + number * samples * channels + place, mask=present, other=-1) >= 0
        read |= asked.to(tl.int32)
    present = present & (read > 0)
    for step in range(STEPS):
        _, inside, where = tile(step, channel, present, positions, channels, STEPS, ROWS)
        order = tl.load(bits + where, mask=inside, other=0).to(tl.int32)
        order = ((order >> 31) & 0x7FFF) ^ order
        for number in tl.static_range(HISTOGRAMS):
            which = number * samples * channels + place
            away = order - tl.load(first + which, mask=present, other=0)[None, :]
            reach = tl.load(width + which, mask=present, other=-1)[None, :]
            bin = away >> tl.load(shift + which, mask=present, other=0)[None, :]
            counted = inside & (away >= 0) & (away <= reach)
            tl.atomic_add(counts + which.to(tl.int64)[None, :] * BINS + bin, 1, mask=counted, sem="relaxed")


@triton.jit
def _windows(
    maps,
    below,
    above,
    found,
    height,
    width,
    channels,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    HALF: tl.constexpr,
):
    sample, chunks = tl.program_id(1), tl.num_programs(0)
    channel, present = channels_of(channels, BLOCK)
    positions = height * width
    low = tl.load(below + sample * channels + channel, mask=present, other=0.0).to(tl.float32)[None, :]
    high = tl.load(above + sample * channels + channel, mask=present, other=0.0).to(tl.float32)[None, :]
    windows = tl.zeros([ROWS, BLOCK], tl.int32)
    for step in range(STEPS):
        position, here, middle = tile(step, channel, present, positions, channels, STEPS, ROWS)
        y, x = position // width, position % width
        beyond = beyond_with_window(maps, middle, here, y, x, height, width, channels, low, high, HALF)
        windows |= beyond.to(tl.int32)
    partial = (sample * chunks + tl.program_id(0)) * channels + channel
    tl.store(found + partial, tl.max(windows, axis=0), mask=present)
