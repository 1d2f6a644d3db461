"""A loss whose gradient is taken at once and handed back later, so that nothing else of the graph need be kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

FLOAT16_SCALE = 2.0**12  # keeps gradients within a decoder in float16 above that type's smallest numbers


class HandedBack(torch.autograd.Function):
    """Per-sample losses (N,) of a prediction (N, …) whose gradients ∂ loss_n/∂ prediction_n are known already."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, per_sample: Tensor, gradients: Tensor) -> Tensor:
        """Returns the losses."""
        ctx.save_for_backward(gradients)
        return per_sample.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Each sample's gradient times that of its loss."""
        (gradients,) = ctx.saved_tensors
        return (gradients * grad.reshape(-1, *[1] * (gradients.ndim - 1))).to(gradients.dtype), None, None


def gradient_of(per_sample: Tensor, prediction: Tensor, dtype: torch.dtype) -> Tensor:
    """∂ loss_n/∂ prediction_n, (N, …), of losses (N,) that depend on their own sample alone.

    Within a decoder of `dtype` float16 it is scaled, since no gradient scaler has scaled the loss yet.
    """
    scale = FLOAT16_SCALE if dtype == torch.float16 else 1.0
    (gradient,) = torch.autograd.grad(per_sample.sum() * scale, prediction)
    return gradient / scale if scale != 1.0 else gradient
