"""Moments and extremes of channels-last maps, each read once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Mask, Tiling, on, tiling
from .tiles import STAGES, channels_of, tile

WIDTH = tl.constexpr(32)  # channels whose chunks a program merges
PARTS = tl.constexpr(128)  # chunks at once
MOMENTS = 2048  # numbers at once: their sums fill a thread's registers


def chunk_moments(maps: Tensor, mask: Mask | None = None, extremes: bool = False) -> tuple[Tensor, Tiling]:
    """Mean and Σ (x − mean)² of each chunk of channels-last maps (B, C, H, W).

    Args:
        maps: of any type that `fused` takes.
        mask: positions that do not count; None: all do.
        extremes: also each chunk's smallest and largest value, whether they count or not; NaN is passed over.

    Returns:
        Both, float32 (2, B, chunks, C), or with the number of positions that count, or the extremes, in further rows;
        and how the maps were cut.
    """
    how = tiling(maps, MOMENTS)
    rows = 4 if extremes else 2 if mask is None else 3
    partial = maps.new_empty(rows, maps.shape[0], how.grid[0], how.channels, dtype=torch.float32)
    with on(maps):
        _moments[how.grid](maps, *(mask or (None, None)), partial, *how[1:], mask is not None, extremes)
    return partial, how


def map_moments(maps: Tensor, mask: Mask | None = None) -> tuple[Tensor, Tensor]:
    """Mean and variance over positions of channels-last maps (B, C, H, W), float32 (B, C).

    Args:
        maps: of any type that `fused` takes.
        mask: positions that do not count; None: all do. A map of which none does has variance 0.
    """
    partial, how = chunk_moments(maps, mask)
    found = maps.new_empty(2, *maps.shape[:2], dtype=torch.float32)
    grid = len(maps), -(-how.channels // WIDTH.value)
    with on(maps):
        _merge[grid](partial, found, how.positions, how.channels, how.grid[0], how.chunk, mask is not None)
    return found[0], found[1]


@triton.jit
def _moments(
    maps,
    kept,
    count,
    partial,
    positions,
    channels,
    steps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EVEN: tl.constexpr,
    MASKED: tl.constexpr,
    EXTREMES: tl.constexpr,
):
    """Means, then Σ (x − mean)², then counts of what is kept or the extremes, each (B, chunks, C).

    Sums are of differences to the chunk's first value, or to the mean of what counts of its first rows, so that no
    digits are lost to a mean far from zero, nor to an outlier that does not count.
    """
    sample, chunks = tl.program_id(1), tl.num_programs(0)
    channel, present = channels_of(channels, BLOCK)
    first = tl.program_id(0) * steps * ROWS
    last = tl.minimum(first + steps * ROWS, positions)
    masked = False
    if MASKED:
        masked = has_holes(count, sample, channel, present, positions, channels)
        _, counted, place = tile(0, channel, present, positions, channels, steps, ROWS, BLOCK, EVEN)
        value = tl.load(maps + place, mask=counted, other=0.0).to(tl.float32)
        counted = counted & (tl.load(kept + place, mask=counted & masked, other=1) > 0)
        origin = tl.sum(tl.where(counted, value, 0.0), axis=0)
        origin = origin / tl.maximum(tl.sum(tl.where(counted, 1.0, 0.0), axis=0), 1.0)
    else:
        begin = (sample.to(tl.int64) * positions + first) * channels
        origin = tl.load(maps + begin + channel, mask=present, other=0.0).to(tl.float32)
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    square = tl.zeros([ROWS, BLOCK], tl.float32)
    low = tl.zeros([ROWS, BLOCK], tl.float32) + float("inf")
    high = -low
    number = tl.zeros([ROWS, BLOCK], tl.int32)
    for step in tl.range(steps, num_stages=STAGES):
        _, inside, place = tile(step, channel, present, positions, channels, steps, ROWS, BLOCK, EVEN)
        value = tl.load(maps + place, mask=inside, other=0.0).to(tl.float32)
        away = value - origin[None, :]
        if MASKED:
            counted = inside & (tl.load(kept + place, mask=inside & masked, other=1) > 0)
            number += counted.to(tl.int32)
            away = tl.where(counted, away, 0.0)
        else:
            away = tl.where(inside, away, 0.0)
        total += away
        square += away * away
        if EXTREMES:
            low = tl.minimum(low, tl.where(inside, value, float("inf")))
            high = tl.maximum(high, tl.where(inside, value, float("-inf")))
    count_here = (last - first).to(tl.float32)
    if MASKED:
        count_here = tl.sum(number, axis=0).to(tl.float32)
    share = 1.0 / tl.maximum(count_here, 1.0)
    sums, squared = tl.sum(total, axis=0), tl.sum(square, axis=0)
    size = tl.num_programs(1) * chunks * channels
    target = partial + (sample * chunks + tl.program_id(0)) * channels + channel
    tl.store(target, origin + sums * share, mask=present)
    tl.store(target + size, tl.maximum(squared - sums * sums * share, 0.0), mask=present)
    if MASKED:
        tl.store(target + 2 * size, count_here, mask=present)
    if EXTREMES:
        tl.store(target + 2 * size, tl.min(low, axis=0), mask=present)
        tl.store(target + 3 * size, tl.max(high, axis=0), mask=present)


@triton.jit
def has_holes(count, sample, channel, present, positions, channels):
    """Whether any of a program's channels has a position that is masked: a scalar."""
    kept = tl.load(count + sample * channels + channel, mask=present, other=positions)
    return tl.min(kept, axis=0) < positions


@triton.jit
def chunks_at(start, row, channel, present, channels, chunks):
    """Some chunks of channels in (rows, chunks, C): their numbers, which values there are, and where they lie."""
    part = start + tl.arange(0, PARTS)
    inside = (part < chunks)[:, None] & present[None, :]
    return part, inside, (row * chunks + part)[:, None] * channels + channel[None, :]


@triton.jit
def merged(
    partial,
    sample,
    channel,
    present,
    samples,
    positions,
    channels,
    chunks,
    chunk,
    COUNTED: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Mean and variance of so many channels from those of chunks (Chan et al., 1983)."""
    size = samples * chunks * channels
    total = tl.zeros([CHANNELS], tl.float32)
    weight = tl.zeros([CHANNELS], tl.float32)
    for start in range(0, chunks, PARTS):
        part, inside, place = chunks_at(start, sample, channel, present, channels, chunks)
        counts = _counts(partial + 2 * size + place, part, inside, positions, chunk, COUNTED)
        total += tl.sum(tl.load(partial + place, mask=inside, other=0.0) * counts, axis=0)
        weight += tl.sum(counts, axis=0)
    share = 1.0 / tl.maximum(weight, 1.0)
    mean = total * share
    squares = tl.zeros([CHANNELS], tl.float32)
    for start in range(0, chunks, PARTS):
        part, inside, place = chunks_at(start, sample, channel, present, channels, chunks)
        counts = _counts(partial + 2 * size + place, part, inside, positions, chunk, COUNTED)
        away = tl.load(partial + place, mask=inside, other=0.0) - mean[None, :]
        within = tl.load(partial + size + place, mask=inside, other=0.0)
        squares += tl.sum(within + tl.where(inside, counts * away * away, 0.0), axis=0)
    return mean, squares * share


@triton.jit
def _counts(stored, part, inside, positions, chunk, COUNTED: tl.constexpr):
    """How many positions of each chunk count: as many as are stored, or all."""
    if COUNTED:
        return tl.load(stored, mask=inside, other=0.0)
    else:
        return tl.where(inside, tl.minimum(chunk, positions - part * chunk)[:, None], 0).to(tl.float32)


@triton.jit
def _merge(partial, found, positions, channels, chunks, chunk, COUNTED: tl.constexpr):
    sample, samples = tl.program_id(0), tl.num_programs(0)
    channel = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    present = channel < channels
    mean, variance = merged(
        partial, sample, channel, present, samples, positions, channels, chunks, chunk, COUNTED, WIDTH
    )
    target = found + sample * channels + channel
    tl.store(target, mean, mask=present)
    tl.store(target + samples * channels, variance, mask=present)
