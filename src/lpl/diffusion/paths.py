"""Paths between data and noise: z_t = a_t z0 + b_t ε, what the denoiser predicts on them, and ẑ0 from it.

Reference: Berrada et al., *Boosting Latent Diffusion with Perceptual Objectives*, ICLR 2025; Ho et al., *Denoising
Diffusion Probabilistic Models*, 2020 (DDPM); Salimans & Ho, *Progressive Distillation*, 2022 (v-prediction); Esser et
al., *Scaling Rectified Flow Transformers*, 2024 (Flow-OT with logit-normal times, SD3).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..config import DiffusionConfig

PredictionType = Literal["epsilon", "v_prediction", "sample"]


def expand(values: Tensor, like: Tensor) -> Tensor:
    """Shapes per-sample values (B,) so that they multiply samples (B, …)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


class DiffusionPath(ABC):
    """A path z_t = a_t z0 + b_t ε with its training target.

    Times are what `sample_timesteps` draws: integers 0 … T−1 for DDPM, floats in [0, 1] for Flow-OT. All methods take
    them as a tensor of shape (B,) and latents as (B, C, H, W), or any shape that starts with B.
    """

    @abstractmethod
    def coefficients(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(a_t, b_t), each float32 of shape (B,)."""

    @abstractmethod
    def check_timesteps(self, timesteps: Tensor) -> None:
        """Refuses times that are none of the path's; waits for the device.

        Raises:
            ValueError: with what was given, and what is taken.
        """

    @abstractmethod
    def sample_timesteps(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws the training distribution of times, on the CPU, so that a seed means the same on every device."""

    @abstractmethod
    def conditioning(self, timesteps: Tensor) -> Tensor:
        """What the denoiser's timestep embedding is given: floats in [0, 1000], shape (B,)."""

    @abstractmethod
    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser is trained to output."""

    @abstractmethod
    def predicted_latent(self, output: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """ẑ0, the clean latent that an output implies at z_t."""

    @abstractmethod
    def predicted_noise(self, output: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """ε̂, the noise that an output implies at z_t."""

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t = a_t z0 + b_t ε."""
        a, b = self.coefficients(timesteps)
        return (expand(a, clean) * clean + expand(b, clean) * noise).to(clean.dtype)

    def sigma(self, timesteps: Tensor) -> Tensor:
        """σ_t = b_t / a_t, the noise-to-signal ratio, float32 of shape (B,); infinite where no signal is left."""
        a, b = self.coefficients(timesteps)
        return b / a

    @abstractmethod
    def probability_below(self, sigma: float) -> float:
        """P(σ_t ≤ sigma) over the times that training draws."""


class DDPM(DiffusionPath):
    """The variance-preserving path over T discrete steps: a_t = √ᾱ_t, b_t = √(1 − ᾱ_t).

    The betas are quadratic ("scaled linear"): √β runs evenly from √beta_start to √beta_end.

    Args:
        prediction_type: "epsilon" (target ε), "v_prediction" (target a_t ε − b_t z0) or "sample" (target z0).
        num_timesteps: T.
        beta_start: first β.
        beta_end: last β.

    Example:
        >>> path = DDPM("v_prediction")
        >>> timesteps = path.sample_timesteps(8)
        >>> noisy = path.add_noise(clean, noise, timesteps)
        >>> clean_hat = path.predicted_latent(denoiser(noisy, path.conditioning(timesteps)), noisy, timesteps)
    """

    def __init__(
        self,
        prediction_type: PredictionType = "epsilon",
        num_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
    ) -> None:
        if prediction_type not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(f"prediction_type: got {prediction_type!r}, takes 'epsilon', 'v_prediction' or 'sample'")
        if num_timesteps < 1:
            raise ValueError(f"num_timesteps: got {num_timesteps}, takes a positive integer")
        if not 0 < beta_start <= beta_end < 1:
            raise ValueError(f"beta_start, beta_end: got {beta_start}, {beta_end}, take 0 < start <= end < 1")
        self.prediction_type = prediction_type
        self.num_timesteps = num_timesteps
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=torch.float64) ** 2
        self.alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        # √ᾱ_t and √(1 − ᾱ_t), rounded last: 1 − ᾱ_t of the first steps has few digits in float32.
        self._coefficients = torch.stack([self.alphas_cumprod.sqrt(), (1 - self.alphas_cumprod).sqrt()]).float()

    def coefficients(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(√ᾱ_t, √(1 − ᾱ_t)), each float32 of shape (B,)."""
        if timesteps.is_floating_point():
            raise self._refusal(timesteps.dtype)
        if self._coefficients.device != timesteps.device:
            self._coefficients = self._coefficients.to(timesteps.device)
        a, b = self._coefficients[:, timesteps]
        return a, b

    def check_timesteps(self, timesteps: Tensor) -> None:
        """Takes integers from 0 to T − 1."""
        if timesteps.is_floating_point():
            raise self._refusal(timesteps.dtype)
        outside = timesteps[(timesteps < 0) | (timesteps >= self.num_timesteps)]
        if len(outside):
            raise self._refusal(outside[:5].tolist())

    def _refusal(self, given: object) -> ValueError:
        return ValueError(f"timesteps: got {given}, DDPM takes integers from 0 to {self.num_timesteps - 1}")

    def sample_timesteps(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """Uniform integers, int64 of shape (B,)."""
        return torch.randint(self.num_timesteps, (batch_size,), generator=generator)

    def probability_below(self, sigma: float) -> float:
        """The share of steps with σ_t ≤ sigma."""
        return float((self.sigma(torch.arange(self.num_timesteps)) <= sigma).double().mean())

    def conditioning(self, timesteps: Tensor) -> Tensor:
        """The step itself, on the scale of 1000 steps."""
        return timesteps.float() * (1000 / self.num_timesteps)

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """ε, a_t ε − b_t z0, or z0."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return clean
        a, b = self.coefficients(timesteps)
        return (expand(a, clean) * noise - expand(b, clean) * clean).to(clean.dtype)

    def predicted_latent(self, output: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """ẑ0 = (z_t − b_t ε̂)/a_t, a_t z_t − b_t v̂, or the output."""
        if self.prediction_type == "sample":
            return output
        a, b = (expand(value, noisy) for value in self.coefficients(timesteps))
        if self.prediction_type == "epsilon":
            return (noisy - b * output) / a
        return a * noisy - b * output

    def predicted_noise(self, output: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """ε̂ = the output, b_t z_t + a_t v̂, or (z_t − a_t ẑ0)/b_t."""
        if self.prediction_type == "epsilon":
            return output
        a, b = (expand(value, noisy) for value in self.coefficients(timesteps))
        if self.prediction_type == "v_prediction":
            return b * noisy + a * output
        return (noisy - a * output) / b


class FlowOT(DiffusionPath):
    """The straight path of optimal-transport flow matching: a_t = 1 − t, b_t = t, target ε − z0.

    Args:
        logit_mean: mean of the normal whose sigmoid is t.
        logit_std: its standard deviation; SD3's setting is (0, 1).

    Example:
        >>> path = FlowOT()
        >>> timesteps = path.sample_timesteps(8)  # in (0, 1); 0 is data, 1 is noise
    """

    def __init__(self, logit_mean: float = 0.0, logit_std: float = 1.0) -> None:
        if logit_std <= 0:
            raise ValueError(f"logit_std: got {logit_std}, takes a positive number")
        self.logit_mean = logit_mean
        self.logit_std = logit_std

    def coefficients(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(1 − t, t), each float32 of shape (B,)."""
        timesteps = timesteps.float()
        return 1 - timesteps, timesteps

    def check_timesteps(self, timesteps: Tensor) -> None:
        """Takes numbers from 0 to 1."""
        outside = timesteps[~((timesteps >= 0) & (timesteps <= 1))]
        if len(outside):
            raise ValueError(
                f"timesteps: got {outside[:5].tolist()}, Flow-OT takes numbers from 0, data, to 1, noise; a denoiser's "
                "conditioning is 1000 times that"
            )

    def sample_timesteps(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """t = sigmoid(N(logit_mean, logit_std²)), float32 of shape (B,)."""
        return torch.sigmoid(self.logit_mean + self.logit_std * torch.randn(batch_size, generator=generator))

    def probability_below(self, sigma: float) -> float:
        """Φ((ln sigma − logit_mean) / logit_std): σ_t = t / (1 − t) is log-normal."""
        return NormalDist(self.logit_mean, self.logit_std).cdf(math.log(sigma)) if sigma > 0 else 0.0

    def conditioning(self, timesteps: Tensor) -> Tensor:
        """1000 t."""
        return timesteps.float() * 1000

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The velocity ε − z0, which does not depend on t."""
        return noise - clean

    def predicted_latent(self, output: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """ẑ0 = z_t − t v̂."""
        _, t = self.coefficients(timesteps)
        return noisy - expand(t, noisy) * output

    def predicted_noise(self, output: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """ε̂ = z_t + (1 − t) v̂."""
        one_minus_t, _ = self.coefficients(timesteps)
        return noisy + expand(one_minus_t, noisy) * output


def make_path(config: DiffusionConfig) -> DiffusionPath:
    """The path that a recipe asks for."""
    if config.path == "ddpm":
        return DDPM(config.prediction_type, config.num_timesteps, config.beta_start, config.beta_end)
    return FlowOT(config.logit_mean, config.logit_std)
