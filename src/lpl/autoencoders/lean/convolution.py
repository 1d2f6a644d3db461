"""Convolutions with frozen weights: nothing of the activations is kept for backward."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...kernels import fused
from .activation import pass_where, positive_mask
from .layout import memory_format


class Geometry(NamedTuple):
    """How a convolution moves over its input, in the order of `torch.convolution`'s arguments."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int


def _stand_in(shape: torch.Size, grad: Tensor, weight: Tensor) -> Tensor:
    """A tensor of the input's shape: the backward kernels ask for the input, and read only its shape and layout."""
    layout = memory_format(grad)
    if layout == torch.contiguous_format or weight.is_contiguous(memory_format=layout):
        return grad.new_empty(1).expand(shape)
    # Without one channels-last operand the kernels would go through the contiguous layout. Never written, this costs
    # address space, not memory traffic.
    return torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=layout)


class FrozenConvolution(torch.autograd.Function):
    """y = conv(x, w) + b, then optionally + r, then optionally ReLU.

    Backward keeps a reference to w and, with ReLU, one byte per value of y. There is no gradient for w and b.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        residual: Tensor | None,
        geometry: Geometry,
        relu: bool,
        dtype: torch.dtype | None,
    ) -> Tensor:
        """Computes in `dtype`, if one is given, and otherwise in the dtype that input and weight share."""
        cast_weight = weight if dtype is None else weight.to(dtype)
        cast_bias = bias if dtype is None or bias is None else bias.to(dtype)
        marked = relu and any(ctx.needs_input_grad)
        output, positive = _convolution(input, cast_weight, cast_bias, residual, geometry, relu, marked)
        ctx.save_for_backward(weight, positive)
        ctx.geometry, ctx.input_shape = geometry, input.shape
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the input and of the residual."""
        weight, positive = ctx.saved_tensors
        if positive is not None:
            grad = pass_where(positive, grad)
        grad_input = _input_gradient(ctx, grad, weight.to(grad.dtype)) if ctx.needs_input_grad[0] else None
        grad_residual = grad if ctx.needs_input_grad[3] else None
        return grad_input, None, None, grad_residual, None, None, None


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    geometry: Geometry,
    relu: bool,
    marked: bool,
) -> tuple[Tensor, Tensor | None]:
    """conv(x, w) + b + r, with ReLU or not, and with `marked` where that is positive, a byte a value."""
    fuse = fused(input) and (residual is None or fused(residual))
    output = torch.convolution(input, weight, None if fuse else bias, *geometry)
    if fuse and fused(output):
        from ...kernels.addition import add_

        return output, add_(output, bias, residual, relu, marked)
    if fuse and bias is not None:
        output.add_(bias.view(-1, 1, 1))
    if residual is not None:
        output.add_(residual)
    if relu:
        output.relu_()
    return output, positive_mask(output) if marked else None


def _input_gradient(ctx: Any, grad: Tensor, weight: Tensor) -> Tensor:
    if fused(grad):  # a transposed convolution asks for no input, and so for no copy of a stand-in's layout
        return torch.convolution(grad, weight, None, *transposed(ctx.geometry, ctx.input_shape, grad, weight))
    input = _stand_in(ctx.input_shape, grad, weight)
    backward = torch.ops.aten.convolution_backward
    return backward(grad, input, weight, None, *ctx.geometry, (True, False, False))[0]


def transposed(geometry: Geometry, shape: torch.Size, grad: Tensor, weight: Tensor) -> Geometry:
    """The geometry of a convolution that takes the output's gradient to that of the input, of this shape."""
    rest = [0] * (grad.ndim - 2)
    if not geometry.transposed:
        for axis, stride in enumerate(geometry.stride):
            reach = geometry.dilation[axis] * (weight.shape[2 + axis] - 1) + 1 - 2 * geometry.padding[axis]
            rest[axis] = shape[2 + axis] - ((grad.shape[2 + axis] - 1) * stride + reach)
    return geometry._replace(transposed=not geometry.transposed, output_padding=tuple(rest))


def _autocast_dtype(input: Tensor) -> torch.dtype | None:
    device = input.device.type
    if device == "meta":  # where operations are counted without computing; it knows no autocast
        return None
    if torch.is_autocast_enabled(device) and input.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return None


def frozen_convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """A convolution whose weight and bias get no gradient and whose input is not kept.

    Args:
        input: (B, C, …) with one to three spatial dimensions; under autocast it is cast like any convolution's.
        weight: the frozen weight, as `torch.convolution` takes it.
        bias: the frozen bias, or None.
        geometry: stride, padding and the like.
        residual: added to the result, of the result's shape.
        relu: whether max(·, 0) is applied last.

    Returns:
        (B, C', …), laid out as PyTorch's own convolution would.
    """
    dtype = _autocast_dtype(input)
    if dtype is not None:
        input = input.to(dtype)
    if residual is not None and residual.dtype != input.dtype:
        # Under autocast a float32 residual makes the sum float32: promote as `+` does instead of rounding the residual.
        output = FrozenConvolution.apply(input, weight, bias, None, geometry, False, dtype) + residual
        return F.relu(output) if relu else output
    return FrozenConvolution.apply(input, weight, bias, residual, geometry, relu, dtype)


def fold_upsampling(weight: Tensor) -> Tensor:
    """Folds a doubling by nearest neighbour into the convolution that follows it.

    Doubling is a transposed convolution of stride 2 with a 2×2 kernel of ones, and so doubling followed by a k×k
    convolution is one transposed convolution of stride 2 with a (k+1)×(k+1) kernel. It multiplies (k+1)² times an input
    position instead of (2k)²: 16 instead of 36 for k = 3.

    Args:
        weight: (C_out, C_in, k, k) of a convolution with stride 1, dilation 1 and one group.

    Returns:
        (C_in, C_out, k+1, k+1), summed in at least float32, of the weight's dtype and layout. With padding k−1−p it
        replaces a convolution of padding p.
    """
    wide = weight if weight.dtype == torch.float64 else weight.float()
    padded = F.pad(wide.flip(-2, -1).transpose(0, 1), (1, 1, 1, 1))
    rows = padded[..., :-1, :] + padded[..., 1:, :]
    kernel = rows[..., :-1] + rows[..., 1:]
    return kernel.to(weight.dtype).contiguous(memory_format=memory_format(weight))
