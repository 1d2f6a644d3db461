"""Rank correlations with confidence intervals, and moments of distributions with heavy tails."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, rankdata

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean over images with its confidence interval.

    Attributes:
        mean: over images.
        low: lower end of the interval.
        high: upper end.
    """

    mean: float
    low: float
    high: float


def rank_correlations(first: Floats, second: Floats) -> Floats:
    """Spearman's ρ of each row of two arrays (N, V), ties by average rank: float64 (N,), NaN for constant rows."""
    a, b = (rankdata(values, axis=1) for values in (first, second))
    a, b = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (a, b))
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.divide((a * b).sum(axis=1), scale, out=np.full(len(a), np.nan), where=scale > 0)


def discordant_shares(first: Floats, second: Floats) -> Floats:
    """Share of the pairs of columns that two arrays (N, V) order differently, by row: float64 (N,) in [0, 1].

    Pairs that either array ties are left out; a row of nothing but ties gives NaN.
    """
    upper = np.triu_indices(first.shape[1], k=1)
    signs = [np.sign(values[:, upper[0]] - values[:, upper[1]]) for values in (first, second)]
    product = signs[0] * signs[1]
    pairs = (product != 0).sum(axis=1)
    return np.divide((product < 0).sum(axis=1), pairs, out=np.full(len(first), np.nan), where=pairs > 0)


def bootstrap(values: Floats, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean of values (N,) and its percentile bootstrap interval, resampling the N images; NaNs are left out.

    Args:
        values: one number an image.
        level: of confidence.
        resamples: bootstrap samples.
        seed: of the resampling.

    Returns:
        The interval; NaN throughout where no value is finite, at both ends where only one is.
    """
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    if len(finite) == 1:  # one image says nothing of how images differ
        return Interval(float(finite[0]), float("nan"), float("nan"))
    chosen = np.random.default_rng(seed).integers(0, len(finite), size=(resamples, len(finite)))
    low, high = np.quantile(finite[chosen].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(finite.mean()), float(low), float(high))


def share_interval(found: npt.NDArray[np.bool_], level: float = 0.95) -> Interval:
    """Share of the images (N,) in which something was found, with Wilson's interval: 0 of N does not shrink it to 0."""
    outcome = binomtest(int(found.sum()), len(found)).proportion_ci(level, method="wilson")
    return Interval(float(found.mean()), float(outcome.low), float(outcome.high))
