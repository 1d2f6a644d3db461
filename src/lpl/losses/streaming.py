"""A loss whose gradient is taken at once and handed back later, so that nothing else of the graph need be kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

FLOAT16_SCALE = 2.0**12  # keeps gradients within a network in float16 above that type's smallest numbers


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


def gradient_of(per_sample: Tensor, prediction: Tensor, scale: float = 1.0) -> Tensor:
    """∂ loss_n/∂ prediction_n, (N, …), of losses (N,) that depend on their own sample alone.

    Args:
        per_sample: (N,), or their sum, a scalar.
        prediction: (N, …).
        scale: what gradients on the way are multiplied by; `FLOAT16_SCALE` for a network that may run in float16.
    """
    (gradient,) = torch.autograd.grad(per_sample.sum() * scale, prediction)
    return gradient / scale if scale != 1.0 else gradient


class Float16Range:
    """Keeps gradients of a decoder in float16 in that type's range, whatever the loss is multiplied by outside.

    Within the decoder they are those of `FLOAT16_SCALE` · loss_n: a mean over many positions makes the loss's own too
    small. What loss_n is multiplied by outside, 1/B and a gradient scaler's factor among it, comes in last, at the
    prediction.

    Example:
        >>> within = Float16Range()
        >>> per_sample = within.leave(loss(within.enter(prediction)))
    """

    outside: Tensor  # of the latest backward pass

    def enter(self, prediction: Tensor) -> Tensor:
        """The prediction (N, …), as the decoder takes it; gradients come out of the decoder here."""
        return _with_gradient(prediction, self._put_back)

    def leave(self, per_sample: Tensor) -> Tensor:
        """The losses (N,), each of its own sample alone; gradients go into the decoder here."""
        return _with_gradient(per_sample, self._take_off)

    def _take_off(self, gradient: Tensor) -> Tensor:
        self.outside = gradient
        return torch.full_like(gradient, FLOAT16_SCALE)

    def _put_back(self, gradient: Tensor) -> Tensor:
        outside = self.outside.reshape(-1, *[1] * (gradient.ndim - 1))
        return (gradient * (outside / FLOAT16_SCALE)).to(gradient.dtype)


def _with_gradient(values: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The same values, with their gradient changed on its way back."""
    values = values.view_as(values)
    if values.requires_grad:
        values.register_hook(change)
    return values
