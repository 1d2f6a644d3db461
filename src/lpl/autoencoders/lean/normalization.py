"""Group normalisation fused with the activation after it, and RMS normalisation: both keep one tensor, their input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...kernels import fused
from .layout import dense, memory_format
from .storage import lengthened, shortened

_aten = torch.ops.aten
_SUMS_ONLY = (False, True, True)
_INPUT_ONLY = (True, False, False)


class Activation(NamedTuple):
    """An elementwise function: applied in place, and its gradient from (grad, input), which may overwrite the input.

    Its name is what `lpl.kernels.group_norm` calls it.
    """

    name: str
    apply_: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


def _silu_backward(grad: Tensor, input: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        return _aten.silu_backward(grad, input)
    return _aten.silu_backward.grad_input(grad, input, grad_input=input)


def _relu_backward(grad: Tensor, input: Tensor) -> Tensor:
    return _aten.threshold_backward(grad, input, 0)


ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.SiLU: Activation("silu", _aten.silu_, _silu_backward),
    nn.ReLU: Activation("relu", torch.relu_, _relu_backward),
}


class GroupNormActivation(torch.autograd.Function):
    """y = f(γ (x − μ) / √(v + ε) + β) with the mean μ and variance v of each sample's group of channels.

    Backward keeps x (see `shortened`), μ and 1/√(v + ε); the normalised values are recomputed from them.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, activation: Activation
    ) -> Tensor:
        """Takes a contiguous or channels-last input, and γ, β of shape (C,)."""
        output, mean, rstd = _normalize(_kernel_layout(input), weight, bias, groups, eps)
        ctx.save_for_backward(weight, bias, mean, rstd, *shortened(input))
        ctx.activation = activation
        return activation.apply_(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The input's gradient."""
        weight, bias, mean, rstd, *kept = ctx.saved_tensors
        input = _kernel_layout(lengthened(*kept))
        grad = grad.contiguous(memory_format=memory_format(input))
        statistics = _per_channel(weight, mean, rstd)
        normalized = _affine(input, statistics.scale, bias - statistics.mean * statistics.scale)
        grad = ctx.activation.backward(grad, normalized)
        del normalized
        grad_input = _group_norm_gradient(grad, input, weight, mean, rstd, statistics)
        return grad_input, None, None, None, None, None


class FusedGroupNormActivation(torch.autograd.Function):
    """y = f(γ (x + s − μ) / √(v + ε) + β) by the kernels of `lpl.kernels`; keeps what `GroupNormActivation` keeps."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        shift: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        groups: int,
        eps: float,
        activation: str,
    ) -> Tensor:
        """Takes channels-last maps, and s, γ, β of shape (C,)."""
        from ...kernels.group_norm import forward

        output, statistics = forward(input, shift, weight, bias, groups, eps, activation)
        ctx.save_for_backward(shift, weight, bias, statistics, *shortened(input))
        ctx.activation = activation
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The input's gradient."""
        from ...kernels.group_norm import backward

        shift, weight, bias, statistics, *kept = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_input = backward(grad, lengthened(*kept), shift, weight, bias, statistics, ctx.activation)
        return grad_input, None, None, None, None, None, None


def group_norm_activation(
    input: Tensor, norm: nn.GroupNorm, activation: Activation, shift: Tensor | None = None
) -> Tensor:
    """`activation(norm(input + shift))` for a frozen norm, keeping only the input and a mean and deviation per group.

    Args:
        input: (B, C, …), floating point.
        norm: group normalisation with or without γ and β.
        activation: one of `ACTIVATIONS`.
        shift: (C,), such as the bias of the convolution before where that was left out; None for 0.

    Returns:
        Of the input's shape and dtype, also under autocast. On the CPU and when compiled, statistics are in at least
        float32; elsewhere they are as PyTorch's own kernel takes them.
    """
    input = dense(input)
    fuse = fused(input)
    if shift is not None and not fuse:
        input = input + _spread(shift[None].to(input.dtype), input)
    dtype = _affine_dtype(input)
    weight = input.new_ones(norm.num_channels, dtype=dtype) if norm.weight is None else norm.weight.to(dtype)
    bias = input.new_zeros(norm.num_channels, dtype=dtype) if norm.bias is None else norm.bias.to(dtype)
    if fuse:
        options = norm.num_groups, norm.eps, activation.name
        return FusedGroupNormActivation.apply(input, shift, weight, bias, *options)
    return GroupNormActivation.apply(input, weight, bias, norm.num_groups, norm.eps, activation)


def _kernel_layout(input: Tensor) -> Tensor:
    """The input as PyTorch's kernels take it: those of other devices than the CPU know the contiguous layout only.

    A compiler makes kernels of its own, for any layout.
    """
    return input if input.is_cpu or torch.compiler.is_compiling() else input.contiguous()


def _has_kernel(input: Tensor) -> bool:
    """Whether group normalisation's own kernels are used, rather than what a compiler can fuse."""
    return input.is_cpu or not torch.compiler.is_compiling()


def _affine_dtype(input: Tensor) -> torch.dtype:
    """What γ and β are cast to. On other devices than the CPU PyTorch's kernel wants them in the input's dtype."""
    if input.is_cpu or torch.compiler.is_compiling():
        return torch.promote_types(input.dtype, torch.float32)
    return input.dtype


def _normalize(input: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(γ (x − μ) / √(v + ε) + β, μ, 1/√(v + ε)); the last two of shape (B, groups)."""
    samples, channels = input.shape[:2]
    size = input[0, 0].numel()
    if _has_kernel(input):
        return torch.native_group_norm(input, weight, bias, samples, channels, size, groups, eps)
    grouped = input.movedim(1, -1).reshape(samples, size, groups, channels // groups)
    variance, mean = torch.var_mean(grouped.to(weight.dtype), dim=(1, 3), correction=0)
    rstd = (variance + eps).rsqrt()
    statistics = _per_channel(weight, mean, rstd)
    return _affine(input, statistics.scale, bias - statistics.mean * statistics.scale), mean, rstd


class _PerChannel(NamedTuple):
    """The statistics of each channel's group, all (B, C): μ, 1/√(v + ε) and γ/√(v + ε)."""

    mean: Tensor
    rstd: Tensor
    scale: Tensor


def _per_channel(weight: Tensor, mean: Tensor, rstd: Tensor) -> _PerChannel:
    channels_per_group = weight.shape[0] // mean.shape[1]
    dtype = torch.promote_types(weight.dtype, torch.float32)
    mean, rstd = (values.to(dtype).repeat_interleave(channels_per_group, dim=1) for values in (mean, rstd))
    return _PerChannel(mean, rstd, rstd * weight)


def _group_norm_gradient(
    grad: Tensor, input: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, statistics: _PerChannel
) -> Tensor:
    samples, channels = input.shape[:2]
    size = input[0, 0].numel()
    groups = mean.shape[1]
    if _has_kernel(input) and input.is_contiguous():
        backward = _aten.native_group_norm_backward
        return backward(grad, input, mean, rstd, weight, samples, channels, size, groups, _INPUT_ONLY)[0]
    # PyTorch's kernel is up to twenty times slower than this on channels-last maps of few channels.
    correlation, total = _channel_sums(grad, input, statistics.mean)
    count = size * channels // groups
    slope = -statistics.rstd.pow(3) / count * _group_sums(correlation * weight, groups)
    offset = -statistics.rstd / count * _group_sums(total * weight, groups) - slope * statistics.mean
    return _affine(grad, statistics.scale, offset).addcmul_(input, _spread(slope, input).to(input.dtype))


def _group_sums(values: Tensor, groups: int) -> Tensor:
    """Sums (B, C) over the channels of each group and gives every channel its group's sum."""
    sums = values.unflatten(1, (groups, -1)).sum(dim=2, keepdim=True)
    return sums.expand(-1, -1, values.shape[1] // groups).flatten(1)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """Shapes values (B, C) so that they multiply maps (B, C, …)."""
    return values.reshape(*values.shape, *[1] * (like.ndim - 2))


def _uses_batch_norm(tensor: Tensor) -> bool:
    """Batch normalisation's kernels scale and sum channels up to four times faster than broadcasting does."""
    return (tensor.is_cpu or tensor.is_contiguous()) and not torch.compiler.is_compiling()


def _as_batches(*maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of maps (B, C, …) as one or more batches of one sample, whose channels are all samples' channels."""
    first = maps[0]
    if first.is_contiguous():
        yield tuple(tensor.view(1, -1, *first.shape[2:]) for tensor in maps)
    else:
        yield from zip(*(tensor.split(1) for tensor in maps), strict=True)


def _affine(input: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x · scale + shift with a number for each sample and channel, in the input's dtype and layout."""
    if not _uses_batch_norm(input):
        return (input * _spread(scale, input) + _spread(shift, input)).to(input.dtype)
    output = torch.empty_like(input)
    batches = list(_as_batches(input, output))
    scales, shifts = scale.reshape(len(batches), -1), shift.reshape(len(batches), -1)
    zero, one = torch.zeros_like(scales[0]), torch.ones_like(scales[0])
    for (source, target), weight, bias in zip(batches, scales, shifts, strict=True):
        unused = {"save_mean": torch.empty_like(zero), "save_invstd": torch.empty_like(one)}
        _aten.native_batch_norm.out(source, weight, bias, zero, one, False, 0.0, 0.0, out=target, **unused)
    return output


def _channel_sums(grad: Tensor, input: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Σ grad · (x − mean) and Σ grad over the positions of each sample and channel, each (B, C)."""
    if not _uses_batch_norm(input):
        wide = grad.to(mean.dtype).flatten(2)
        return (wide * (input.flatten(2) - mean.unsqueeze(2))).sum(2), wide.sum(2)
    batches = list(_as_batches(grad, input))
    means = mean.reshape(len(batches), -1)
    one = torch.ones_like(means[0])
    sums = [
        _aten.native_batch_norm_backward(part, source, one, centre, one, centre, one, True, 0.0, _SUMS_ONLY)[1:]
        for (part, source), centre in zip(batches, means, strict=True)
    ]
    return torch.stack([pair[0] for pair in sums]).view_as(mean), torch.stack([pair[1] for pair in sums]).view_as(mean)


class RMSNormalization(torch.autograd.Function):
    """y = γ x / √(mean(x²) + ε) + β over the last dimension; of which backward keeps x and the root.

    See `shortened` for how x is kept.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        """Statistics in float32, result in the dtype that the input's and the weight's promote to."""
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        rstd = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
        ctx.save_for_backward(weight, rstd, *shortened(input))
        output = wide * rstd
        if weight is not None:
            output.mul_(weight)
        if bias is not None:
            output.add_(bias)
        return output.to(_rms_dtype(input, weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The input's gradient."""
        weight, rstd, *kept = ctx.saved_tensors
        input = lengthened(*kept)
        scaled = grad.to(rstd.dtype) if weight is None else grad * weight.to(rstd.dtype)
        slope = (scaled * input).mean(-1, keepdim=True) * rstd.square()
        return torch.addcmul(scaled, input.to(rstd.dtype), -slope).mul_(rstd).to(input.dtype), None, None, None


def _rms_dtype(input: Tensor, weight: Tensor | None) -> torch.dtype:
    """As diffusers' RMSNorm: a half-precision γ's dtype, otherwise that of the statistics; without γ the input's."""
    if weight is None:
        return input.dtype
    if weight.dtype in (torch.float16, torch.bfloat16):
        return weight.dtype
    return torch.promote_types(torch.promote_types(input.dtype, torch.float32), weight.dtype)
