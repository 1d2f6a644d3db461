"""The training objective: L_tot = weighting(t) · L_diff + w_LPL · L_LPL.

A further perceptual term is one class with `PerceptualTerm`'s signature, a section of the recipe for its settings, and
one line in `PERCEPTUAL_TERMS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ..autoencoders import Autoencoder
from ..config import ObjectiveConfig, PerceptualConfig, Section
from ..diffusion.guidance import Denoiser
from ..diffusion.paths import DDPM, DiffusionPath
from ..losses.matching import VarianceMatchedWeight
from ..losses.perceptual import LatentPerceptualLoss
from ..losses.timesteps import Prediction, gated_weights, min_snr_weights

Terms = dict[str, Tensor | float]


class NonFiniteLoss(FloatingPointError):
    """A term of the loss became NaN or infinite; `term` is its name in the metrics."""

    def __init__(self, term: str) -> None:
        super().__init__(f"{term} is NaN or infinite")
        self.term = term


@dataclass(frozen=True)
class TrainingBatch:
    """What one forward pass is trained on, all of it drawn beforehand.

    Attributes:
        clean: z0, float32 (B, C, h, w), as the diffusion model sees latents.
        noise: ε ~ N(0, I), of the same shape.
        timesteps: (B,), as the path's `sample_timesteps` draws them.
        labels: int64 (B,), some replaced by the null label.
    """

    clean: Tensor
    noise: Tensor
    timesteps: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> TrainingBatch:
        """The batch on another device; where its tensors are pinned, without waiting for the copy."""
        moved = {name: value.to(device, non_blocking=True) for name, value in vars(self).items()}
        return TrainingBatch(**moved)


@dataclass(frozen=True)
class LatentPrediction:
    """What a perceptual term compares: the predicted and the true clean latent, and how noisy z_t was.

    Attributes:
        predicted: ẑ0, float32 (B, C, h, w); the term's gradient flows here.
        clean: z0, of the same shape.
        sigma: σ_t, float32 (B,).
        batch: where they come from.
    """

    predicted: Tensor
    clean: Tensor
    sigma: Tensor
    batch: TrainingBatch


@dataclass(frozen=True)
class TermValues:
    """A perceptual term's value, before its weight.

    Attributes:
        loss: the scalar, a mean over the whole batch.
        per_sample: (B,), detached, whose mean is `loss`; zero for samples that the term leaves out.
        details: whatever else is worth logging, by its name in the metrics; scalars, detached.
    """

    loss: Tensor
    per_sample: Tensor
    details: Terms = field(default_factory=dict)


class PerceptualTerm(Protocol):
    """A loss on ẑ0 that is added to the diffusion loss."""

    def __call__(self, prediction: LatentPrediction) -> TermValues:
        """The term's value; its gradient flows to `prediction.predicted` alone."""


class LatentPerceptualTerm:
    """L_LPL, with each block's share and outliers."""

    def __init__(self, config: PerceptualConfig, path: DiffusionPath, autoencoder: Autoencoder | None) -> None:
        if autoencoder is None:
            raise ValueError("autoencoder: got None; the latent perceptual loss needs the decoder it compares in")
        self.loss = LatentPerceptualLoss(
            autoencoder.model,
            blocks=config.blocks,
            sigma_threshold=config.sigma_threshold,
            normalization=config.normalization,
            outliers=config.outliers,
            depth_weights=config.depth_weights,
            reduction=config.reduction,
            variance_floor=config.variance_floor,
            dtype=getattr(torch, config.precision),
        )

    def __call__(self, prediction: LatentPrediction) -> TermValues:
        """See `PerceptualTerm`."""
        terms = self.loss(prediction.predicted, prediction.clean, prediction.sigma, return_terms=True)
        details: Terms = {f"loss/perceptual/{name}": value for name, value in terms.blocks.items()}
        details |= {f"outliers/{name}": value for name, value in terms.outlier_share.items()}
        details["passed"] = terms.passed / len(prediction.sigma)
        return TermValues(terms.loss, terms.per_sample, details)


# By the recipe's section that describes them; made from that section, the path and the autoencoder.
PERCEPTUAL_TERMS: dict[type[Section], Callable[[Any, DiffusionPath, Autoencoder | None], PerceptualTerm]] = {
    PerceptualConfig: LatentPerceptualTerm,
}


class Objective:
    """L_tot = weighting(t) · L_diff + w_LPL · L_LPL, and what it is made of.

    L_diff is the mean over the batch of each sample's mean squared error at the denoiser's output. Where the weight is
    "matched", it is 0 until `end_step` has seen `matching_batches` batches, and from then on the one under which
    Var(w · L_LPL) is `variance_fraction` of Var(ℓ2); see `VarianceMatchedWeight`.

    Args:
        path: from data to noise.
        autoencoder: whose decoder the perceptual term compares in; None where the recipe has no such term.
        config: the recipe's section `objective`.

    Example:
        >>> objective = Objective(FlowOT(), autoencoder, ObjectiveConfig(perceptual=PerceptualConfig(weight=0.1)))
        >>> loss, terms = objective(denoiser, batch)
    """

    def __init__(self, path: DiffusionPath, autoencoder: Autoencoder | None, config: ObjectiveConfig) -> None:
        self.path = path
        self.config = config
        self.term: PerceptualTerm | None = None
        self.matched: VarianceMatchedWeight | None = None
        self._unmatched: list[tuple[Tensor, Tensor]] = []  # per-sample losses of this step's batches
        perceptual = config.perceptual
        if perceptual is not None:
            self.term = PERCEPTUAL_TERMS[type(perceptual)](perceptual, path, autoencoder)
            if perceptual.weight == "matched":
                self.matched = VarianceMatchedWeight(perceptual.variance_fraction, perceptual.matching_batches)

    @property
    def weight(self) -> float:
        """w_LPL as of now."""
        if self.config.perceptual is None:
            return 0.0
        return self.matched.value if self.matched is not None else float(self.config.perceptual.weight)

    def __call__(self, denoiser: Denoiser, batch: TrainingBatch, gradient_ratio: bool = False) -> tuple[Tensor, Terms]:
        """The loss of one batch.

        Args:
            denoiser: called as `denoiser(latents, conditioning, labels)`.
            batch: what to train on.
            gradient_ratio: also measure ‖∇ w·L_LPL‖ / ‖∇ weighting·L_diff‖ at the denoiser's output, which takes one
                more gradient of each term down to there.

        Returns:
            The scalar to minimise, and the terms by their names in the metrics, detached: "loss", "loss/diffusion"
            (unweighted), "loss/diffusion_weighted" (where a weighting is set), "loss/perceptual" (unweighted),
            "perceptual_weight", the perceptual term's details and "gradient_ratio". No term waits for the device.

        Raises:
            NonFiniteLoss: the denoiser's output is not finite, so that there is nothing to compare.
        """
        noisy = self.path.add_noise(batch.clean, batch.noise, batch.timesteps)
        output = denoiser(noisy, self.path.conditioning(batch.timesteps), batch.labels).float()
        sigma = self.path.sigma(batch.timesteps)
        errors = self._squared_errors(output, batch)
        terms: Terms = {"loss/diffusion": errors.detach().mean()}
        diffusion = errors.mean()
        if self.config.weighting != "none":
            diffusion = (self._timestep_weights(sigma) * errors).mean()
            terms["loss/diffusion_weighted"] = diffusion.detach()
        loss = diffusion
        if self.term is not None:
            predicted = self.path.predicted_latent(output, noisy, batch.timesteps)
            values = self._compare(LatentPrediction(predicted, batch.clean, sigma, batch))
            self._keep_for_matching(errors, values)
            weighted = self.weight * values.loss
            loss = diffusion + weighted
            terms |= {"loss/perceptual": values.loss.detach(), **values.details, "perceptual_weight": self.weight}
            if gradient_ratio:
                terms["gradient_ratio"] = _gradient_ratio(weighted, diffusion, output)
        return loss, {"loss": loss.detach(), **terms}

    def end_step(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Takes this step's batches into a weight that is still being matched; otherwise does nothing.

        Args:
            gather: concatenates a tensor (N, …) of every process along its first dimension, as `Accelerator.gather`.

        Raises:
            NonFiniteLoss: a sample's loss is not finite.
        """
        if self.matched is None or self.matched.fixed or not self._unmatched:
            return
        losses = torch.stack([torch.cat(column) for column in zip(*self._unmatched, strict=True)], dim=1)
        every = gather(losses)
        batches = len(self._unmatched) * (len(every) // len(losses))
        self._unmatched.clear()
        for name, column in (("loss/diffusion", every[:, 0]), ("loss/perceptual", every[:, 1])):
            if not bool(torch.isfinite(column).all()):
                raise NonFiniteLoss(name)
        self.matched.update(every[:, 0], every[:, 1], batches)

    def state_dict(self) -> dict[str, float]:
        """The matched weight, or what has been measured for it so far; plain numbers."""
        return {} if self.matched is None else self.matched.state_dict()

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continues from `state_dict()`'s numbers."""
        if self.matched is not None:
            self.matched.load_state_dict(state)

    def _squared_errors(self, output: Tensor, batch: TrainingBatch) -> Tensor:
        """‖output − target‖² of each sample, as a mean over its values, (B,)."""
        target = self.path.target(batch.clean, batch.noise, batch.timesteps).float()
        return (output - target).square().flatten(1).mean(dim=1)

    def _timestep_weights(self, sigma: Tensor) -> Tensor:
        if self.config.weighting == "gated":
            return gated_weights(sigma, self.config.gate_gain, self.config.gate_sigma_threshold)
        return min_snr_weights(sigma, prediction_of(self.path), self.config.min_snr_gamma)

    def _compare(self, prediction: LatentPrediction) -> TermValues:
        """The perceptual term; without a graph where its weight is 0, as it is while being measured."""
        assert self.term is not None
        try:
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.weight > 0):
                return self.term(prediction)
        except ValueError as error:
            # A term may refuse latents that are not finite; that is a run that diverged, not a mistake of the caller.
            if bool(torch.isfinite(prediction.predicted).all()):
                raise
            raise NonFiniteLoss("loss/diffusion") from error

    def _keep_for_matching(self, errors: Tensor, values: TermValues) -> None:
        if self.matched is not None and not self.matched.fixed:
            self._unmatched.append((errors.detach(), values.per_sample.detach().to(errors)))


def prediction_of(path: DiffusionPath) -> Prediction:
    """What a denoiser trained on this path outputs."""
    return path.prediction_type if isinstance(path, DDPM) else "velocity"


def _gradient_ratio(perceptual: Tensor, diffusion: Tensor, output: Tensor) -> Tensor:
    """‖∂ perceptual/∂ output‖ / ‖∂ diffusion/∂ output‖, a detached scalar; 0 where the perceptual term has no graph."""
    if not perceptual.requires_grad:
        return torch.zeros_like(perceptual)
    above, below = (torch.autograd.grad(loss, output, retain_graph=True)[0].norm() for loss in (perceptual, diffusion))
    return above / below.clamp_min(torch.finfo(below.dtype).tiny)
