"""Differences of channels-last feature maps: their squares' sums, and bytes that hold them for backward."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import WIDE, on, tiling
from .tiles import channels_of, tile


def difference_sums(first: Tensor, second: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Σ d² and the largest |d| over the positions of each map, d = a − b.

    Args:
        first: a, channels-last (B, C, H, W).
        second: b, of the same shape and type.
        kept: uint8 of their shape and layout, 0 where a difference is taken to be 0; None: nowhere.

    Returns:
        Two of shape (B, C), float32; both NaN, or the first infinite, where a difference is not finite.
    """
    how = tiling(first)
    partial = first.new_empty(2, first.shape[0], how.grid[0], how.channels, dtype=torch.float32)
    with on(first):
        _sums[how.grid](first, second, kept, *partial, *how[1:], kept is not None, **WIDE)
    return partial[0].sum(dim=1), partial[1].amax(dim=1)


def difference_levels(first: Tensor, second: Tensor, factor: Tensor, kept: Tensor | None = None) -> Tensor:
    """Bytes q with q·|q| ≈ d·f, d = a − b; see `lpl.losses.distance.in_bytes`.

    Args:
        first: a, channels-last (B, C, H, W).
        second: b, of the same shape and type.
        factor: f, float32 (B, C): 127² over the largest |d|.
        kept: as for `difference_sums`.

    Returns:
        int8, channels-last.
    """
    how, levels = tiling(first), torch.empty_like(first, dtype=torch.int8)
    with on(first):
        _levels[how.grid](first, second, kept, factor.contiguous(), levels, *how[1:], kept is not None)
    return levels


def from_levels(levels: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """q·|q|·s of bytes q, channels-last (B, C, H, W), and s, float32 (B, C): of type `dtype`, channels-last."""
    how, maps = tiling(levels), torch.empty_like(levels, dtype=dtype)
    with on(levels):
        _values[how.grid](levels, scale.contiguous(), maps, *how[1:])
    return maps


@triton.jit
def _sums(
    first_maps,
    second_maps,
    kept,
    squares,
    largest,
    positions,
    channels,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
):
    sample, chunks = tl.program_id(1), tl.num_programs(0)
    channel, present = channels_of(channels, BLOCK)
    square = tl.zeros([ROWS, BLOCK], tl.float32)
    most = tl.zeros([ROWS, BLOCK], tl.float32)
    invalid = tl.zeros([ROWS, BLOCK], tl.float32)
    for step in range(STEPS):
        _, inside, place = tile(step, channel, present, positions, channels, STEPS, ROWS)
        a = tl.load(first_maps + place, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(second_maps + place, mask=inside, other=0.0).to(tl.float32)
        difference = a - b
        if MASKED:
            difference = tl.where(tl.load(kept + place, mask=inside, other=0) > 0, difference, 0.0)
        square += difference * difference
        most = tl.maximum(most, tl.abs(difference))
        invalid += tl.where(difference != difference, 1.0, 0.0)
    partial = (sample * chunks + tl.program_id(0)) * channels + channel
    nothing = tl.where(tl.sum(invalid, axis=0) > 0.0, float("nan"), 0.0)  # the hardware's maxima skip NaN
    tl.store(squares + partial, tl.sum(square, axis=0), mask=present)
    tl.store(largest + partial, tl.max(most, axis=0) + nothing, mask=present)


@triton.jit
def _levels(
    first_maps,
    second_maps,
    kept,
    factor,
    levels,
    positions,
    channels,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
):
    sample = tl.program_id(1)
    channel, present = channels_of(channels, BLOCK)
    steps = tl.load(factor + sample * channels + channel, mask=present, other=0.0)[None, :]
    for step in range(STEPS):
        _, inside, place = tile(step, channel, present, positions, channels, STEPS, ROWS)
        a = tl.load(first_maps + place, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(second_maps + place, mask=inside, other=0.0).to(tl.float32)
        difference = a - b
        if MASKED:
            difference = tl.where(tl.load(kept + place, mask=inside, other=0) > 0, difference, 0.0)
        root = tl.minimum(tl.floor(tl.sqrt(tl.abs(difference) * steps) + 0.5), 127.0)
        level = tl.where(difference < 0.0, -root, root)
        tl.store(levels + place, level.to(tl.int8), mask=inside)


@triton.jit
def _values(levels, scale, maps, positions, channels, STEPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    sample = tl.program_id(1)
    channel, present = channels_of(channels, BLOCK)
    steps = tl.load(scale + sample * channels + channel, mask=present, other=0.0)[None, :]
    for step in range(STEPS):
        _, inside, place = tile(step, channel, present, positions, channels, STEPS, ROWS)
        level = tl.load(levels + place, mask=inside, other=0).to(tl.float32)
        tl.store(maps + place, (level * tl.abs(level) * steps).to(maps.dtype.element_ty), mask=inside)
