"""The normalisations φ → φ', φ̂ → φ̂' under which the latent perceptual loss compares features.

Each is a function of (prediction φ̂, target φ, outliers, variance floor) that returns (a, b, s) with
φ̂' − φ' = (a − b)/s, where s is a number for each sample and channel, without gradient, or None for 1. A further one is
a function and a line in `NORMALIZATIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ..kernels import fused
from .moments import moments, wide_type
from .outliers import DenseOutliers, Outliers

NormalizationName = Literal["prediction", "target", "independent", "unit", "none"]
Compared = tuple[Tensor, Tensor, Tensor | None]
Normalization = Callable[[Tensor, Tensor, Outliers | None, float], Compared]

# The smallest variance that a channel is taken to have, as a share of the mean variance of its block's channels.
# Without a floor a channel that is dead in the prediction (as happens after a ReLU) would be magnified without bound;
# this one leaves all but a few channels of real decoders as they are.
VARIANCE_FLOOR = 1e-3

MOST = 2  # times its variance over the positions kept: a map's over all, from which on one is not taken from the other


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

    Raises:
        ValueError: maps of a single position, over which nothing varies.
    """
    if math.prod(features.shape[-2:]) < 2:
        raise ValueError(
            f"latents: a block has maps of {features.shape[-2]} × {features.shape[-1]} positions, which can't be "
            "normalised by how they vary; takes larger latents, blocks without this one, or normalization unit or none"
        )
    differentiable = features.requires_grad and torch.is_grad_enabled()
    if isinstance(outliers, DenseOutliers) and fused(features) and not differentiable:
        from ..kernels.statistics import map_moments

        mean, variance = map_moments(features, outliers.dense)
    else:
        mean, variance = _moments_of_kept(features, outliers, differentiable)
    floor = variance_floor * variance.detach().mean(dim=1, keepdim=True)
    tiny = torch.finfo(variance.dtype).tiny ** 0.5
    return mean, variance.clamp_min(tiny).maximum(floor).sqrt()


def _moments_of_kept(features: Tensor, outliers: Outliers | None, differentiable: bool) -> tuple[Tensor, Tensor]:
    """Mean and variance over the positions kept of every map, (B, C)."""
    if differentiable:
        variance, mean = torch.var_mean(features.to(wide_type(features.dtype)), dim=(-2, -1), correction=0)
    else:
        mean, variance = moments(features)
    if outliers is None or outliers.empty:
        return mean, variance
    if differentiable:
        anew = outliers.masked > 0
    else:
        mean, variance, anew = _without_masked(features, outliers, mean, variance)
    index = torch.nonzero(anew, as_tuple=True)
    if len(index[0]) == 0:
        return mean, variance
    found = _statistics_of_kept(features[index].to(mean.dtype), outliers.mask()[index], outliers.positions()[index])
    return mean.index_put(index, found[0]), variance.index_put(index, found[1])


def _without_masked(
    features: Tensor, outliers: Outliers, mean: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """From moments over all positions to those over the positions kept; the few others are read alone.

    Returns:
        Mean, variance, and where most of what the variance was made of is masked, so that digits were lost; (B, C).
    """
    numbers, total, kept = outliers.order.maps(outliers.places), math.prod(features.shape[2:]), outliers.positions()
    centred = outliers.at_places(features).to(mean.dtype) - mean.flatten()[numbers]
    sums = mean.new_zeros(2, mean.numel()).index_add_(1, numbers, torch.stack([centred, centred.square()]))
    first, second = sums.view(2, *mean.shape)
    shift = -first / kept
    rest = (total * variance - second) / kept - shift.square()
    return mean + shift, rest.clamp_min(0), (outliers.masked > 0) & ~(total * variance <= MOST * kept * rest)


def _statistics_of_kept(maps: Tensor, kept: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over the positions kept, each (K,), of maps (K, H, W); count says how many these are, (K,)."""
    centre = (maps.detach() * kept).sum(dim=(-2, -1)) / count  # which keeps digits
    centred = (maps - centre[:, None, None]) * kept
    shift, square = (values.sum(dim=(-2, -1)) / count for values in (centred, centred.square()))
    return centre + shift, square - shift.square()


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


def channel_norm(features: Tensor) -> Tensor:
    """‖φ‖ over channels at each position, (B, 1, H, W), in float32 at least.

    Where all channels are dead it is taken to be the smallest that rounding leaves of the sample's largest norm.
    """
    norm = torch.linalg.vector_norm(features, dim=1, keepdim=True, dtype=wide_type(features.dtype))
    largest = norm.amax(dim=(-2, -1), keepdim=True)
    return norm.maximum(torch.finfo(norm.dtype).eps * largest).clamp_min(torch.finfo(norm.dtype).tiny ** 0.5)


def by_unit(prediction: Tensor, target: Tensor, outliers: Outliers | None, variance_floor: float) -> Compared:
    """Both divided by the target's norm over channels at each position, as widely copied code does."""
    norm = channel_norm(target)
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
