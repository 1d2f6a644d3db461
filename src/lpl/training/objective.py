"""The training objective: L_tot = weighting(t) · L_diff + w · L_perceptual.

The perceptual terms are in `lpl.training.terms`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..autoencoders import Autoencoder
from ..config import ObjectiveConfig
from ..diffusion.guidance import Denoiser
from ..diffusion.paths import DDPM, DiffusionPath
from ..losses.streaming import FLOAT16_SCALE, HandedBack, gradient_of
from ..losses.timesteps import Prediction, gated_weights, min_snr_weights
from .terms import LatentPrediction, TermParts, Terms, TrainingBatch
from .weighting import NonFiniteLoss, WeightedTerm

__all__ = ["NonFiniteLoss", "Objective", "Terms", "TrainingBatch", "prediction_of"]


class Objective:
    """L_tot = weighting(t) · L_diff + w · L_perceptual, and what it is made of.

    L_diff is the mean over the batch of each sample's mean squared error at the denoiser's output. Where the weight is
    "matched", it is 0 until `end_step` has seen `matching_batches` batches, and from then on the one under which
    Var(w · L_perceptual) is `variance_fraction` of Var(ℓ2); see `VarianceMatchedWeight`. Where the gain of eq. (15) is
    "measured", it is likewise 0 until then.

    Args:
        path: from data to noise.
        autoencoder: whose decoder the latent perceptual loss compares in; None where the recipe has no such term.
        config: the recipe's section `objective`.
        parts: what else terms are made from; by default the path and the autoencoder alone.

    Example:
        >>> objective = Objective(FlowOT(), autoencoder, ObjectiveConfig(perceptual=PerceptualConfig(weight=0.1)))
        >>> loss, terms = objective(denoiser, batch)
    """

    def __init__(
        self,
        path: DiffusionPath,
        autoencoder: Autoencoder | None,
        config: ObjectiveConfig,
        parts: TermParts | None = None,
    ) -> None:
        self.path = path
        self.config = config
        parts = parts or TermParts(path, autoencoder)
        self.term = WeightedTerm(config.perceptual, parts) if config.perceptual is not None else None
        self.gauge = WeightedTerm(config.gate_perceptual, parts, gauge=True) if config.gate_perceptual else None

    @property
    def weight(self) -> float:
        """w of the perceptual term as of now."""
        return self.term.weight if self.term is not None else 0.0

    @property
    def gate_gain(self) -> float:
        """What eq. (15) adds to the weight of samples with σ_t ≤ τ_σ, as of now."""
        return self.gauge.gain if self.gauge is not None else float(self.config.gate_gain)

    @property
    def facts(self) -> dict[str, Any]:
        """What the recipe does not fix and the terms depend on, as JSON."""
        named = {"perceptual": self.term, "gate_perceptual": self.gauge}
        return {key: dict(term.facts) for key, term in named.items() if term is not None and term.facts}

    def __call__(self, denoiser: Denoiser, batch: TrainingBatch, gradient_ratio: bool = False) -> tuple[Tensor, Terms]:
        """The loss of one batch.

        Args:
            denoiser: called as `denoiser(latents, conditioning, labels)`.
            batch: what to train on.
            gradient_ratio: also measure ‖∇ w·L_perceptual‖ / ‖∇ weighting·L_diff‖ at the denoiser's output. The
                perceptual term's gradient is then taken here, once, and handed back in the loss's backward pass.

        Returns:
            The scalar to minimise, and the terms by their names in the metrics, detached: "loss", "loss/diffusion"
            (unweighted), "loss/diffusion_weighted" (where a weighting is set), "gate_gain" (where it is measured),
            "loss/perceptual" (unweighted), "perceptual_weight", the perceptual term's details and "gradient_ratio". No
            term waits for the device.

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
        if self.term is not None or self.gauge is not None:
            predicted = self.path.predicted_latent(output, noisy, batch.timesteps)
            prediction = LatentPrediction(predicted, batch.clean, sigma, batch)
            if self.gauge is not None:
                self.gauge.measure(prediction, errors)
                terms["gate_gain"] = self.gate_gain
            if self.term is not None:
                values = self.term(prediction, errors)
                weighted = self.weight * values.loss
                terms |= {"loss/perceptual": values.loss.detach(), **values.details, "perceptual_weight": self.weight}
                if gradient_ratio:
                    weighted, terms["gradient_ratio"] = _with_gradient_ratio(weighted, diffusion, output)
                loss = diffusion + weighted
        return loss, {"loss": loss.detach(), **terms}

    def end_step(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Takes this step's batches into a weight or a gain that is still being measured; otherwise does nothing.

        Args:
            gather: concatenates a tensor (N, …) of every process along its first dimension, as `Accelerator.gather`.

        Raises:
            NonFiniteLoss: a sample's loss is not finite.
        """
        for term in (self.term, self.gauge):
            if term is not None:
                term.end_step(gather)

    def state_dict(self) -> dict[str, float]:
        """What has been measured for the weight and the gain, so far or for good; plain numbers."""
        state = self.term.state_dict() if self.term is not None else {}
        gain = self.gauge.state_dict() if self.gauge is not None else {}
        return state | {f"gate.{name}": value for name, value in gain.items()}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continues from `state_dict()`'s numbers."""
        gain = {name.removeprefix("gate."): value for name, value in state.items() if name.startswith("gate.")}
        if self.term is not None:
            self.term.load_state_dict({name: value for name, value in state.items() if not name.startswith("gate.")})
        if self.gauge is not None:
            self.gauge.load_state_dict(gain)

    def _squared_errors(self, output: Tensor, batch: TrainingBatch) -> Tensor:
        """‖output − target‖² of each sample, as a mean over its values, (B,)."""
        target = self.path.target(batch.clean, batch.noise, batch.timesteps).float()
        return (output - target).square().flatten(1).mean(dim=1)

    def _timestep_weights(self, sigma: Tensor) -> Tensor:
        if self.config.weighting == "gated":
            return gated_weights(sigma, self.gate_gain, self.config.gate_sigma_threshold)
        return min_snr_weights(sigma, prediction_of(self.path), self.config.min_snr_gamma)


def prediction_of(path: DiffusionPath) -> Prediction:
    """What a denoiser trained on this path outputs."""
    return path.prediction_type if isinstance(path, DDPM) else "velocity"


def _with_gradient_ratio(perceptual: Tensor, diffusion: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """The perceptual term with its gradient at the output taken already, and ‖that gradient‖ / ‖∂ diffusion/∂ output‖.

    Both are scalars, the ratio detached; it is 0 where the perceptual term has no graph.
    """
    if not perceptual.requires_grad:
        return perceptual, torch.zeros_like(perceptual)
    gradient = gradient_of(perceptual, output, FLOAT16_SCALE)  # a term may compute in float16
    (below,) = torch.autograd.grad(diffusion, output, retain_graph=True)
    ratio = gradient.norm() / below.norm().clamp_min(torch.finfo(below.dtype).tiny)
    return HandedBack.apply(output, perceptual.detach(), gradient), ratio
