"""‖ρ ⊙ (φ̂ − φ)‖² of feature maps, by sample and channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..autoencoders.lean.storage import lengthened, room_for, shorten_into
from ..kernels import fused
from .maps import WHOLE, pieces
from .moments import extremes, sum_of_squares, wide_type
from .outliers import DenseOutliers, Outliers

LEVELS = 127  # of either sign that a byte holds


def squared_distance(prediction: Tensor, target: Tensor, outliers: Outliers | None) -> Tensor:
    """Σ over the positions kept of (a − b)², for each sample and channel.

    Args:
        prediction: a, (B, C, H, W); the gradient flows here alone. Backward keeps one difference a value: of float64
            in full, of float32 in three bytes, of half precision in one.
        target: b, of the same shape and type.
        outliers: the positions left out, or None.

    Returns:
        (B, C), in float32 at least: squares of half-precision features overflow, and sums over positions lose digits.
    """
    return SquaredDistance.apply(prediction, target, outliers)


class SquaredDistance(torch.autograd.Function):
    """Keeps the difference, in few bits, where autograd would keep three tensors."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, target: Tensor, outliers: Outliers | None) -> Tensor:
        """See `squared_distance`."""
        keep, shorten = ctx.needs_input_grad[0], prediction.dtype == torch.float32
        kept: tuple[Tensor, ...]
        ctx.dtype = prediction.dtype
        known = outliers is None or isinstance(outliers, DenseOutliers) or not outliers.parts
        if prediction.itemsize == 2 and fused(prediction, target) and known:
            squares, kept = _in_two_passes(prediction, target, outliers, keep)
            ctx.save_for_backward(*kept)
            return squares
        squares = prediction.new_zeros(prediction.shape[:2], dtype=wide_type(prediction.dtype))
        kept = room_for(prediction) if keep and shorten else ()
        # Where 24 bits of the difference are kept, the whole of it need not be held.
        for piece in pieces(prediction) if shorten else [WHOLE]:
            difference = prediction[piece] - target[piece]
            if outliers is not None:
                outliers.clear(difference, piece)
            squares[piece[:2]] += sum_of_squares(difference)
            if kept:
                shorten_into(difference, *(room[piece] for room in kept))
        if keep and not shorten:
            kept = in_bytes(difference) if difference.itemsize == 2 else (difference,)
        ctx.save_for_backward(*kept)
        return squares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """2 ρ ⊙ (a − b)."""
        scale = (2 * grad)[..., None, None]
        if ctx.dtype.itemsize == 2:
            levels, step = ctx.saved_tensors
            return from_bytes(levels, scale * step, ctx.dtype), None, None
        difference = lengthened(*ctx.saved_tensors)
        return (difference.mul_(scale) if ctx.dtype == torch.float32 else difference * scale), None, None


def _in_two_passes(
    prediction: Tensor, target: Tensor, outliers: Outliers | None, keep: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Σ (ρ ⊙ d)² of each map, and with `keep` d in bytes and their step, with the kernels of `lpl.kernels`."""
    from ..kernels.distance import difference_levels, difference_sums

    kept = outliers.kept if isinstance(outliers, DenseOutliers) else None
    squares, largest = difference_sums(prediction, target, kept)
    if not keep:
        return squares, ()
    factor = _levels_factor(largest)
    return squares, (difference_levels(prediction, target, factor, kept), factor.reciprocal()[..., None, None])


def _levels_factor(largest: Tensor) -> Tensor:
    """1/s of maps whose largest magnitudes these are."""
    return LEVELS**2 / largest.clamp_min(torch.finfo(largest.dtype).tiny ** 0.5)


def in_bytes(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps x ≈ q·|q|·s with a byte q a value: levels of √|x|, up to the root of the map's largest magnitude.

    With roots, small values get small steps. On normally distributed ones the error is 1 % of the map's norm, about
    that of a difference of bfloat16 features; where the largest magnitude is twenty standard deviations it is 2 %.

    Args:
        maps: (B, C, H, W), floating point. Maps with values that are not finite give an s that is not finite.

    Returns:
        q, int8 in the layout of `maps`, and s, (B, C, 1, 1) in float32 at least.
    """
    wide = wide_type(maps.dtype)
    lowest, highest = extremes(maps)
    largest = torch.maximum(highest, -lowest)[..., None, None].to(wide)
    factor = _levels_factor(largest).to(_factor_type(maps.dtype))
    levels = torch.empty_like(maps, dtype=torch.int8)
    for samples, channels, rows in pieces(maps):
        part = maps[samples, channels, rows]
        roots = (part.abs() * factor[samples, channels]).sqrt_().round_()
        levels[samples, channels, rows] = roots.copysign_(part)
    return levels, factor.to(wide).reciprocal()


def from_bytes(levels: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """q·|q|·s for levels q, int8 (B, C, H, W), and s, (B, C, 1, 1): of type `dtype`, in the layout of the levels."""
    if fused(levels):
        from ..kernels.distance import from_levels

        return from_levels(levels, scale[..., 0, 0].float(), dtype)
    scale = scale.to(_factor_type(dtype))
    maps = torch.empty_like(levels, dtype=dtype)
    for samples, channels, rows in pieces(levels):
        roots = levels[samples, channels, rows].to(dtype)
        torch.mul(roots.abs().mul_(roots), scale[samples, channels], out=maps[samples, channels, rows])
    return maps


def _factor_type(dtype: torch.dtype) -> torch.dtype:
    """What maps of a type are multiplied by: bfloat16 has float32's range, float16 has not."""
    return dtype if dtype == torch.bfloat16 else wide_type(dtype)
