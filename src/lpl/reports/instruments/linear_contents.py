"""What the page reads of the JSON file that `lpl analyze linear` writes."""

from __future__ import annotations

from pydantic import BaseModel

from lpl.reports.instruments.contents import AnalysisFile, Image, Number, Numbers


class Metric(BaseModel):
    """JᵀJ at one latent."""

    dimension: int
    largest_eigenvalue: Number
    smallest_eigenvalue_at_most: Number
    condition_at_least: Number
    mean_eigenvalue: Number
    effective_rank: Number
    bound_over_mean_at_least: Number
    ritz_values: Numbers
    ritz_weights: Numbers
    channels: Numbers
    channels_standard_error: Numbers


class LinearImage(Image):
    """With its metric, where it was measured."""

    largest_step: str | None = None
    smallest_step: str | None = None
    metric: Metric | None = None


class LatentChannels(BaseModel):
    """By latent channel, over all images."""

    sensitivity: Numbers
    latent_variance: Numbers
    energy_share: Numbers
    anisotropy: Number


class Tightness(BaseModel):
    """Bound (12) over the exact penalty."""

    smallest: Number
    median: Number
    largest: Number


class MonteCarlo(BaseModel):
    """A divergence by sampling, and exact."""

    estimate: Number
    standard_error: Number
    exact: Number


class Equations(BaseModel):
    """Equations (10)–(12) for a random linear decoder."""

    shape: str
    image_values: int
    latent_values: int
    identity_error: Number
    printed_error: Number
    monte_carlo: MonteCarlo
    tightness: Tightness


class Taylor(BaseModel):
    """The linear approximation's relative error by σ."""

    sigmas: list[float]
    errors: list[Numbers]
    mean: Numbers
    sigma_at: dict[str, Number]


class LinearResults(BaseModel):
    """Appendix A.1."""

    equations: list[Equations]
    channels: LatentChannels
    step_length: float
    taylor: Taylor
    taylor_of_predictions: Taylor | None = None


class LinearFile(AnalysisFile):
    """Of `lpl analyze linear`."""

    images: list[LinearImage]
    results: LinearResults
