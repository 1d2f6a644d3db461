"""The latent perceptual loss as one would first write it down: straight from the equations, differentiated by autograd.

It is what the package's loss is measured against, in time and in value, and shares no code with it: the decoder's
blocks are called one by one, and every step of the equation is an ordinary operation on tensors.

Reference: Berrada et al., *Boosting Latent Diffusion with Perceptual Objectives*, ICLR 2025:

    L_LPL = E[ 1(σ_t ≤ τ_σ) Σ_l (ω_l / C_l) Σ_c ‖ρ_{l,c} ⊙ (φ'_{l,c} − φ̂'_{l,c})‖² ]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Stage = Callable[[Tensor], Tensor]


def decoder_stages(autoencoder: Any) -> list[Stage]:
    """The decoder as functions to be applied in turn; what each returns is a block's features φ_l.

    Raises:
        ValueError: an autoencoder whose decoder this benchmark does not know how to call.
    """
    if type(autoencoder).__name__ == "AutoencoderKL":
        return _kl_stages(autoencoder)
    if type(autoencoder).__name__ == "TAEF2":
        layers = list(autoencoder.decoder)
        return [nn.Sequential(*layers[a:b]) for a, b in ((0, 6), (6, 11), (11, 16), (16, 19))]
    raise ValueError(f"autoencoder: got {type(autoencoder).__name__}, takes AutoencoderKL or TAEF2")


def _kl_stages(autoencoder: Any) -> list[Stage]:
    """The mid block, with all that comes before it, and the up blocks."""
    config, decoder = autoencoder.config, autoencoder.decoder

    def first(latents: Tensor) -> Tensor:
        hidden = latents / config.scaling_factor + (config.shift_factor or 0.0)
        if autoencoder.post_quant_conv is not None:
            hidden = autoencoder.post_quant_conv(hidden)
        return decoder.mid_block(decoder.conv_in(hidden))

    return [first, *decoder.up_blocks]


def decoder_features(stages: list[Stage], latents: Tensor) -> list[Tensor]:
    """The features (B, C_l, H_l, W_l) of every block."""
    features = []
    for stage in stages:
        latents = stage(latents)
        features.append(latents)
    return features


class PlainLatentPerceptualLoss:
    """L_LPL with the paper's settings: masks for blocks of at least half the resolution, depth weights, mean reduction.

    Args:
        autoencoder: a frozen AutoencoderKL or TAEF2, in the precision and layout to compute in.
        normalization: "prediction", "target", "independent", "unit" or "none".
        sigma_threshold: τ_σ.
        variance_floor: smallest variance, as a share of the mean variance of a block's channels.
    """

    def __init__(
        self,
        autoencoder: nn.Module,
        normalization: str = "prediction",
        sigma_threshold: float = 3.0,
        variance_floor: float = 1e-3,
    ) -> None:
        self.stages = decoder_stages(autoencoder)
        self.normalization = normalization
        self.sigma_threshold = sigma_threshold
        self.variance_floor = variance_floor

    def __call__(self, prediction: Tensor, target: Tensor, sigma: Tensor) -> Tensor:
        """The loss of latents (B, C, h, w) with noise levels (B,), a scalar."""
        passed = sigma <= self.sigma_threshold
        with torch.no_grad():
            target_features = decoder_features(self.stages, target[passed])
        prediction_features = decoder_features(self.stages, prediction[passed])
        total = prediction.new_zeros(())
        for predicted, true in zip(prediction_features, target_features, strict=True):
            upscaling = true.shape[-1] / target_features[0].shape[-1]  # r_l / r_1
            down_f = target_features[-1].shape[-1] / true.shape[-1]
            mask = outlier_mask(true, down_f) if down_f <= 2 else torch.ones_like(true)
            total = total + self._distance(predicted, true, mask).sum() / upscaling
        return total / len(prediction)

    def _distance(self, prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """The mean over channels and kept positions of (ρ ⊙ (φ̂' − φ'))², for each sample."""
        prediction, target = self._normalized(prediction, target, mask)
        squares = ((prediction - target) * mask) ** 2
        return (squares.sum(dim=(2, 3)) / mask.sum(dim=(2, 3)).clamp(min=1)).mean(dim=1)

    def _normalized(self, prediction: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """φ̂' and φ'."""
        if self.normalization == "none":
            return prediction, target
        if self.normalization == "unit":
            norm = target.square().sum(dim=1, keepdim=True).sqrt()
            return prediction / norm, target / norm
        if self.normalization == "independent":
            mean, std = self._statistics(prediction, mask)
            target_mean, target_std = self._statistics(target, mask)
            return (prediction - mean) / std, (target - target_mean) / target_std
        mean, std = self._statistics(prediction.detach() if self.normalization == "prediction" else target, mask)
        return (prediction - mean) / std, (target - mean) / std

    def _statistics(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each sample and channel over kept positions, (B, C, 1, 1)."""
        count = mask.sum(dim=(2, 3), keepdim=True).clamp(min=1)
        mean = (features * mask).sum(dim=(2, 3), keepdim=True) / count
        variance = ((features - mean) ** 2 * mask).sum(dim=(2, 3), keepdim=True) / count
        floor = self.variance_floor * variance.detach().mean(dim=1, keepdim=True)
        return mean, torch.maximum(variance, floor).sqrt()


def outlier_mask(features: Tensor, down_f: float) -> Tensor:
    """Algorithm 1: 1 where a position is kept, 0 where its activation is an outlier of its map."""
    maps = features.flatten(2)
    positions = maps.shape[-1]
    low = maps.kthvalue(max(int(positions * 0.02), 1), dim=-1).values
    high = maps.kthvalue(max(int(positions * (1 - 0.02)), 1), dim=-1).values
    margin = 2 * maps.std(dim=-1)
    low, high = (low - margin)[..., None, None], (high + margin)[..., None, None]
    mask = ((features >= low) & (features <= high)).to(features.dtype)
    opening, closing = math.ceil(5 / down_f), math.ceil(3 / down_f)
    opening = 3 if opening == 2 else opening
    closing = 1 if closing == 2 else closing
    mask = F.max_pool2d(mask, closing, stride=1, padding=closing // 2)
    return -F.max_pool2d(-mask, opening, stride=1, padding=opening // 2)
