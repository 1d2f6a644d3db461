"""The normalisations φ → φ', φ̂ → φ̂' under which the latent perceptual loss compares features.

Each is a function of (prediction φ̂, target φ, outliers, variance floor) that returns (a, b, s) with
φ̂' − φ' = (a − b)/s, where s is a number for each sample and channel, without gradient, or None for 1. A further one is
a function and a line in `NORMALIZATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ..kernels import fused
from .moments import moments, wide_type
from .outliers import DenseOutliers, OutlierMaps, Outliers

NormalizationName = Literal["prediction", "target", "independent", "unit", "none"]
Compared = tuple[Tensor, Tensor, Tensor | None]
Normalization = Callable[[Tensor, Tensor, Outliers | None, float], Compared]

# The smallest variance that a channel is taken to have, as a share of the mean variance of its block's channels.
# Without a floor a channel that is dead in the prediction (as happens after a ReLU) would be magnified without bound;
# this one leaves all but a few channels of real decoders as they are.
VARIANCE_FLOOR = 1e-3


def masked_statistics(
    features: Tensor, outliers: Outliers | None, variance_floor: float = VARIANCE_FLOOR
) -> tuple[Tensor, Tensor]:
    """Mean and floored standard deviation over the positions kept, per sample and channel.

    Args:
        features: (B, C, H, W).
        outliers: the positions that don't count, or None where all do.
        variance_floor: smallest variance, as a share of the mean variance of the sample's channels.

    Returns:
        Mean and standard deviation, each (B, C), in float32 at least, with gradient where the features have one. The
        variance divides by the number of positions.
    """
    differentiable = features.requires_grad and torch.is_grad_enabled()
    if isinstance(outliers, DenseOutliers) and fused(features) and not differentiable:
        from ..kernels.statistics import map_moments

        mean, variance = map_moments(features, outliers.kept)
    else:
        mean, variance = _moments_in_parts(features, outliers, differentiable)
    floor = variance_floor * variance.detach().mean(dim=1, keepdim=True)
    tiny = torch.finfo(variance.dtype).tiny ** 0.5
    return mean, variance.clamp_min(tiny).maximum(floor).sqrt()


def _moments_in_parts(features: Tensor, outliers: Outliers | None, differentiable: bool) -> tuple[Tensor, Tensor]:
    """Mean and variance of every map, (B, C), and again of the few that have an outlier."""
    if differentiable:
        variance, mean = torch.var_mean(features.to(wide_type(features.dtype)), dim=(-2, -1), correction=0)
    else:
        mean, variance = moments(features)
    for part in () if outliers is None else outliers.parts:
        kept_mean, kept_variance = _statistics_of_kept(part.selection.take(features), part, mean[part.selection.index])
        mean = mean.index_put(part.selection.index, kept_mean)
        variance = variance.index_put(part.selection.index, kept_variance)
    return mean, variance


def _statistics_of_kept(maps: Tensor, part: OutlierMaps, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over the positions kept, each (K,), of maps (1, K, H, W) of the given means over all (K,)."""
    centre = mean.detach().to(maps.dtype)  # which keeps digits; what it is rounded to does not matter
    centred = maps - centre[None, :, None, None]
    if centred.requires_grad:
        centred = (centred * part.kept).to(mean.dtype)
        average, square = centred.mean(dim=(-2, -1)), centred.square().mean(dim=(-2, -1))
    else:
        average, variance = moments(centred.mul_(part.kept))
        square = variance + average.square()
    # From means over all positions to means over those kept.
    scale = maps[0, 0].numel() / part.count.clamp_min(1).to(mean.dtype)
    shift = average[0] * scale
    return centre + shift, square[0] * scale - shift.square()


def by_prediction(prediction: Tensor, target: Tensor, outliers: Outliers | None, variance_floor: float) -> Compared:
    """Both standardised by the prediction's statistics, which take no gradient: the paper's choice.

    The shared mean cancels in the difference.
    """
    _, std = masked_statistics(prediction.detach(), outliers, variance_floor)
    return prediction, target, std


def by_target(prediction: Tensor, target: Tensor, outliers: Outliers | None, variance_floor: float) -> Compared:
    """Both standardised by the target's statistics."""
    _, std = masked_statistics(target, outliers, variance_floor)
    return prediction, target, std


def independent(prediction: Tensor, target: Tensor, outliers: Outliers | None, variance_floor: float) -> Compared:
    """Each standardised by its own statistics, with gradient through the prediction's.

    Blind to any change of a channel's mean and contrast.
    """
    standardised = []
    for features in (prediction, target):
        mean, std = (values[..., None, None] for values in masked_statistics(features, outliers, variance_floor))
        standardised.append((features - mean) / std)
    return standardised[0], standardised[1], None


def by_unit(prediction: Tensor, target: Tensor, outliers: Outliers | None, variance_floor: float) -> Compared:
    """Both divided by the target's norm over channels at each position, as widely copied code does.

    Where all channels are dead it is taken to be the smallest that rounding leaves of the sample's largest norm.
    """
    norm = torch.linalg.vector_norm(target, dim=1, keepdim=True, dtype=wide_type(target.dtype))
    largest = norm.amax(dim=(-2, -1), keepdim=True)
    norm = norm.maximum(torch.finfo(norm.dtype).eps * largest).clamp_min(torch.finfo(norm.dtype).tiny ** 0.5)
    return prediction / norm, target / norm, None


def raw(prediction: Tensor, target: Tensor, outliers: Outliers | None, variance_floor: float) -> Compared:
    """The features as they are."""
    return prediction, target, None


NORMALIZATIONS: dict[str, Normalization] = {
    "prediction": by_prediction,
    "target": by_target,
    "independent": independent,
    "unit": by_unit,
    "none": raw,
}
