"""The latent perceptual loss.

Reference: Berrada et al., *Boosting Latent Diffusion with Perceptual Objectives*, ICLR 2025 (arXiv 2411.04873):

    L_LPL = E[ 1(σ_t ≤ τ_σ) Σ_l (ω_l / C_l) Σ_c ‖ρ_{l,c} ⊙ (φ'_{l,c} − φ̂'_{l,c})‖² ]

where φ_l and φ̂_l are features of block l of the autoencoder's decoder for the clean latent z0 and the predicted ẑ0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..autoencoders.features import DecoderFeatures
from ..autoencoders.scaling import LatentScaling
from ..diffusion.schedulers import predicted_latent
from .normalization import NORMALIZATIONS, VARIANCE_FLOOR, NormalizationName
from .outliers import outlier_mask

Reduction = Literal["mean", "sum"]
OutlierBlocks = Literal["deep", "all", "none"]

DEEP = 2  # "deep" blocks are those of at least half the image's resolution, down_f ≤ 2


@dataclass(frozen=True)
class PerceptualTerms:
    """What the loss is made of.

    Attributes:
        loss: the scalar, mean over the whole batch; the sum of `blocks`.
        blocks: each block's share of `loss`, depth weight included, detached.
        outlier_share: share of positions that Algorithm 1 masked, by block, detached; 0 for blocks not masked.
        passed: number of samples that passed the gate.
        per_sample: (B,), each sample's loss, zero where the gate is closed, detached.
    """

    loss: Tensor
    blocks: dict[str, Tensor]
    outlier_share: dict[str, Tensor]
    passed: int
    per_sample: Tensor


class LatentPerceptualLoss(nn.Module):
    """Compares what the autoencoder's decoder makes of a predicted clean latent and of the true one.

    Args:
        autoencoder: any diffusers autoencoder, a `TAEF2`, another module with the names of its blocks, or a
            `DecoderFeatures` made beforehand. It is not changed; see `DecoderFeatures`.
        blocks: decoder blocks to compare; by default all that the autoencoder's kind has (the paper's five for Stable
            Diffusion's decoder: the mid block and every up block).
        sigma_threshold: τ_σ. Samples with σ_t above it contribute zero and never enter the decoder. None: no gate.
        normalization: "prediction" (both by the prediction's statistics, the paper's), "target", "independent",
            "unit" (by the target's norm over channels) or "none"; see `lpl.losses.normalization`.
        outliers: which blocks are masked by Algorithm 1: "deep" (down_f ≤ 2), "all" or "none".
        depth_weights: ω_l = r_1/r_l, the inverse of the upscaling relative to the first block used; False: ω_l = 1.
        variance_floor: smallest variance that a channel is normalised by, as a share of the mean variance of its
            block's channels; 0 is the equation as printed, which magnifies dead channels without bound.
        reduction: "mean" over kept positions, so that a weight carries across resolutions, or the equation's "sum".
        scaling: overrides how the diffusion model's latents relate to the autoencoder's.
        upscaling: image pixels per latent position, for autoencoders of unknown kind.
        dtype: floating-point type to run the decoder's blocks in; by default the autoencoder's own. Statistics,
            normalisation and distances are always computed in float32 at least.

    Raises:
        ValueError: an option that does not exist, with those that do.

    Example:
        >>> perceptual = LatentPerceptualLoss(vae)
        >>> clean_hat, sigma = perceptual.predicted_latent(scheduler, output, noisy, timesteps)
        >>> loss = mse + 3.0 * perceptual(clean_hat, clean, sigma)
    """

    def __init__(
        self,
        autoencoder: nn.Module,
        blocks: Sequence[str] | None = None,
        sigma_threshold: float | None = 3.0,
        normalization: NormalizationName = "prediction",
        outliers: OutlierBlocks = "deep",
        depth_weights: bool = True,
        reduction: Reduction = "mean",
        variance_floor: float = VARIANCE_FLOOR,
        scaling: LatentScaling | None = None,
        upscaling: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_choice("normalization", normalization, NORMALIZATIONS)
        _check_choice("outliers", outliers, ("deep", "all", "none"))
        _check_choice("reduction", reduction, ("mean", "sum"))
        if sigma_threshold is not None and not sigma_threshold > 0:
            raise ValueError(f"sigma_threshold: got {sigma_threshold}, takes a positive number, or None for no gate")
        if not 0 <= variance_floor < 1:
            raise ValueError(f"variance_floor: got {variance_floor}, takes a number from 0 to below 1")
        if isinstance(autoencoder, DecoderFeatures):
            if any(value is not None for value in (blocks, scaling, upscaling, dtype)):
                raise ValueError(
                    "blocks, scaling, upscaling, dtype: the DecoderFeatures given has its own; pass them there"
                )
            self.features = autoencoder
        else:
            self.features = DecoderFeatures(autoencoder, blocks, scaling, upscaling, dtype)
        self.sigma_threshold = sigma_threshold
        self.normalization = normalization
        self.outliers = outliers
        self.depth_weights = depth_weights
        self.reduction = reduction
        self.variance_floor = variance_floor

    predicted_latent = staticmethod(predicted_latent)

    def forward(
        self, prediction: Tensor, target: Tensor, sigma: Tensor | float | None = None, return_terms: bool = False
    ) -> Any:
        """The loss of predicted clean latents; its gradient flows to `prediction` alone.

        Args:
            prediction: ẑ0, (B, C, h, w), as the diffusion model sees latents; float32, bfloat16, float16 or float64.
            target: z0, of the same shape.
            sigma: σ_t = b_t/a_t of each sample, (B,), or one number for all. Needed unless `sigma_threshold` is None.
            return_terms: also return what the loss is made of.

        Returns:
            The loss, a scalar of at least float32: the sum over samples that pass the gate, divided by B; or
            `PerceptualTerms` that hold it.

        Raises:
            ValueError: shapes that differ, latents the decoder does not take, a missing or misshapen `sigma`, or a
                latent that passes the gate and holds NaN.
        """
        self._check(prediction, target)
        passed = self._gate(sigma, prediction)
        prediction_passed, target_passed = prediction[passed], target[passed].detach()
        _refuse_nan("prediction", prediction_passed)
        _refuse_nan("target", target_passed)
        if len(passed) == 0:
            terms = self._empty(prediction)
        else:
            terms = self._compare(prediction_passed, target_passed, passed, len(prediction))
        return terms if return_terms else terms.loss

    def _compare(self, prediction: Tensor, target: Tensor, passed: Tensor, batch_size: int) -> PerceptualTerms:
        """The loss of the samples that passed the gate, as a mean over the whole batch."""
        with torch.no_grad():
            target_features = self.features(target)
        prediction_features = self.features(prediction)
        first = next(iter(target_features.values()))
        full = self._full_height(target, target_features)
        by_block: dict[str, Tensor] = {}
        share: dict[str, Tensor] = {}
        for name, features in target_features.items():
            mask = self._mask(features, down_f=full / features.shape[-2])
            weight = first.shape[-2] / features.shape[-2] if self.depth_weights else 1.0
            by_block[name] = weight * self._distance(prediction_features[name], features, mask)
            share[name] = features.new_zeros(()) if mask is None else 1 - mask.count_nonzero() / mask.numel()
        per_sample = torch.stack(list(by_block.values())).sum(dim=0)
        scattered = per_sample.new_zeros(batch_size).index_copy(0, passed, per_sample)
        return PerceptualTerms(
            loss=scattered.sum() / batch_size,
            blocks={name: value.detach().sum() / batch_size for name, value in by_block.items()},
            outlier_share=share,
            passed=len(passed),
            per_sample=scattered.detach(),
        )

    def _distance(self, prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """(1/C) Σ_c ‖ρ_c ⊙ (φ'_c − φ̂'_c)‖² of each sample, (B,); with reduction "mean", ‖·‖² over kept positions."""
        # Squares of half-precision features overflow, and sums over positions lose digits.
        precision = torch.promote_types(prediction.dtype, torch.float32)
        prediction, target = prediction.to(precision), target.to(precision)
        prediction, target, std = NORMALIZATIONS[self.normalization](prediction, target, mask, self.variance_floor)
        by_channel = SquaredDistance.apply(prediction, target, mask)
        if std is not None:
            by_channel = by_channel / std.flatten(1).square()
        if self.reduction == "mean":
            by_channel = by_channel / _positions(target, mask)
        return by_channel.mean(dim=1)

    def _mask(self, features: Tensor, down_f: float) -> Tensor | None:
        """ρ for a block, or None where every position counts."""
        if self.outliers == "none" or (self.outliers == "deep" and down_f > DEEP):
            return None
        return outlier_mask(features, down_f)

    def _full_height(self, latents: Tensor, features: dict[str, Tensor]) -> float:
        """Height of the decoded image; the finest block's where the decoder's kind is unknown."""
        if self.features.upscaling is None:
            return max(value.shape[-2] for value in features.values())
        return latents.shape[-2] * self.features.scaling.patch * self.features.upscaling

    def _gate(self, sigma: Tensor | float | None, prediction: Tensor) -> Tensor:
        """Indices of the samples with σ_t ≤ τ_σ."""
        everything = torch.arange(len(prediction), device=prediction.device)
        if self.sigma_threshold is None:
            return everything
        if sigma is None:
            raise ValueError("sigma: missing; pass σ_t of each sample, or set sigma_threshold=None for no gate")
        sigma = torch.as_tensor(sigma, device=prediction.device)
        if sigma.numel() == 1:
            sigma = sigma.reshape(1).expand(len(prediction))
        if sigma.numel() != len(prediction):
            raise ValueError(
                f"sigma: got shape {tuple(sigma.shape)}, takes one number for each of {len(prediction)} samples"
            )
        return everything[sigma.reshape(-1) <= self.sigma_threshold]

    def _check(self, prediction: Tensor, target: Tensor) -> None:
        self.features.check_latents(prediction, "prediction")
        self.features.check_latents(target, "target")
        if prediction.shape != target.shape:
            raise ValueError(
                f"target: got shape {tuple(target.shape)}, takes that of prediction, {tuple(prediction.shape)}"
            )

    def _empty(self, prediction: Tensor) -> PerceptualTerms:
        """Zero, still part of the graph so that a distributed backward finds what it waits for."""
        precision = torch.promote_types(prediction.dtype, torch.float32)
        zero = prediction[:0].to(precision).sum()
        zeros = {name: torch.zeros_like(zero.detach()) for name in self.features.blocks}
        return PerceptualTerms(zero, zeros, dict(zeros), 0, zero.detach().expand(len(prediction)))

    def extra_repr(self) -> str:
        """The options, for `print(loss)`."""
        return (
            f"blocks={list(self.features.blocks)}, sigma_threshold={self.sigma_threshold}, "
            f"normalization={self.normalization!r}, outliers={self.outliers!r}, "
            f"depth_weights={self.depth_weights}, reduction={self.reduction!r}, "
            f"variance_floor={self.variance_floor}"
        )


class SquaredDistance(torch.autograd.Function):
    """Σ over positions of (ρ ⊙ (a − b))² for each sample and channel: (B, C, H, W) → (B, C), gradient to a alone.

    Backward keeps one tensor, the difference, where autograd would keep three.
    """

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Takes floats of at least 32 bits, lest squares overflow."""
        difference = prediction - target
        if mask is not None:
            difference *= mask
        ctx.save_for_backward(difference)
        return torch.linalg.vector_norm(difference, dim=(-2, -1)).square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """2 ρ ⊙ (a − b)."""
        (difference,) = ctx.saved_tensors
        return difference * (2 * grad)[..., None, None], None, None


def _positions(features: Tensor, mask: Tensor | None) -> Tensor | int:
    """Number of positions kept, per sample and channel; at least 1, so that a channel masked whole counts zero."""
    return math.prod(features.shape[-2:]) if mask is None else mask.sum(dim=(-2, -1)).clamp_min(1)


def _refuse_nan(name: str, latents: Tensor) -> None:
    if bool(torch.isnan(latents).any()):
        raise ValueError(f"{name}: holds NaN in {int(torch.isnan(latents).flatten(1).any(1).sum())} of the samples")


def _check_choice(name: str, value: Any, allowed: Any) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, takes {', '.join(map(repr, allowed))}")
