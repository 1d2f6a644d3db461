"""What a perceptual term is given, what it is made from, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...autoencoders import Autoencoder
from ...config import LatentClassifierConfig
from ...data import seeded_generator
from ...diffusion.paths import DiffusionPath
from ...errors import LplError

Terms = dict[str, Tensor | float]


class TermError(LplError, ValueError):
    """A perceptual term that can't be made as its section says; the message begins with the key."""


@dataclass(frozen=True)
class TrainingBatch:
    """What one forward pass is trained on, all of it drawn beforehand.

    Attributes:
        clean: z0, float32 (B, C, h, w), as the diffusion model sees latents.
        noise: ε ~ N(0, I), of the same shape.
        timesteps: (B,), as the path's `sample_timesteps` draws them.
        labels: int64 (B,), some replaced by the null label.
        seed: words that no other batch of a run has, for what a term draws at random.
    """

    clean: Tensor
    noise: Tensor
    timesteps: Tensor
    labels: Tensor
    seed: tuple[int, ...] = (0,)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name; each has one entry a sample."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def to(self, device: torch.device) -> TrainingBatch:
        """The batch on another device; where its tensors are pinned, without waiting for the copy."""
        moved = {name: value.to(device, non_blocking=True) for name, value in self.tensors.items()}
        return TrainingBatch(**moved, seed=self.seed)

    def pinned(self) -> TrainingBatch:
        """The batch in page-locked memory, from which a GPU copies while it computes."""
        return TrainingBatch(**{name: value.pin_memory() for name, value in self.tensors.items()}, seed=self.seed)

    def generator(self) -> torch.Generator:
        """A CPU generator for a term's own draws: the same for this batch in a run that was resumed."""
        return seeded_generator(*self.seed)


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

    def part(self, indices: Tensor) -> LatentPrediction:
        """Some of the samples."""
        part = {name: value[indices] for name, value in self.batch.tensors.items()}
        batch = TrainingBatch(**part, seed=self.batch.seed)
        return LatentPrediction(self.predicted[indices], self.clean[indices], self.sigma[indices], batch)


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

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the recipe does not fix and the term depends on, as JSON; a run is resumed only where it is the same."""

    def __call__(self, prediction: LatentPrediction) -> TermValues:
        """The term's value; its gradient flows to `prediction.predicted` alone."""


@dataclass(frozen=True)
class TermParts:
    """What terms are made from; a term says so where something it needs is missing.

    Attributes:
        path: from data to noise.
        autoencoder: the one whose latents are trained on.
        decoder: the same one in the precision that a term asks for, where that is more than the autoencoder's.
        denoiser: with the weights that training starts from; a term that keeps it makes a copy.
        origin: tells those weights from others; None where they are random.
        classifier: gives the folder of a classifier of the latents trained on, training it first where that has not
            been done.
        device: where to compute.
    """

    path: DiffusionPath
    autoencoder: Autoencoder | None = None
    decoder: Autoencoder | None = None
    denoiser: nn.Module | None = None
    origin: str | None = None
    classifier: Callable[[LatentClassifierConfig], Path] | None = None
    device: torch.device | str = "cpu"
