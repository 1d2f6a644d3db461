"""Activations that keep less than their input."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...kernels import fused
from .storage import lengthened, shortened


def positive_mask(output: Tensor) -> Tensor:
    """Where ReLU's output is positive, one byte per value; the cast is several times faster than a comparison."""
    return output.to(torch.bool)


def pass_where(positive: Tensor, grad: Tensor) -> Tensor:
    """The gradient where `positive` holds and zero elsewhere, also where the gradient is not finite.

    As ReLU's own backward, whose kernel is vectorised, on a temporary of the gradient's dtype: on the CPU choosing by a
    boolean mask takes ten times as long.
    """
    if fused(grad, positive.view(torch.uint8)):
        from ...kernels.addition import where_positive

        return where_positive(grad, positive.view(torch.uint8))
    return torch.ops.aten.threshold_backward(grad, positive.view(torch.uint8).to(grad.dtype), 0)


class MaskedReLU(torch.autograd.Function):
    """max(x, 0), of which backward keeps one byte per value: whether it is positive."""

    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        """Any shape."""
        output = F.relu(input)
        ctx.save_for_backward(positive_mask(output))
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """The input's gradient."""
        return pass_where(ctx.saved_tensors[0], grad)


class GatedSiLU(torch.autograd.Function):
    """a · SiLU(b) for an input whose channels are a followed by b; backward keeps the input alone (see `shortened`)."""

    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        """(B, 2C, …) → (B, C, …)."""
        ctx.save_for_backward(*shortened(input))
        value, gate = input.chunk(2, dim=1)
        return F.silu(gate).mul_(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """The input's gradient."""
        value, gate = lengthened(*ctx.saved_tensors).chunk(2, dim=1)
        return torch.cat([grad * F.silu(gate), torch.ops.aten.silu_backward(grad * value, gate)], dim=1)
