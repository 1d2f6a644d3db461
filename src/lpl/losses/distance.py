"""‖ρ ⊙ (φ̂ − φ)‖² of feature maps, by sample and channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .moments import sum_of_squares
from .outliers import Outliers


def squared_distance(prediction: Tensor, target: Tensor, outliers: Outliers | None) -> Tensor:
    """Σ over the positions kept of (a − b)², for each sample and channel.

    Args:
        prediction: a, (B, C, H, W); the gradient flows here alone. Backward keeps one tensor of its size and type.
        target: b, of the same shape and type.
        outliers: the positions left out, or None.

    Returns:
        (B, C), in float32 at least: squares of half-precision features overflow, and sums over positions lose digits.
    """
    return SquaredDistance.apply(prediction, target, outliers)


class SquaredDistance(torch.autograd.Function):
    """Keeps the difference, where autograd would keep three tensors."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, target: Tensor, outliers: Outliers | None) -> Tensor:
        """See `squared_distance`."""
        difference = prediction - target
        if outliers is not None:
            outliers.clear(difference)
        ctx.save_for_backward(difference)
        return sum_of_squares(difference)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """2 ρ ⊙ (a − b)."""
        (difference,) = ctx.saved_tensors
        scale = (2 * grad)[..., None, None]
        if difference.dtype == torch.bfloat16:  # has float32's range, so that the factor may be rounded first
            scale = scale.to(torch.bfloat16)
        return (difference * scale).to(difference.dtype), None, None
