"""A.1 for a real decoder: its local metric JᵀJ, and how far its linear approximation (13)–(14) holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..autoencoders import Autoencoder
from ..data import seeded_generator
from .inputs import AnalysisError, Track, decode_map, untracked
from .jacobian import LocalMetric, Ritz, Sensitivities, channel_sensitivities, lanczos, second_moment
from .predictors import Predictor

SIGMAS = (0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
PREDICTION_SIGMAS = (0.01, 0.03, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 1.7, 3.0, 5.0, 9.0)
TOLERANCES = (0.1, 0.5)  # relative errors of the linear approximation whose σ is reported


@dataclass(frozen=True)
class MetricAt:
    """The decoder's metric G = JᵀJ at one latent; images in [−1, 1], latents as the diffusion model sees them.

    Attributes:
        ritz: of the Lanczos run.
        channels: mean diagonal of G by channel.
        mean_eigenvalue: tr G/m.
        effective_rank: (tr G)²/tr G²: how many equal eigenvalues would have this spread; at most m.
        dimension: m, values of the latent.
        largest_step: what the latent decodes to after a step along the eigenvector of λ_max, (3, H, W).
        smallest_step: the same for that of λ_min, a step of equal length.
        reference: what the latent itself decodes to.
    """

    ritz: Ritz
    channels: Sensitivities
    mean_eigenvalue: float
    effective_rank: float
    dimension: int
    largest_step: Tensor
    smallest_step: Tensor
    reference: Tensor

    @property
    def largest(self) -> float:
        """λ_max, a lower bound within its residual."""
        return float(self.ritz.values[-1])

    @property
    def smallest(self) -> float:
        """λ_min, an upper bound; the true one may be smaller by the residual, and by `precision`."""
        return max(float(self.ritz.values[0]), 0.0)

    @property
    def precision(self) -> float:
        """How exactly any eigenvalue is known at best: some roundings of the decoder's arithmetic, times λ_max."""
        return 10 * torch.finfo(self.reference.dtype).eps * self.largest

    @property
    def condition(self) -> float:
        """λ_max/λ_min, a lower bound; infinite where λ_min is zero to rounding."""
        return self.largest / self.smallest if self.smallest > 0 else float("inf")

    @property
    def bound_over_mean(self) -> float:
        """mean λ/λ_min: by how much eq. (12) exceeds the exact penalty for errors in random directions."""
        return self.mean_eigenvalue / self.smallest if self.smallest > 0 else float("inf")


@dataclass(frozen=True)
class TaylorStudy:
    """How well F(z0 + e) ≈ F(z0) + J e holds for errors e of the latent that grow.

    Attributes:
        sigmas: of white noise e = σn the standard deviation; of a prediction's error e = ẑ0 − z0 the noise σ_t.
        errors: ‖F(z0 + e) − F(z0) − Je‖ / ‖F(z0 + e) − F(z0)‖, float64 (N, S), each a mean over draws.
        crossings: tolerance → σ at which the mean error passes it, None where it does not within the range.
        latent_errors: root mean square of e, (S,); σ itself for white noise.
        predictor: what predicted ẑ0; empty for white noise.
    """

    sigmas: tuple[float, ...]
    errors: np.ndarray
    crossings: dict[float, float | None]
    latent_errors: np.ndarray
    predictor: str = ""

    def reached(self, tolerance: float, symbol: str) -> str:
        """Where the mean error passes a tolerance, in words."""
        sigma = self.crossings[tolerance]
        if sigma is None:
            return f"not reached by {symbol} = {self.sigmas[-1]:g}"
        return f"at {symbol} {'≤' if sigma <= self.sigmas[0] else '='} {sigma:.2g}"


def metric_at(
    autoencoder: Autoencoder,
    latent: Tensor,
    steps: int = 200,
    probes: int = 4,
    step_length: float = 0.1,
    seed: int = 0,
    track: Track = untracked,
) -> MetricAt:
    """Measures the decoder's metric at one latent.

    Args:
        autoencoder: to look at.
        latent: (1, C, h, w).
        steps: products of the Lanczos run; more bring the smallest eigenvalue closer.
        probes: random sign vectors for each trace.
        step_length: length of the steps that are shown, as a share of the latent's norm.
        seed: of everything random.
        track: shows progress.

    Raises:
        AnalysisError: fewer than 2 steps, or no probe.
    """
    if steps < 2:
        raise AnalysisError(f"steps: got {steps}, takes 2 or more")
    if probes < 1:
        raise AnalysisError(f"probes: got {probes}, takes 1 or more")
    decode = decode_map(autoencoder)
    metric = LocalMetric(decode, latent)

    def multiply(vector: Tensor) -> Tensor:
        product = metric.multiply(vector.reshape(latent.shape).to(latent))
        return product.flatten().cpu().double()

    steps = min(steps, metric.dimension)
    ritz = lanczos(multiply, metric.dimension, track(range(steps), "Eigenvalues of JᵀJ"), seed)
    channels = channel_sensitivities(metric, probes, seed)
    mean = float(channels.mean.mean())
    length = step_length * float(latent.norm())
    shown = [latent + length * vector.reshape(latent.shape).to(latent) for vector in (ritz.highest, ritz.lowest)]
    pictures = autoencoder.decode(torch.cat([*shown, latent])).cpu()
    return MetricAt(
        ritz=ritz,
        channels=channels,
        mean_eigenvalue=mean,
        effective_rank=(mean * metric.dimension) ** 2 / second_moment(metric, probes, seed),
        dimension=metric.dimension,
        largest_step=pictures[0],
        smallest_step=pictures[1],
        reference=pictures[2],
    )


def study_taylor(
    autoencoder: Autoencoder,
    latents: Tensor,
    sigmas: Sequence[float] = SIGMAS,
    draws: int = 2,
    seed: int = 0,
    track: Track = untracked,
) -> TaylorStudy:
    """Compares the decoder with its linear approximation, (13), as white noise on the latent grows.

    Args:
        autoencoder: to look at.
        latents: (N, C, h, w).
        sigmas: standard deviations of the error, positive, ascending.
        draws: directions n for each latent.
        seed: of the directions.
        track: shows progress.

    Raises:
        AnalysisError: sigmas that are not positive and ascending.
    """
    _check_sigmas(sigmas)
    decode = decode_map(autoencoder)
    errors = np.zeros((len(latents), len(sigmas)))
    jobs = [(index, draw) for index in range(len(latents)) for draw in range(draws)]
    for index, draw in track(jobs, "Linear approximation"):
        direction = torch.randn(latents[:1].shape, generator=seeded_generator(seed, index, draw)).to(latents)
        metric = LocalMetric(decode, latents[index : index + 1])
        slope = metric.push(direction)
        errors[index] += [linearisation_error(metric, sigma * direction, sigma * slope) for sigma in sigmas]
    return _taylor(sigmas, errors / draws, np.array(sigmas), "")


def study_predictions(
    autoencoder: Autoencoder,
    latents: Tensor,
    predictor: Predictor,
    sigmas: Sequence[float] = PREDICTION_SIGMAS,
    seed: int = 0,
    track: Track = untracked,
) -> TaylorStudy:
    """The same for the errors that training sees, ẑ0 − z0 at noise σ_t: up to which σ_t do (13) and (14) hold?

    Args:
        autoencoder: to look at.
        latents: z0, (N, C, h, w).
        predictor: gives ẑ0.
        sigmas: σ_t, positive, ascending.
        seed: of the noise.
        track: shows progress.

    Raises:
        AnalysisError: sigmas that are not positive and ascending.
    """
    _check_sigmas(sigmas)
    decode = decode_map(autoencoder)
    errors, squares = (np.zeros((len(latents), len(sigmas))) for _ in range(2))
    for index in track(range(len(latents)), "Linear approximation at ẑ0"):
        clean = latents[index : index + 1]
        metric = LocalMetric(decode, clean)
        noise = torch.randn(clean.shape, generator=seeded_generator(seed, index)).to(clean)
        for column, sigma in enumerate(sigmas):
            change = predictor(clean, noise, sigma, torch.tensor([index])) - clean
            errors[index, column] = linearisation_error(metric, change, metric.push(change))
            squares[index, column] = float(change.double().square().mean())
    return _taylor(sigmas, errors, np.sqrt(squares.mean(axis=0)), predictor.name)


@torch.no_grad()
def linearisation_error(metric: LocalMetric, change: Tensor, linear: Tensor) -> float:
    """‖F(z + e) − F(z) − Je‖ / ‖F(z + e) − F(z)‖ for one change e of z, given Je."""
    actual = metric.function(metric.point + change) - metric.value
    return float((actual - linear).norm() / actual.norm())


def _check_sigmas(sigmas: Sequence[float]) -> None:
    if not sigmas or min(sigmas) <= 0 or list(sigmas) != sorted(set(sigmas)):
        raise AnalysisError(f"sigmas: got {list(sigmas)}, takes positive numbers in ascending order")


def _taylor(sigmas: Sequence[float], errors: np.ndarray, latent_errors: np.ndarray, predictor: str) -> TaylorStudy:
    crossings = {tolerance: crossing(sigmas, errors.mean(axis=0), tolerance) for tolerance in TOLERANCES}
    return TaylorStudy(tuple(sigmas), errors, crossings, latent_errors, predictor)


def crossing(sigmas: Sequence[float], errors: np.ndarray, tolerance: float) -> float | None:
    """σ at which the error first passes a tolerance, interpolated on a logarithmic σ; None if it never does."""
    above = np.nonzero(errors > tolerance)[0]
    if len(above) == 0:
        return None
    last = int(above[0])
    if last == 0:
        return float(sigmas[0])
    logs, (low, high) = np.log(sigmas), (errors[last - 1], errors[last])
    share = (tolerance - low) / (high - low)
    return float(np.exp(logs[last - 1] + share * (logs[last] - logs[last - 1])))
