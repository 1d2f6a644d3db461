"""Fréchet distance between Gaussians fitted to features: with Inception's features, the FID.

Reference: Heusel et al., *GANs Trained by a Two Time-Scale Update Rule*, NeurIPS 2017; Dowson & Landau, *The Fréchet
Distance between Multivariate Normal Distributions*, 1982.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import TooFewSamplesError, check_feature_pair, check_features

AMPLE = 10  # images a feature from which on the bias of the distance is not remarked upon


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian fitted to features.

    Attributes:
        mean: float64 (D,).
        covariance: float64 (D, D), symmetric.
    """

    mean: Tensor
    covariance: Tensor


def fit_gaussian(features: Tensor) -> Gaussian:
    """Mean and unbiased covariance of features.

    Args:
        features: float (N, D), N at least 2.

    Returns:
        The Gaussian, in float64.

    Raises:
        TooFewSamplesError: fewer than two samples.
        TypeError, ValueError: features of another kind.
    """
    features = check_features(features)
    if len(features) < 2:
        raise TooFewSamplesError(f"a covariance needs at least 2 samples, got {len(features)}")
    mean = features.mean(dim=0)
    centred = features - mean
    return Gaussian(mean, centred.T @ centred / (len(features) - 1))


def gaussian_frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """d² = ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁ Σ₂)^½.

    The last trace is the sum of the singular values of Σ₁^½ Σ₂^½, that is of the square roots of the eigenvalues of
    Σ₁^½ Σ₂ Σ₁^½: real and non-negative by construction, also where a covariance is singular.

    Args:
        first: of D dimensions.
        second: of D dimensions.

    Returns:
        The squared distance, at least 0.

    Raises:
        ValueError: the dimensions differ.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"the Gaussians have {len(first.mean)} and {len(second.mean)} dimensions")
    shift = (first.mean - second.mean).square().sum()
    product = _square_root(first.covariance) @ _square_root(second.covariance)
    spread = first.covariance.trace() + second.covariance.trace() - 2 * torch.linalg.svdvals(product).sum()
    return max(0.0, (shift + spread).item())  # rounding can leave −1e-15 for equal Gaussians


def frechet_distance(samples: Tensor, reference: Tensor) -> float:
    """Fréchet distance between the Gaussians fitted to two sets of features.

    Args:
        samples: float (N, D).
        reference: float (M, D).

    Returns:
        The squared distance (what is reported as FID), at least 0.

    Raises:
        TooFewSamplesError: N or M is not above D, so that a covariance is singular and the distance mostly bias.
        TypeError, ValueError: features of another kind, or of different dimensions.
    """
    samples, reference = check_feature_pair(samples, reference)
    dimensions = samples.shape[1]
    for name, features in (("samples", samples), ("reference images", reference)):
        if len(features) <= dimensions:
            raise TooFewSamplesError(
                f"{len(features)} {name} can't give the covariance of {dimensions} features; "
                f"at least {dimensions + 1} are needed (the kernel distance is unbiased with fewer)"
            )
    return gaussian_frechet_distance(fit_gaussian(samples), fit_gaussian(reference))


def few_samples_caution(samples: int, reference: int, dimensions: int) -> str | None:
    """What to say of a distance whose bias is not small: it grows with D/N, and needs N ≫ D to be negligible."""
    fewest = min(samples, reference)
    if fewest >= AMPLE * dimensions:
        return None
    return (
        f"{samples} samples and {reference} reference images for {dimensions} features: biased upwards "
        f"(below {AMPLE} images a feature); compare it only with distances over the same numbers of images"
    )


def _square_root(covariance: Tensor) -> Tensor:
    """The symmetric square root; eigenvalues that rounding made negative count as zero."""
    values, vectors = torch.linalg.eigh(covariance.double())
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
