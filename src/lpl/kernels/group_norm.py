"""Group normalisation with the activation after it, in channels-last maps: two reads forward, four backward.

PyTorch's kernel knows contiguous maps only, so that channels-last ones are copied there and back, and it writes what
the activation then reads. Statistics are in float32, merged from chunks (Chan et al., 1983).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .approximate import sigmoid
from .launch import WIDE, Tiling, next_power, on, tiling
from .statistics import PARTS, chunk_moments, chunks_at, merged
from .tiles import STAGES, channels_of, tile

SILU, RELU = "silu", "relu"


def forward(
    maps: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, activation: str
) -> tuple[Tensor, Tensor]:
    """f(γ (x + s − μ)/√(v + ε) + β), where μ and v are of x + s.

    Args:
        maps: x, channels-last (B, C, H, W).
        shift: s, (C,), such as the bias of the convolution before; None for 0.
        weight: γ, (C,).
        bias: β, (C,).
        groups: G, a divisor of C.
        eps: ε.
        activation: f, "silu" or "relu".

    Returns:
        The result, of the maps' type and layout, and the statistics for `backward`.
    """
    statistics = _statistics(maps, shift, groups, eps)
    output, how = torch.empty_like(maps), tiling(maps)
    with on(maps):
        _apply[how.grid](
            maps, output, shift, weight, bias, statistics, *_sizes(how, groups), shift is not None, activation == SILU
        )
    return output, statistics


def backward(
    gradient: Tensor,
    maps: Tensor,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    statistics: Tensor,
    activation: str,
) -> Tensor:
    """The gradient with respect to x, of the maps' type and layout.

    Args:
        gradient: with respect to the result, channels-last.
        maps: x, as for `forward`.
        shift: s.
        weight: γ.
        bias: β.
        statistics: what `forward` returned.
        activation: f.
    """
    samples, groups = statistics.shape[1:]
    how = tiling(maps)
    chunks = how.grid[0]
    sums = maps.new_empty(2, samples, chunks, how.channels, dtype=torch.float32)
    means = maps.new_empty(2, samples, groups, dtype=torch.float32)
    output = torch.empty_like(maps)
    tensors = (gradient, maps, shift, weight, bias, statistics)
    options = (*_sizes(how, groups), shift is not None, activation == SILU)
    per_group = how.channels // groups
    with on(maps):
        _gradient_sums[how.grid](*tensors, sums, *options)
        _mean_over_groups[(samples, groups, 2)](
            sums, means, 1 / (how.positions * per_group), chunks, how.channels, per_group, next_power(per_group)
        )
        _gradient[how.grid](*tensors, means, output, *options, **WIDE)
    return output


def _statistics(maps: Tensor, shift: Tensor | None, groups: int, eps: float) -> Tensor:
    """μ and 1/√(v + ε) of each sample's groups, float32 (2, B, G)."""
    partial, how = chunk_moments(maps)
    samples, chunks = maps.shape[0], how.grid[0]
    found = maps.new_empty(2, samples, groups, dtype=torch.float32)
    per_group = how.channels // groups
    with on(maps):
        _merge_groups[(samples, groups)](
            partial,
            shift,
            found,
            eps,
            chunks,
            how.channels,
            per_group,
            how.positions,
            how.chunk,
            next_power(per_group),
            shift is not None,
        )
    return found


def _sizes(how: Tiling, groups: int) -> tuple[int, ...]:
    return how.positions, how.channels, how.channels // groups, how.steps, how.rows, how.block, how.even


@triton.jit
def _merge_groups(
    partial,
    shift,
    statistics,
    eps,
    chunks,
    channels,
    per_group,
    positions,
    chunk,
    PER_GROUP: tl.constexpr,
    SHIFTED: tl.constexpr,
):
    """Chunks' means and squared deviations, (B, chunks, C) → those of a group of channels."""
    sample, group, groups = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    samples = tl.num_programs(0)
    present = tl.arange(0, PER_GROUP) < per_group
    channel = group * per_group + tl.arange(0, PER_GROUP)
    mean, variance = merged(
        partial, sample, channel, present, samples, positions, channels, chunks, chunk, False, PER_GROUP
    )
    if SHIFTED:
        mean += tl.load(shift + channel, mask=present, other=0.0).to(tl.float32)
    average = tl.sum(tl.where(present, mean, 0.0), axis=0) / per_group
    away = mean - average
    variance = tl.sum(tl.where(present, variance + away * away, 0.0), axis=0) / per_group
    tl.store(statistics + sample * groups + group, average)
    tl.store(statistics + (samples + sample) * groups + group, 1.0 / tl.sqrt(variance + eps))


@triton.jit
def _affine(shift, weight, bias, statistics, sample, channel, present, groups, per_group, SHIFTED: tl.constexpr):
    """Of each channel: γ, μ − s, 1/√(v + ε) and β, float32."""
    group = sample * groups + channel // per_group
    centre = tl.load(statistics + group, mask=present, other=0.0)
    if SHIFTED:
        centre -= tl.load(shift + channel, mask=present, other=0.0).to(tl.float32)
    factor = tl.load(weight + channel, mask=present, other=0.0).to(tl.float32)
    offset = tl.load(bias + channel, mask=present, other=0.0).to(tl.float32)
    inverse = tl.load(statistics + tl.num_programs(1) * groups + group, mask=present, other=0.0)
    return factor, centre, inverse, offset


@triton.jit
def _apply(
    maps,
    output,
    shift,
    weight,
    bias,
    statistics,
    positions,
    channels,
    per_group,
    steps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EVEN: tl.constexpr,
    SHIFTED: tl.constexpr,
    SILU: tl.constexpr,
):
    sample = tl.program_id(1)
    channel, present = channels_of(channels, BLOCK)
    groups = channels // per_group
    factor, centre, inverse, offset = _affine(
        shift, weight, bias, statistics, sample, channel, present, groups, per_group, SHIFTED
    )
    scale = (factor * inverse)[None, :]
    for step in tl.range(steps, num_stages=STAGES):
        _, inside, place = tile(step, channel, present, positions, channels, steps, ROWS, BLOCK, EVEN)
        value = tl.load(maps + place, mask=inside, other=0.0).to(tl.float32)
        normal = (value - centre[None, :]) * scale + offset[None, :]
        result = normal * sigmoid(normal) if SILU else tl.where(normal < 0.0, 0.0, normal)  # maximum drops NaN
        tl.store(output + place, result.to(output.dtype.element_ty), mask=inside)


@triton.jit
def _below(gradient, maps, place, inside, scale, centre, offset, SILU: tl.constexpr):
    """x + s − μ and the gradient g before the activation of a tile, where scale is γ/√(v + ε)."""
    value = tl.load(maps + place, mask=inside, other=0.0).to(tl.float32)
    above = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
    away = value - centre[None, :]
    normal = away * scale[None, :] + offset[None, :]
    if SILU:
        gate = sigmoid(normal)
        below = above * (gate + normal * gate * (1.0 - gate))
    else:
        below = tl.where(normal <= 0.0, 0.0, above)  # of NaN too
    return away, below


@triton.jit
def _gradient_sums(
    gradient,
    maps,
    shift,
    weight,
    bias,
    statistics,
    sums,
    positions,
    channels,
    per_group,
    steps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EVEN: tl.constexpr,
    SHIFTED: tl.constexpr,
    SILU: tl.constexpr,
):
    """Σ γ g and Σ γ g x̂ over a chunk's positions, of each channel."""
    sample, chunks = tl.program_id(1), tl.num_programs(0)
    channel, present = channels_of(channels, BLOCK)
    groups = channels // per_group
    factor, centre, inverse, offset = _affine(
        shift, weight, bias, statistics, sample, channel, present, groups, per_group, SHIFTED
    )
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    correlation = tl.zeros([ROWS, BLOCK], tl.float32)
    for step in tl.range(steps, num_stages=STAGES):
        _, inside, place = tile(step, channel, present, positions, channels, steps, ROWS, BLOCK, EVEN)
        away, below = _below(gradient, maps, place, inside, factor * inverse, centre, offset, SILU)
        total += below
        correlation += below * away
    target = sums + (sample * chunks + tl.program_id(0)) * channels + channel
    tl.store(target, factor * tl.sum(total, axis=0), mask=present)
    size = tl.num_programs(1) * chunks * channels
    tl.store(target + size, factor * inverse * tl.sum(correlation, axis=0), mask=present)


@triton.jit
def _mean_over_groups(sums, means, share, chunks, channels, per_group, PER_GROUP: tl.constexpr):
    """Sums of chunks and channels, (2, B, chunks, C) → means over each group's values, (2, B, G)."""
    sample, group, which = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    samples, groups = tl.num_programs(0), tl.num_programs(1)
    present = tl.arange(0, PER_GROUP) < per_group
    channel = group * per_group + tl.arange(0, PER_GROUP)
    total = tl.zeros([PER_GROUP], tl.float32)
    for start in range(0, chunks, PARTS):
        _, inside, place = chunks_at(start, which * samples + sample, channel, present, channels, chunks)
        total += tl.sum(tl.load(sums + place, mask=inside, other=0.0), axis=0)
    tl.store(means + (which * samples + sample) * groups + group, tl.sum(total, axis=0) * share)


@triton.jit
def _gradient(
    gradient,
    maps,
    shift,
    weight,
    bias,
    statistics,
    means,
    output,
    positions,
    channels,
    per_group,
    steps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EVEN: tl.constexpr,
    SHIFTED: tl.constexpr,
    SILU: tl.constexpr,
):
    """(γ g − mean(γ g) − x̂ mean(γ g x̂)) / √(v + ε)."""
    sample = tl.program_id(1)
    channel, present = channels_of(channels, BLOCK)
    groups = channels // per_group
    factor, centre, inverse, offset = _affine(
        shift, weight, bias, statistics, sample, channel, present, groups, per_group, SHIFTED
    )
    group = sample * groups + channel // per_group
    total = tl.load(means + group, mask=present, other=0.0)
    correlation = tl.load(means + tl.num_programs(1) * groups + group, mask=present, other=0.0)
    slope, curve = inverse * total, inverse * inverse * correlation
    for step in tl.range(steps, num_stages=STAGES):
        _, inside, place = tile(step, channel, present, positions, channels, steps, ROWS, BLOCK, EVEN)
        away, below = _below(gradient, maps, place, inside, factor * inverse, centre, offset, SILU)
        result = below * (factor * inverse)[None, :] - (slope[None, :] + away * curve[None, :])
        tl.store(output + place, result.to(output.dtype.element_ty), mask=inside)
