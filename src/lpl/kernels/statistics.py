"""Moments, extremes and counts of channels-last maps, each read once."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Tiling, on, tiling


class ChunkMoments(NamedTuple):
    """Of each chunk of positions: mean and Σ (x − mean)², float32 (B, chunks, C)."""

    mean: Tensor
    squares: Tensor


def chunk_moments(maps: Tensor) -> tuple[ChunkMoments, Tiling]:
    """Of channels-last maps (B, C, H, W), and how they were cut."""
    how = tiling(maps)
    partial = maps.new_empty(2, maps.shape[0], how.grid[0], how.channels, dtype=torch.float32)
    with on(maps):
        _moments[how.grid](maps, partial, partial[1], partial, partial, *how[1:], False)
    return ChunkMoments(*partial), how


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
        _moments[how.grid](maps, *partial, *how[1:], True)
    mean, variance = merged(ChunkMoments(*partial[:2]), how)
    lowest, highest = partial[2].amin(dim=1), partial[3].amax(dim=1)
    return MapStatistics(mean, variance, lowest.to(maps.dtype), highest.to(maps.dtype))


def map_moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over the positions of channels-last maps (B, C, H, W), float32 (B, C)."""
    return merged(*chunk_moments(maps))


def merged(partial: ChunkMoments, how: Tiling) -> tuple[Tensor, Tensor]:
    """Mean and variance of all chunks together, (B, C) (Chan et al., 1983)."""
    chunks, rest = how.grid[0], how.positions % how.chunk
    shares = partial.mean.new_full((chunks, 1), how.chunk / how.positions)
    if rest:
        shares[-1] = rest / how.positions
    mean = (shares * partial.mean).sum(dim=1)
    away = partial.mean - mean[:, None]
    variance = (partial.squares / how.positions + shares * away.square()).sum(dim=1)
    return mean, variance


def count_beyond(maps: Tensor, thresholds: Tensor, at_least: tuple[bool, ...]) -> Tensor:
    """Number of positions whose value is at least, or at most, a threshold.

    Args:
        maps: channels-last (B, C, H, W).
        thresholds: of the maps' type, (T, B, C).
        at_least: of each of the T, whether values at least as large are counted, or values at most as large.

    Returns:
        (T, B, C), int64.
    """
    how, directions = tiling(maps), sum(1 << number for number, flag in enumerate(at_least) if flag)
    counts = torch.zeros(thresholds.shape, dtype=torch.int32, device=maps.device)
    with on(maps):
        _counts[how.grid](maps, thresholds.contiguous(), counts, *how[1:], len(at_least), directions)
    return counts.long()


def window_beyond(maps: Tensor, below: Tensor, above: Tensor, window: int) -> Tensor:
    """Whether a map has a window of `window`² positions, cut short at the edges, all of whose values are beyond.

    Args:
        maps: channels-last (B, C, H, W).
        below: values smaller than this are beyond, of the maps' type, (B, C).
        above: and so are values larger than this.
        window: side, odd.

    Returns:
        Boolean (B, C).
    """
    how = tiling(maps)
    found = torch.zeros(maps.shape[:2], dtype=torch.int32, device=maps.device)
    height, width = maps.shape[-2:]
    with on(maps):
        _windows[how.grid](maps, below.contiguous(), above.contiguous(), found, height, width, *how[2:], window // 2)
    return found > 0


@triton.jit
def _moments(
    maps,
    mean,
    squares,
    lowest,
    highest,
    positions,
    channels,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EXTREMES: tl.constexpr,
):
    """Sums are of differences to the chunk's first value, so that no digits are lost to a mean far from zero."""
    sample, chunks = tl.program_id(1), tl.num_programs(0)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    present = channel < channels
    start = sample.to(tl.int64) * positions * channels
    first = tl.program_id(0) * STEPS * ROWS
    last = tl.minimum(first + STEPS * ROWS, positions)
    origin = tl.load(maps + start + first * channels + channel, mask=present, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    square = tl.zeros([BLOCK], tl.float32)
    low, high = origin, origin
    invalid = tl.zeros([BLOCK], tl.float32)
    for step in range(STEPS):
        position = first + step * ROWS + tl.arange(0, ROWS)
        inside = (position < positions)[:, None] & present[None, :]
        place = start + position[:, None] * channels + channel[None, :]
        value = tl.load(maps + place, mask=inside, other=0.0).to(tl.float32)
        away = tl.where(inside, value - origin[None, :], 0.0)
        total += tl.sum(away, axis=0)
        square += tl.sum(away * away, axis=0)
        if EXTREMES:
            filled = tl.where(inside, value, origin[None, :])
            low = tl.minimum(low, tl.min(filled, axis=0))
            high = tl.maximum(high, tl.max(filled, axis=0))
            invalid += tl.sum(tl.where(filled != filled, 1.0, 0.0), axis=0)
    count = (last - first).to(tl.float32)
    partial = (sample * chunks + tl.program_id(0)) * channels + channel
    tl.store(mean + partial, origin + total / count, mask=present)
    tl.store(squares + partial, tl.maximum(square - total * total / count, 0.0), mask=present)
    if EXTREMES:
        nothing = tl.where(invalid > 0.0, float("nan"), 0.0)  # minima and maxima of the hardware skip NaN
        tl.store(lowest + partial, low + nothing, mask=present)
        tl.store(highest + partial, high + nothing, mask=present)


@triton.jit
def _counts(
    maps,
    thresholds,
    counts,
    positions,
    channels,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    CONDITIONS: tl.constexpr,
    DIRECTIONS: tl.constexpr,
):
    sample, samples = tl.program_id(1), tl.num_programs(1)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    present = channel < channels
    start = sample.to(tl.int64) * positions * channels
    first = tl.program_id(0) * STEPS * ROWS
    for step in range(STEPS):
        position = first + step * ROWS + tl.arange(0, ROWS)
        inside = (position < positions)[:, None] & present[None, :]
        place = start + position[:, None] * channels + channel[None, :]
        value = tl.load(maps + place, mask=inside, other=0.0).to(tl.float32)
        for number in tl.static_range(CONDITIONS):
            where = (number * samples + sample) * channels + channel
            threshold = tl.load(thresholds + where, mask=present, other=0.0).to(tl.float32)[None, :]
            holds = value >= threshold if (DIRECTIONS >> number) & 1 else value <= threshold
            count = tl.sum((holds & inside).to(tl.int32), axis=0)
            tl.atomic_add(counts + where, count, mask=present & (count > 0))


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
    sample = tl.program_id(1)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    present = channel < channels
    positions = height * width
    low = tl.load(below + sample * channels + channel, mask=present, other=0.0).to(tl.float32)[None, :]
    high = tl.load(above + sample * channels + channel, mask=present, other=0.0).to(tl.float32)[None, :]
    start = sample.to(tl.int64) * positions * channels
    first = tl.program_id(0) * STEPS * ROWS
    windows = tl.zeros([BLOCK], tl.int32)
    for step in range(STEPS):
        position = first + step * ROWS + tl.arange(0, ROWS)
        y, x = position // width, position % width
        every = (position < positions)[:, None] & present[None, :]
        for up in tl.static_range(-HALF, HALF + 1):
            for across in tl.static_range(-HALF, HALF + 1):
                there = (y + up >= 0) & (y + up < height) & (x + across >= 0) & (x + across < width)
                inside = (there & (position < positions))[:, None] & present[None, :]
                place = start + (position + up * width + across)[:, None] * channels + channel[None, :]
                value = tl.load(maps + place, mask=inside, other=0.0).to(tl.float32)
                every = every & ((value < low) | (value > high) | ~inside)
        windows = tl.maximum(windows, tl.max(every.to(tl.int32), axis=0))
    tl.atomic_max(found + sample * channels + channel, windows, mask=present & (windows > 0))
