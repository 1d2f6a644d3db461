"""The latent perceptual loss taken apart: its distance by block and by sample, under any normalisation.

`LatentPerceptualLoss` adds these up; here the features are computed once and compared in several ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..autoencoders import DecoderFeatures
from ..losses import NORMALIZATIONS
from ..losses.normalization import VARIANCE_FLOOR, NormalizationName
from ..losses.outliers import Outliers, find_outliers

Masked = Literal["deep", "all", "none"]
Maps = Mapping[str, Tensor]
Masks = Mapping[str, Outliers | None]

DEEP = 2.0  # blocks of at least half the image's resolution are the deep ones


@dataclass(frozen=True)
class Comparison:
    """How two feature maps are compared.

    Attributes:
        normalization: one of `lpl.losses.NORMALIZATIONS`.
        variance_floor: smallest variance that a channel is normalised by, as a share of its block's mean variance.
    """

    normalization: NormalizationName = "prediction"
    variance_floor: float = VARIANCE_FLOOR

    @property
    def name(self) -> str:
        """For reports; the floor matters to normalisations by variance alone."""
        if self.normalization in ("unit", "none"):
            return self.normalization
        return f"{self.normalization}, floor {self.variance_floor:g}"


DEFAULT = Comparison()


def down_factors(features: DecoderFeatures, latents: Tensor, maps: Maps) -> dict[str, float]:
    """down_f of each block: image resolution over the block's.

    Args:
        features: the decoder the maps come from.
        latents: (B, C, h, w) as the diffusion model sees them.
        maps: name → (B, C_l, H_l, W_l).
    """
    if features.upscaling is None:  # a decoder of unknown kind: the finest block counts as the image
        full = float(max(value.shape[-2] for value in maps.values()))
    else:
        full = float(latents.shape[-2] * features.scaling.patch * features.upscaling)
    return {name: full / value.shape[-2] for name, value in maps.items()}


def depth_weights(maps: Maps) -> dict[str, float]:
    """ω_l = r_1/r_l, the inverse of each block's upscaling relative to the first."""
    first = next(iter(maps.values())).shape[-2]
    return {name: first / value.shape[-2] for name, value in maps.items()}


def masks_of(target: Maps, factors: Mapping[str, float], masked: Masked = "deep") -> dict[str, Outliers | None]:
    """ρ_l of Algorithm 1 on the target's features, None for blocks that are not masked."""
    wanted = {name: masked == "all" or (masked == "deep" and factors[name] <= DEEP) for name in target}
    return {name: find_outliers(maps, factors[name]) if wanted[name] else None for name, maps in target.items()}


def channel_distances(
    prediction: Tensor, target: Tensor, outliers: Outliers | None, comparison: Comparison = DEFAULT
) -> Tensor:
    """Mean over kept positions of (φ'_c − φ̂'_c)², by sample and channel.

    Args:
        prediction: φ̂_l, (B, C, H, W).
        target: φ_l, of the same shape.
        outliers: ρ_l, or None where every position counts.
        comparison: how they are normalised.

    Returns:
        (B, C), of at least float32.
    """
    precision = torch.promote_types(prediction.dtype, torch.float32)
    normalize = NORMALIZATIONS[comparison.normalization]
    first, second, std = normalize(prediction.to(precision), target.to(precision), outliers, comparison.variance_floor)
    squares = (first - second).square()
    if outliers is None:
        distances = squares.mean(dim=(-2, -1))
    else:
        distances = (squares * outliers.mask()).sum(dim=(-2, -1)) / outliers.positions()
    return distances if std is None else distances / std.square()


def block_distances(prediction: Maps, target: Maps, masks: Masks, comparison: Comparison = DEFAULT) -> Tensor:
    """The loss's distance before depth weights, by block and sample: (L, B); a channel mean of `channel_distances`."""
    rows = [channel_distances(prediction[name], target[name], masks[name], comparison).mean(dim=1) for name in target]
    return torch.stack(rows)
