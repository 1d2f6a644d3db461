"""‖ρ ⊙ (φ̂ − φ)‖² of feature maps, by sample and channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..autoencoders.lean.storage import lengthened, shortened
from .moments import extremes, sum_of_squares, wide_type
from .outliers import Outliers

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
        difference = prediction - target
        if outliers is not None:
            outliers.clear(difference)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(*(in_bytes(difference) if difference.itemsize == 2 else shortened(difference)))
        ctx.dtype = difference.dtype
        return sum_of_squares(difference)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """2 ρ ⊙ (a − b)."""
        scale = 2 * grad
        if ctx.dtype.itemsize == 2:
            levels, step = ctx.saved_tensors
            roots = levels.to(ctx.dtype)
            difference, scale = roots.abs().mul_(roots), scale * step
        else:
            difference = lengthened(*ctx.saved_tensors)
        if ctx.dtype == torch.bfloat16:  # has float32's range, so that the factor may be rounded first
            scale = scale.to(ctx.dtype)
        return (difference * scale[..., None, None]).to(ctx.dtype), None, None


def in_bytes(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps x ≈ q·|q|·s with a byte q a value: levels of √|x|, up to the root of the map's largest magnitude.

    With roots, small values get small steps. On normally distributed ones the error is 1 % of the map's norm, about
    that of a difference of bfloat16 features; where the largest magnitude is twenty standard deviations it is 2 %.

    Args:
        maps: (B, C, H, W), floating point. Maps with values that are not finite give an s that is not finite.

    Returns:
        q, int8 in the layout of `maps`, and s, (B, C) in float32 at least.
    """
    lowest, highest = extremes(maps)
    largest = torch.maximum(highest, -lowest).to(wide_type(maps.dtype))
    factor = LEVELS**2 / largest.clamp_min(torch.finfo(largest.dtype).tiny ** 0.5)
    if maps.dtype == torch.bfloat16:  # has float32's range: a factor that is rounded first spares the maps a copy
        factor = factor.to(maps.dtype)
    roots = (maps.abs() * factor[..., None, None]).sqrt_()
    return roots.round_().copysign_(maps).to(torch.int8), factor.to(largest.dtype).reciprocal()
