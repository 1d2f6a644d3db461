"""‖ρ ⊙ (φ̂ − φ)‖² of feature maps, by sample and channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..autoencoders.lean.storage import lengthened, room_for, shorten_into
from ..kernels import fused
from .maps import WHOLE, Piece, pieces
from .moments import largest, sum_of_squares, wide_type
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
        keep = ctx.needs_input_grad[0]
        kept: tuple[Tensor, ...]
        ctx.dtype = prediction.dtype
        if prediction.itemsize == 2 and fused(prediction, target) and _known_to_kernels(outliers):
            squares, kept = _in_one_pass(prediction, target, outliers, keep)
            ctx.save_for_backward(*kept)
            ctx.pieces = [WHOLE]
            return squares
        squares = prediction.new_zeros(prediction.shape[:2], dtype=wide_type(prediction.dtype))
        kept, steps = _room_for_difference(prediction) if keep else (), []
        # Where few bits of the difference are kept, the whole of it need not be held.
        ctx.pieces = pieces(prediction) if prediction.itemsize < 8 else [WHOLE]
        for piece in ctx.pieces:
            difference = prediction[piece] - target[piece]
            if outliers is not None:
                outliers.clear(difference, piece)
            squares[piece[:2]] += sum_of_squares(difference)
            if keep and prediction.itemsize == 2:
                steps.append(in_bytes(difference, kept[0][piece]))
            elif keep and prediction.itemsize == 4:
                shorten_into(difference, *(room[piece] for room in kept))
            elif keep:
                kept = (difference,)
        ctx.save_for_backward(*kept, *steps)
        return squares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """2 ρ ⊙ (a − b)."""
        scale = (2 * grad)[..., None, None]
        if ctx.dtype.itemsize == 2:
            levels, *steps = ctx.saved_tensors
            return _from_pieces(levels, steps, ctx.pieces, scale, ctx.dtype), None, None
        difference = lengthened(*ctx.saved_tensors)
        return (difference.mul_(scale) if ctx.dtype == torch.float32 else difference * scale), None, None


def _room_for_difference(maps: Tensor) -> tuple[Tensor, ...]:
    """What is filled piece by piece with the difference of maps like these; float64's is kept as it is."""
    if maps.dtype == torch.float32:
        return room_for(maps)
    return (torch.empty_like(maps, dtype=torch.int8),) if maps.itemsize == 2 else ()


def _from_pieces(
    levels: Tensor, steps: Sequence[Tensor], parts: Sequence[Piece], scale: Tensor, dtype: torch.dtype
) -> Tensor:
    """What `in_bytes` made of the pieces of maps, times a scale (B, C, 1, 1)."""
    if fused(levels):
        from ..kernels.distance import from_levels

        return from_levels(levels, steps[0], scale[..., 0, 0].float(), dtype)
    maps = torch.empty_like(levels, dtype=dtype)
    for piece, step in zip(parts, steps, strict=True):
        from_bytes(levels[piece], scale[piece[:2]] * step, maps[piece])
    return maps


def _known_to_kernels(outliers: Outliers | None) -> bool:
    return outliers is None or isinstance(outliers, DenseOutliers) or outliers.empty


def _in_one_pass(
    prediction: Tensor, target: Tensor, outliers: Outliers | None, keep: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Σ (ρ ⊙ d)² of each map, and with `keep` d in bytes and their steps, with the kernels of `lpl.kernels`."""
    from ..kernels.distance import difference_levels, difference_sums

    mask = outliers.dense if isinstance(outliers, DenseOutliers) else None
    if not keep:
        return difference_sums(prediction, target, mask), ()
    squares, *saved = difference_levels(prediction, target, mask)
    return squares, tuple(saved)


def _levels_factor(peak: Tensor) -> Tensor:
    """1/s of maps whose largest magnitudes these are."""
    return LEVELS**2 / peak.clamp_min(torch.finfo(peak.dtype).tiny ** 0.5)


def in_bytes(maps: Tensor, levels: Tensor) -> Tensor:
    """Maps x ≈ q·|q|·s with a byte q a value: levels of √|x|, up to the root of the map's largest magnitude.

    With roots, small values get small steps. On normally distributed ones the error is 1 % of the map's norm, about
    that of a difference of bfloat16 features; where the largest magnitude is twenty standard deviations it is 2 %.

    Args:
        maps: (B, C, H, W), floating point. Maps with values that are not finite give an s that is not finite.
        levels: int8 of the same shape, to be filled with q.

    Returns:
        s, (B, C, 1, 1) in float32 at least.
    """
    wide = wide_type(maps.dtype)
    magnitudes = maps.abs()
    factor = _levels_factor(largest(magnitudes)[..., None, None].to(wide)).to(_factor_type(maps.dtype))
    levels.copy_((magnitudes * factor).sqrt_().round_().copysign_(maps))
    return factor.to(wide).reciprocal()


def from_bytes(levels: Tensor, scale: Tensor, maps: Tensor) -> Tensor:
    """Fills maps (B, C, H, W) with q·|q|·s for levels q, int8, and s, (B, C, 1, 1); returns them."""
    roots = levels.to(maps.dtype)
    return torch.mul(roots.abs().mul_(roots), scale.to(_factor_type(maps.dtype)), out=maps)


def _factor_type(dtype: torch.dtype) -> torch.dtype:
    """What maps of a type are multiplied by: bfloat16 has float32's range, float16 has not."""
    return dtype if dtype == torch.bfloat16 else wide_type(dtype)
