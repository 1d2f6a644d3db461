"""ẑ0 at a given noise: by a trained denoiser, or by the posterior mean of a Gaussian in its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..autoencoders import Autoencoder
from ..config import Recipe
from ..diffusion.paths import DDPM, DiffusionPath, FlowOT, make_path
from .inputs import AnalysisError, Pictures


class Predictor(Protocol):
    """Whatever predicts clean latents from noisy ones."""

    @property
    def name(self) -> str:
        """What to call it in reports."""

    def __call__(self, clean: Tensor, noise: Tensor, sigma: float, indices: Tensor) -> Tensor:
        """ẑ0 (B, C, h, w) from z_t made of `clean` and `noise` at σ_t = `sigma`; `indices` of the images."""


@dataclass(frozen=True)
class GaussianLatents:
    """A stationary Gaussian fitted to latents: the covariance of their channels, and the spectrum of each component.

    With z − mean = U y, U the eigenvectors of the channels' covariance, component c of y has power S_c(k) at spatial
    frequency k, the same in all directions. The posterior mean given z0 + σε is then Wiener's filter
    S_c/(S_c + σ²) on each component.

    Attributes:
        mean: of each channel, (C,).
        basis: U, (C, C).
        power: S_c(k) on the grid of the FFT, (C, h, w); white for a model that ignores neighbours.
        name: for reports.
    """

    mean: Tensor
    basis: Tensor
    power: Tensor
    name: str

    def __call__(self, clean: Tensor, noise: Tensor, sigma: float, indices: Tensor) -> Tensor:
        """See `Predictor`."""
        return self.posterior_mean(clean + sigma * noise, sigma)

    def posterior_mean(self, observed: Tensor, sigma: float) -> Tensor:
        """E[z0 | z0 + σε] for observations z0 + σε = z_t/a_t, (B, C, h, w)."""
        centred = observed - self.mean[:, None, None]
        components = torch.fft.fft2(torch.einsum("ck,bchw->bkhw", self.basis, centred))
        filtered = torch.fft.ifft2(components * (self.power / (self.power + sigma**2))).real
        return torch.einsum("ck,bkhw->bchw", self.basis, filtered) + self.mean[:, None, None]

    def explained(self, sigma: float) -> float:
        """Share of the variance that the posterior mean explains, Σ S²/(S + σ²) / Σ S."""
        return float((self.power.square() / (self.power + sigma**2)).sum() / self.power.sum())


def fit_gaussian(latents: Tensor, neighbours: bool = True) -> GaussianLatents:
    """Fits the Gaussian to latents (N, C, h, w).

    Args:
        latents: as the diffusion model sees them.
        neighbours: whether it knows that positions are alike; without, it sees the channels' covariance alone, and
            predicts far worse than any trained denoiser.
    """
    mean = latents.mean(dim=(0, 2, 3))
    centred = latents - mean[:, None, None]
    covariance = torch.einsum("bchw,bdhw->cd", centred, centred) / (centred.numel() / len(mean))
    variances, basis = torch.linalg.eigh(covariance)
    height, width = latents.shape[-2:]
    if not neighbours:
        flat = variances.clamp_min(0)[:, None, None].expand(-1, height, width).contiguous()
        return GaussianLatents(mean, basis, flat, "Gaussian, channel covariance")
    components = torch.einsum("ck,bchw->bkhw", basis, centred)
    power = torch.fft.fft2(components).abs().square().mean(dim=0) / (height * width)
    return GaussianLatents(mean, basis, _ring_means(power), "Gaussian, channel covariance and spectrum")


def _ring_means(power: Tensor) -> Tensor:
    """(C, h, w) with every value replaced by the mean over its ring of frequencies."""
    height, width = power.shape[-2:]
    rows, columns = torch.fft.fftfreq(height), torch.fft.fftfreq(width)
    scaled = (rows[:, None].square() + columns.square()).sqrt() * max(height, width)
    ring = scaled.round().long().flatten().to(power.device)
    total = torch.zeros(len(power), int(ring.max()) + 1, device=power.device).index_add_(1, ring, power.flatten(1))
    return (total / torch.bincount(ring).clamp_min(1))[:, ring].reshape(power.shape)


@dataclass(frozen=True)
class DenoiserPredictor:
    """A trained denoiser.

    Attributes:
        denoiser: called as `denoiser(latents, conditioning, labels)`.
        path: that it was trained on.
        labels: of each image, int64 (N,).
        name: for reports.
    """

    denoiser: Any
    path: DiffusionPath
    labels: Tensor
    name: str

    @torch.no_grad()
    def __call__(self, clean: Tensor, noise: Tensor, sigma: float, indices: Tensor) -> Tensor:
        """See `Predictor`."""
        timesteps = timestep_at(self.path, sigma).expand(len(clean)).to(clean.device)
        noisy = self.path.add_noise(clean, noise, timesteps)
        labels = self.labels[indices].to(clean.device)
        output = self.denoiser(noisy, self.path.conditioning(timesteps), labels).float()
        return self.path.predicted_latent(output, noisy, timesteps)


def timestep_at(path: DiffusionPath, sigma: float) -> Tensor:
    """The time at which σ_t is nearest to σ, shape (1,): exactly so for Flow-OT, t = σ/(1 + σ)."""
    if isinstance(path, FlowOT):
        return torch.tensor([sigma / (1 + sigma)])
    if not isinstance(path, DDPM):
        raise AnalysisError(f"path: got {type(path).__name__}, takes DDPM or FlowOT")
    sigmas = path.sigma(torch.arange(path.num_timesteps))
    return (sigmas.log() - torch.tensor(sigma).log()).abs().argmin().reshape(1)


def output_slope(path: DiffusionPath, sigma: float) -> float:
    """|∂ẑ0/∂output|: t for Flow-OT; b/a, b or 1 for DDPM's ε, v and z0."""
    time = timestep_at(path, sigma)
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    return float((path.predicted_latent(one, zero, time) - path.predicted_latent(zero, zero, time)).abs())


@dataclass(frozen=True)
class TrainedRun:
    """A run's denoiser with what is known of its training.

    Attributes:
        denoiser: in evaluation mode.
        recipe: that it was trained with.
        classes: that its labels name.
        name: for reports.
    """

    denoiser: Any
    recipe: Recipe
    classes: tuple[str, ...]
    name: str

    def predictor(self, pictures: Pictures) -> DenoiserPredictor:
        """The denoiser as a predictor for these images, conditioned on their classes where it knows them.

        Raises:
            AnalysisError: it doesn't know the classes, and was never trained without one.
        """
        path = make_path(self.recipe.diffusion)
        if pictures.classes == self.classes:
            return DenoiserPredictor(self.denoiser, path, torch.tensor(pictures.labels), self.name)
        if self.recipe.denoiser.label_dropout == 0:
            raise AnalysisError(
                f"denoiser: {self.name} knows the classes {', '.join(self.classes[:10])} and was never trained without "
                f"one; the data has {', '.join(pictures.classes[:10])}"
            )
        labels = torch.full((len(pictures.images),), self.denoiser.null_label)
        return DenoiserPredictor(self.denoiser, path, labels, f"{self.name}, without classes")


def open_denoiser(run: str | Path, autoencoder: Autoencoder, resolution: int) -> TrainedRun:
    """Loads a run's denoiser.

    Args:
        run: its folder, or one of its checkpoints.
        autoencoder: whose latents it is to denoise.
        resolution: of the images, pixels a side.

    Raises:
        AnalysisError: the folder has no complete checkpoint, or it was trained on other latents.
    """
    from ..training.checkpoints import CheckpointError, read_state  # nothing else here needs the trainer
    from ..training.loading import load_denoiser

    try:
        denoiser, recipe, information = load_denoiser(run, device=autoencoder.device)
    except CheckpointError as error:
        raise AnalysisError(f"denoiser: {error}") from error
    trained, given = tuple(information["latent_shape"]), autoencoder.latent_shape(resolution)
    if trained[0] != given[0]:
        raise AnalysisError(
            f"denoiser: {run} was trained on latents of {trained[0]} channels, this autoencoder has {given[0]}"
        )
    latents = read_state(Path(information["checkpoint"]))["latents"]
    same_precision = latents["precision"] == str(autoencoder.dtype).removeprefix("torch.")
    if same_precision and latents["autoencoder"] != autoencoder.fingerprint():
        raise AnalysisError(f"denoiser: {run} was trained on latents of another autoencoder, {recipe.autoencoder.path}")
    if trained != given:
        raise AnalysisError(
            f"resolution: got {resolution}, latents of {given[1]} × {given[2]}; {run} was trained on {trained[1]} × "
            f"{trained[2]}, at {recipe.data.resolution} pixels"
        )
    name = f"{Path(run).name}, step {information['step']}"
    return TrainedRun(denoiser, recipe, tuple(information["classes"]), name)
