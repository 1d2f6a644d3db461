"""The latent perceptual loss.

Reference: Berrada et al., *Boosting Latent Diffusion with Perceptual Objectives*, ICLR 2025 (arXiv 2411.04873):

    L_LPL = E[ 1(σ_t ≤ τ_σ) Σ_l (ω_l / C_l) Σ_c ‖ρ_{l,c} ⊙ (φ'_{l,c} − φ̂'_{l,c})‖² ]

where φ_l and φ̂_l are features of block l of the autoencoder's decoder for the clean latent z0 and the predicted ẑ0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..autoencoders.features import DecoderFeatures
from ..autoencoders.scaling import LatentScaling
from ..diffusion.schedulers import predicted_latent
from .distance import squared_distance
from .gate import check_threshold, nothing_passed, over_batch, passing, refuse_nan
from .normalization import NORMALIZATIONS, VARIANCE_FLOOR, NormalizationName
from .outliers import Outliers, find_outliers
from .streaming import Float16Range, HandedBack, gradient_of

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


@dataclass(frozen=True)
class _Compared:
    """What samples that passed the gate contribute, N of them.

    Attributes:
        per_sample: (N,), with gradient.
        blocks: each block's share of it, (N,).
        outlier_share: by block, a scalar.
    """

    per_sample: Tensor
    blocks: dict[str, Tensor]
    outlier_share: dict[str, Tensor]

    def detach(self) -> _Compared:
        return _Compared(
            self.per_sample.detach(), {name: value.detach() for name, value in self.blocks.items()}, self.outlier_share
        )

    @staticmethod
    def concatenated(parts: Sequence[_Compared]) -> _Compared:
        shares = torch.tensor([len(part.per_sample) for part in parts]) / sum(len(part.per_sample) for part in parts)
        return _Compared(
            torch.cat([part.per_sample for part in parts]),
            {name: torch.cat([part.blocks[name] for part in parts]) for name in parts[0].blocks},
            {
                name: sum(share * part.outlier_share[name] for share, part in zip(shares.tolist(), parts, strict=True))
                for name in parts[0].outlier_share
            },
        )


class LatentPerceptualLoss(nn.Module):
    """Compares what the autoencoder's decoder makes of a predicted clean latent and of the true one.

    Args:
        autoencoder: any diffusers autoencoder, a `TAEF2`, another module with the names of its blocks, or a
            `DecoderFeatures` made beforehand. It is not changed; see `DecoderFeatures`.
        blocks: decoder blocks to compare; by default all that the autoencoder's kind has (the paper's five for Stable
            Diffusion's decoder: the mid block and every up block), or, given a number, the first so many.
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
        micro_batch: how many samples' features to hold at once. The decoder then takes that many samples after one
            another, each with its gradient, which `backward` hands on: the same loss and gradient, in the memory of
            `micro_batch` samples whatever the batch. On a GPU a few are better than one, whose kernels run faster than
            Python launches them. None: all at once.

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
        blocks: Sequence[str] | int | None = None,
        sigma_threshold: float | None = 3.0,
        normalization: NormalizationName = "prediction",
        outliers: OutlierBlocks = "deep",
        depth_weights: bool = True,
        reduction: Reduction = "mean",
        variance_floor: float = VARIANCE_FLOOR,
        scaling: LatentScaling | None = None,
        upscaling: int | None = None,
        dtype: torch.dtype | None = None,
        micro_batch: int | None = None,
    ) -> None:
        super().__init__()
        _check_choice("normalization", normalization, NORMALIZATIONS)
        _check_choice("outliers", outliers, ("deep", "all", "none"))
        _check_choice("reduction", reduction, ("mean", "sum"))
        check_threshold(sigma_threshold)
        if not 0 <= variance_floor < 1:
            raise ValueError(f"variance_floor: got {variance_floor}, takes a number from 0 to below 1")
        if micro_batch is not None and (not isinstance(micro_batch, int) or micro_batch < 1):
            raise ValueError(f"micro_batch: got {micro_batch}, takes a positive integer, or None for all at once")
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
        self.micro_batch = micro_batch

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
        passed = passing(sigma, self.sigma_threshold, prediction)
        prediction_passed, target_passed = prediction[passed], target[passed].detach()
        refuse_nan("prediction", prediction_passed)
        refuse_nan("target", target_passed)
        if len(passed) == 0:
            terms = self._empty(prediction)
        else:
            compared = self._compare_passed(prediction_passed, target_passed)
            terms = _over_batch(compared, passed, len(prediction))
        return terms if return_terms else terms.loss

    def _compare_passed(self, prediction: Tensor, target: Tensor) -> _Compared:
        if self.micro_batch is None or len(prediction) <= self.micro_batch:
            return self._compare(prediction, target)
        return self._compare_in_turn(prediction, target, self.micro_batch)

    def _compare(self, prediction: Tensor, target: Tensor) -> _Compared:
        """The terms of some samples."""
        if self.features.dtype != torch.float16:
            return self._compare_features(prediction, target)
        within = Float16Range()
        compared = self._compare_features(within.enter(prediction), target)
        return replace(compared, per_sample=within.leave(compared.per_sample))

    def _compare_features(self, prediction: Tensor, target: Tensor) -> _Compared:
        """The same, with the gradients that autograd gives."""
        with torch.no_grad():
            target_features = self.features(target)
        prediction_features = self.features(prediction)
        first = next(iter(target_features.values())).shape[-2]
        full = self._full_height(target, target_features)
        blocks, share = {}, {}
        for name in list(target_features):
            true, predicted = target_features.pop(name), prediction_features.pop(name)  # not held longer than needed
            outliers = self._outliers(true, down_f=full / true.shape[-2])
            weight = first / true.shape[-2] if self.depth_weights else 1.0
            blocks[name] = weight * self._distance(predicted, true, outliers)
            share[name] = blocks[name].new_zeros(()) if outliers is None else outliers.share()
        return _Compared(torch.stack(list(blocks.values())).sum(dim=0), blocks, share)

    def _compare_in_turn(self, prediction: Tensor, target: Tensor, size: int) -> _Compared:
        """The same, `size` samples after one another, each part's gradient taken before the next part begins."""
        needs_gradient = torch.is_grad_enabled() and prediction.requires_grad
        parts, gradients = [], []
        for some, true in zip(prediction.split(size), target.split(size), strict=True):
            with torch.set_grad_enabled(needs_gradient):
                leaf = some.detach().requires_grad_(needs_gradient)
                part = self._compare(leaf, true)
                if needs_gradient:
                    gradients.append(gradient_of(part.per_sample, leaf))
            parts.append(part.detach())
        compared = _Compared.concatenated(parts)
        if needs_gradient:
            per_sample = HandedBack.apply(prediction, compared.per_sample, torch.cat(gradients))
            compared = replace(compared, per_sample=per_sample)
        return compared

    def _distance(self, prediction: Tensor, target: Tensor, outliers: Outliers | None) -> Tensor:
        """(1/C) Σ_c ‖ρ_c ⊙ (φ'_c − φ̂'_c)‖² of each sample, (B,); with reduction "mean", ‖·‖² over kept positions."""
        compared = NORMALIZATIONS[self.normalization](prediction, target, outliers, self.variance_floor)
        prediction, target, std = compared
        by_channel = squared_distance(prediction, target, outliers)
        if std is not None:
            by_channel = by_channel / std.square()
        if self.reduction == "mean":
            by_channel = by_channel / (math.prod(target.shape[-2:]) if outliers is None else outliers.positions())
        return by_channel.mean(dim=1)

    def _outliers(self, features: Tensor, down_f: float) -> Outliers | None:
        """ρ for a block, or None where every position counts."""
        if self.outliers == "none" or (self.outliers == "deep" and down_f > DEEP):
            return None
        return find_outliers(features, down_f)

    def _full_height(self, latents: Tensor, features: dict[str, Tensor]) -> float:
        """Height of the decoded image; the finest block's where the decoder's kind is unknown."""
        if self.features.upscaling is None:
            return max(value.shape[-2] for value in features.values())
        return latents.shape[-2] * self.features.scaling.patch * self.features.upscaling

    def _check(self, prediction: Tensor, target: Tensor) -> None:
        self.features.check_latents(prediction, "prediction")
        self.features.check_latents(target, "target")
        if prediction.shape != target.shape:
            raise ValueError(
                f"target: got shape {tuple(target.shape)}, takes that of prediction, {tuple(prediction.shape)}"
            )

    def _empty(self, prediction: Tensor) -> PerceptualTerms:
        terms = nothing_passed(prediction, self.features.blocks)
        return PerceptualTerms(terms.loss, terms.layers, dict(terms.layers), 0, terms.per_sample)

    def extra_repr(self) -> str:
        """The options, for `print(loss)`."""
        return (
            f"blocks={list(self.features.blocks)}, sigma_threshold={self.sigma_threshold}, "
            f"normalization={self.normalization!r}, outliers={self.outliers!r}, "
            f"depth_weights={self.depth_weights}, reduction={self.reduction!r}, "
            f"variance_floor={self.variance_floor}"
        )


def _over_batch(compared: _Compared, passed: Tensor, batch_size: int) -> PerceptualTerms:
    """Means over the whole batch, in which samples that did not pass count zero."""
    loss, per_sample = over_batch(compared.per_sample, passed, batch_size)
    return PerceptualTerms(
        loss=loss,
        blocks={name: value.detach().sum() / batch_size for name, value in compared.blocks.items()},
        outlier_share=compared.outlier_share,
        passed=len(passed),
        per_sample=per_sample,
    )


def _check_choice(name: str, value: Any, allowed: Any) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, takes {', '.join(map(repr, allowed))}")
