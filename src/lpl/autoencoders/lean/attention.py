"""Attention by matrix products, where heads are too wide for the fast kernels of GPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

WIDEST = 256  # channels of a head that PyTorch's fast kernels take; wider ones run several times slower
WEIGHTS = 1 << 26  # attention weights that are held at once
ON_CPU = False  # for tests

_WIDENS = "dtype" in torch.ops.aten.bmm.overloads()  # whether products of half-precision matrices come in float32


def materializes(hidden: Tensor, width: int) -> bool:
    """Whether heads of `width` channels are computed here: wide ones in half precision, on a GPU, not compiled."""
    here = (hidden.is_cuda and _WIDENS) or (ON_CPU and hidden.is_cpu)
    return here and width > WIDEST and hidden.itemsize == 2 and not torch.compiler.is_compiling()


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """softmax(s q kᵀ) v, of which backward keeps q, k and v.

    Args:
        query: q, (B, N, D), in half precision.
        key: k, (B, M, D).
        value: v, (B, M, D).
        scale: s.

    Returns:
        (B, N, D), of the same type; logits and weights are in float32 up to the product with v.
    """
    return MaterializedAttention.apply(query, key, value, scale)


class MaterializedAttention(torch.autograd.Function):
    """Some queries at a time, so that the weights never exist in full."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `attention`."""
        ctx.save_for_backward(query, key, value)
        ctx.scale = scale
        rows = [torch.bmm(_weights(some, key, scale).to(value.dtype), value) for some in _split(query, key)]
        return torch.cat(rows, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """The gradients of q, k and v."""
        query, key, value = ctx.saved_tensors
        grad_query, grad_key, grad_value = [], torch.zeros_like(key), torch.zeros_like(value)
        for some, above in zip(_split(query, key), _split(grad, key), strict=True):
            weights = _weights(some, key, ctx.scale)
            grad_value.baddbmm_(weights.to(value.dtype).mT, above)
            slope = _product(above, value.mT).mul_(weights)
            slope.sub_(weights.mul_(slope.sum(dim=-1, keepdim=True))).mul_(ctx.scale)
            below = slope.to(query.dtype)
            grad_query.append(torch.bmm(below, key))
            grad_key.baddbmm_(below.mT, some)
        return torch.cat(grad_query, dim=1), grad_key, grad_value, None


def _weights(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """softmax(s q kᵀ), float32."""
    return _product(query, key.mT).mul_(scale).softmax(dim=-1)


def _product(first: Tensor, second: Tensor) -> Tensor:
    """In float32, without rounding in between."""
    if first.is_cuda:
        return torch.bmm(first, second, out_dtype=torch.float32)
    return torch.bmm(first.float(), second.float())


def _split(queries: Tensor, key: Tensor) -> tuple[Tensor, ...]:
    return queries.split(max(WEIGHTS // max(len(key) * key.shape[1], 1), 1), dim=1)
