"""Means, variances and counts over the positions of feature maps, at the speed of memory.

On the CPU PyTorch's `var` and its sum of a comparison take far longer than reading the maps once. The
kernels of batch normalisation, and comparisons written out as numbers, don't.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..kernels import fused
from .maps import pieces

EXACT = 256  # integers up to this are exact in every floating-point type, bfloat16 among them
WIDE = 128  # bytes of a position's channels from which on reducing works on them at full speed, in wide registers
STRIP = 1 << 16  # positions that batch normalisation's kernel adds up one by one in float32, before digits get lost


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """The type that statistics of maps of this type are held in: float32 at least."""
    return torch.promote_types(dtype, torch.float32)


@torch.no_grad()
def moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over the positions of each sample and channel, without gradient.

    Args:
        maps: (B, C, H, W); fast where contiguous or channels-last.

    Returns:
        Mean and variance, each (B, C) in float32 at least; the variance divides by the number of positions.
    """
    if fused(maps):
        from ..kernels.statistics import map_moments

        return map_moments(maps)
    if not _has_kernel(maps):
        variance, mean = torch.var_mean(maps.to(wide_type(maps.dtype)), dim=(-2, -1), correction=0)
        return mean, variance
    if maps.is_contiguous() and maps.dtype == wide_type(maps.dtype):
        return _contiguous_moments(maps)
    pairs = [_strip_moments(sample) for sample in maps.split(1)]
    return torch.cat([mean for mean, _ in pairs]), torch.cat([variance for _, variance in pairs])


@torch.no_grad()
def moments_and_extremes(maps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, variance, smallest and largest value of each map: as `moments` and `extremes` give them."""
    return *moments(maps), *extremes(maps)


@torch.no_grad()
def sum_of_squares(maps: Tensor) -> Tensor:
    """Σ x² over the positions of each sample and channel, (B, C) in float32 at least, without gradient."""
    if not _has_kernel(maps) or maps.is_contiguous():
        return torch.linalg.vector_norm(maps, dim=(-2, -1), dtype=wide_type(maps.dtype)).square()
    mean, variance = moments(maps)
    return (variance + mean.square()) * (maps.shape[-2] * maps.shape[-1])


@torch.no_grad()
def count_where(maps: Tensor, *conditions: tuple[Callable[..., Tensor], Tensor]) -> Tensor:
    """Number of positions in each map at which each condition holds; the maps are read once for all of them.

    Args:
        maps: (B, C, H, W).
        conditions: T pairs of torch.ge or torch.le and a threshold (B, C) of the maps' dtype.

    Returns:
        (T, B, C), int64.
    """
    counts = torch.zeros(len(conditions), *maps.shape[:2], dtype=torch.int64, device=maps.device)
    for samples, channels, rows in pieces(maps):
        part = maps[samples, channels, rows]
        flags = torch.empty_like(part)  # as numbers: sums of booleans are slow
        for count, (compare, threshold) in zip(counts, conditions, strict=True):
            compare(part, threshold[samples, channels, None, None], out=flags)
            count[samples, channels] += count_ones(flags)
    return counts


def flags_outside(maps: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Bytes of maps (B, C, H, W): one where x lies outside [low, high], both (B, C), or is NaN; zero elsewhere."""

    def outside(part: Tensor, least: Tensor, most: Tensor) -> Tensor:
        within = torch.maximum(part, least)
        return torch.ne(torch.minimum(within, most, out=within), part, out=within)

    return _in_pieces(outside, maps, low, high)


def flags_in_tails(maps: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Bytes of maps (B, C, H, W): one where x ≤ low or x ≥ high, both (B, C); zero elsewhere."""

    def in_tails(part: Tensor, most: Tensor, least: Tensor) -> Tensor:
        below, above = torch.le(part, most, out=torch.empty_like(part)), torch.empty_like(part)
        return torch.maximum(below, torch.ge(part, least, out=above), out=below)

    return _in_pieces(in_tails, maps, low, high)


def _in_pieces(flags_of: Callable[..., Tensor], maps: Tensor, *thresholds: Tensor) -> Tensor:
    """Bytes from what a function of maps (B, C, H, W) and thresholds (B, C, 1, 1) gives as zeros and ones.

    Comparisons that write numbers are several times faster than those that write booleans.
    """
    flags = torch.empty_like(maps, dtype=torch.int8)
    for samples, channels, rows in pieces(maps):
        limits = (threshold[samples, channels, None, None] for threshold in thresholds)
        flags[samples, channels, rows] = flags_of(maps[samples, channels, rows], *limits)
    return flags


def count_ones(flags: Tensor) -> Tensor:
    """Σ over the positions of maps (B, C, H, W) of zeros and ones of any floating-point type: (B, C), int64."""
    view, width = in_memory_order(flags)
    chunk = next(size for size in range(min(EXACT, view.shape[width]), 0, -1) if view.shape[width] % size == 0)
    sums = view.unflatten(width, (-1, chunk)).sum(dim=width + 1)
    return sums.to(wide_type(flags.dtype)).sum(dim=(width - 1, width)).long()


def extremes(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each map (B, C, H, W): two of shape (B, C)."""
    parts = pieces(maps)
    if len(parts) == 1:
        return _smallest(maps), largest(maps)
    low, high = maps.new_full(maps.shape[:2], torch.inf), maps.new_full(maps.shape[:2], -torch.inf)
    for samples, channels, rows in parts:
        part, place = maps[samples, channels, rows], (samples, channels)
        low[place] = torch.minimum(low[place], _smallest(part))
        high[place] = torch.maximum(high[place], largest(part))
    return low, high


def _smallest(maps: Tensor) -> Tensor:
    return _over_positions(torch.amin, maps)


def largest(maps: Tensor) -> Tensor:
    """Largest value of each map (B, C, H, W): (B, C)."""
    return _over_positions(torch.amax, maps)


def _over_positions(reduce: Callable[..., Tensor], maps: Tensor) -> Tensor:
    """One dimension after the other: both at once take far longer where channels come last."""
    view, width = in_memory_order(maps)
    if width == 2 and maps.shape[1] * maps.element_size() < WIDE:
        return reduce(reduce(view, dim=1), dim=1)  # whole rows at a time
    return reduce(reduce(view, dim=width), dim=width - 1)


def in_memory_order(maps: Tensor) -> tuple[Tensor, int]:
    """Maps (B, C, H, W) with their dimensions in the order they lie in memory, and where the width is among them.

    Reducing a dimension is fast where what is left keeps that order.
    """
    if maps.is_contiguous() or not maps.is_contiguous(memory_format=torch.channels_last):
        return maps, 3
    return maps.permute(0, 2, 3, 1), 2


def _has_kernel(maps: Tensor) -> bool:
    dense = maps.is_contiguous() or maps.is_contiguous(memory_format=torch.channels_last)
    return maps.is_cpu and dense and maps.numel() > 0 and not torch.compiler.is_compiling()


def _contiguous_moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """In two passes, corrected for the rounding of the first one's mean."""
    positions = maps.shape[-2] * maps.shape[-1]
    mean = maps.mean(dim=(-2, -1))
    variance = torch.empty_like(mean)
    for samples, channels, _ in pieces(maps):
        centred = maps[samples, channels] - mean[samples, channels, None, None]
        shift = centred.mean(dim=(-2, -1))
        square = torch.linalg.vector_norm(centred, dim=(-2, -1)).square() / positions
        mean[samples, channels] += shift
        variance[samples, channels] = (square - shift.square()).clamp_min(0)
    return mean, variance


def _strip_moments(sample: Tensor) -> tuple[Tensor, Tensor]:
    """Those of one sample (1, C, H, W), merged from strips of rows (Chan et al., 1983)."""
    rows = max(STRIP // sample.shape[-1], 1)
    strips = list(_strips(sample, rows))
    unused = torch.zeros(2, sample.shape[1], dtype=wide_type(sample.dtype))  # also says which type to compute in
    pairs = [torch.ops.aten.batch_norm_update_stats(strip, *unused, 0.0) for strip in strips]
    if len(pairs) == 1:
        mean, variance = pairs[0]
        return mean[None], variance[None]
    means, variances = (torch.stack(column) for column in zip(*pairs, strict=True))
    shares = means.new_tensor([strip.shape[-2] / sample.shape[-2] for strip in strips])[:, None]
    mean = (shares * means).sum(dim=0)
    variance = (shares * (variances + (means - mean).square())).sum(dim=0)
    return mean[None], variance[None]


def _strips(sample: Tensor, rows: int) -> Iterator[Tensor]:
    """Whole rows of a channels-last sample are channels-last; those of a contiguous one have to stay together."""
    if sample.is_contiguous(memory_format=torch.channels_last):
        yield from sample.split(rows, dim=-2)
    else:
        yield sample
