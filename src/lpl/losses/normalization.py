"""The normalisations φ → φ', φ̂ → φ̂' under which the latent perceptual loss compares features.

Each is a function of (prediction φ̂, target φ, mask ρ, variance floor) that returns (a, b, s) with φ̂' − φ' = (a − b)/s,
where s is a number for each sample and channel, without gradient, or None for 1. A further one is a function and a line
in `NORMALIZATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

NormalizationName = Literal["prediction", "target", "independent", "unit", "none"]
Compared = tuple[Tensor, Tensor, Tensor | None]
Normalization = Callable[[Tensor, Tensor, Tensor | None, float], Compared]

# The smallest variance that a channel is taken to have, as a share of the mean variance of its block's channels.
# Without a floor a channel that is dead in the prediction (as happens after a ReLU) would be magnified without bound;
# this one leaves all but a few channels of real decoders as they are.
VARIANCE_FLOOR = 1e-3


def masked_statistics(
    features: Tensor, mask: Tensor | None, variance_floor: float = VARIANCE_FLOOR
) -> tuple[Tensor, Tensor]:
    """Mean and floored standard deviation over the positions kept, per sample and channel.

    Args:
        features: (B, C, H, W).
        mask: boolean (B, C, H, W), True where a position counts, or None for all.
        variance_floor: smallest variance, as a share of the mean variance of the sample's channels.

    Returns:
        Mean and standard deviation, each (B, C, 1, 1). The variance divides by the number of positions.
    """
    variance, mean = torch.var_mean(features, dim=(-2, -1), correction=0, keepdim=True)
    if mask is not None:
        # Nearly all maps have no outlier; only those that have one are gone over again.
        partial = torch.nonzero(~mask.flatten(-2).all(dim=-1), as_tuple=True)
        kept_mean, kept_variance = _statistics_of_kept(features[partial], mask[partial])
        mean, variance = mean.index_put(partial, kept_mean), variance.index_put(partial, kept_variance)
    floor = variance_floor * variance.detach().mean(dim=1, keepdim=True)
    tiny = torch.finfo(features.dtype).tiny ** 0.5
    return mean, variance.clamp_min(tiny).maximum(floor).sqrt()


def _statistics_of_kept(maps: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of maps (K, H, W) over the positions kept, each (K, 1, 1)."""
    count = mask.sum(dim=(-2, -1), keepdim=True).clamp_min(1)
    mean = (maps * mask).sum(dim=(-2, -1), keepdim=True) / count
    variance = ((maps - mean).square() * mask).sum(dim=(-2, -1), keepdim=True) / count
    return mean, variance


def by_prediction(prediction: Tensor, target: Tensor, mask: Tensor | None, variance_floor: float) -> Compared:
    """Both standardised by the prediction's statistics, which take no gradient: the paper's choice.

    The shared mean cancels in the difference.
    """
    _, std = masked_statistics(prediction.detach(), mask, variance_floor)
    return prediction, target, std


def by_target(prediction: Tensor, target: Tensor, mask: Tensor | None, variance_floor: float) -> Compared:
    """Both standardised by the target's statistics."""
    _, std = masked_statistics(target, mask, variance_floor)
    return prediction, target, std


def independent(prediction: Tensor, target: Tensor, mask: Tensor | None, variance_floor: float) -> Compared:
    """Each standardised by its own statistics, with gradient through the prediction's.

    Blind to any change of a channel's mean and contrast.
    """
    mean, std = masked_statistics(prediction, mask, variance_floor)
    target_mean, target_std = masked_statistics(target, mask, variance_floor)
    return (prediction - mean) / std, (target - target_mean) / target_std, None


def by_unit(prediction: Tensor, target: Tensor, mask: Tensor | None, variance_floor: float) -> Compared:
    """Both divided by the target's norm over channels at each position, as widely copied code does."""
    norm = torch.linalg.vector_norm(target, dim=1, keepdim=True)
    norm = norm.clamp_min(torch.finfo(target.dtype).tiny ** 0.5)
    return prediction / norm, target / norm, None


def raw(prediction: Tensor, target: Tensor, mask: Tensor | None, variance_floor: float) -> Compared:
    """The features as they are."""
    return prediction, target, None


NORMALIZATIONS: dict[str, Normalization] = {
    "prediction": by_prediction,
    "target": by_target,
    "independent": independent,
    "unit": by_unit,
    "none": raw,
}
