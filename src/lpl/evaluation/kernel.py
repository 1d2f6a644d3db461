"""Kernel distance: squared maximum mean discrepancy of features under a polynomial kernel, KID with Inception's.

Reference: Bińkowski et al., *Demystifying MMD GANs*, ICLR 2018. Unbiased at any number of samples, unlike FID.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .checks import TooFewSamplesError, check_feature_pair


@dataclass(frozen=True)
class KernelDistance:
    """Mean and standard deviation over subsets; the mean may be slightly negative for equal distributions."""

    mean: float
    std: float


def kernel_distance(
    samples: Tensor, reference: Tensor, subsets: int = 50, subset_size: int = 500, seed: int = 0
) -> KernelDistance:
    """Kernel distance of two sets of features with the kernel (x·y / D + 1)³.

    Args:
        samples: float (N, D).
        reference: float (M, D).
        subsets: how many random subsets of each set are compared.
        subset_size: images in each, drawn without replacement; at least 2.
        seed: of the subsets.

    Returns:
        Mean and standard deviation of the unbiased estimate over the subsets.

    Raises:
        TooFewSamplesError: N or M is below `subset_size`.
        TypeError, ValueError: features of another kind, or of different dimensions; impossible subsets.
    """
    samples, reference = check_feature_pair(samples, reference)
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"subsets={subsets} must be at least 1 and subset_size={subset_size} at least 2")
    for name, features in (("samples", samples), ("reference images", reference)):
        if len(features) < subset_size:
            raise TooFewSamplesError(f"{len(features)} {name} are fewer than a subset of kid_subset_size={subset_size}")
    draw = np.random.default_rng(seed)
    estimates = []
    for _ in range(subsets):
        chosen = [torch.from_numpy(draw.permutation(len(x))[:subset_size]) for x in (samples, reference)]
        estimates.append(squared_mmd(samples[chosen[0]], reference[chosen[1]]))
    return KernelDistance(float(np.mean(estimates)), float(np.std(estimates)))


def squared_mmd(samples: Tensor, reference: Tensor) -> float:
    """Unbiased squared MMD of features (N, D) and (M, D), N and M at least 2, under the kernel (x·y / D + 1)³."""
    within = _mean_off_diagonal(_kernel(samples, samples)) + _mean_off_diagonal(_kernel(reference, reference))
    return (within - 2 * _kernel(samples, reference).mean()).item()


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.T / first.shape[1] + 1) ** 3


def _mean_off_diagonal(kernel: Tensor) -> Tensor:
    """A sample's likeness to itself is left out: that is what makes the estimate unbiased."""
    count = len(kernel)
    return (kernel.sum() - kernel.trace()) / (count * (count - 1))
