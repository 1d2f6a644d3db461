"""The weight of a perceptual term, matched to the diffusion loss by variance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class RunningVariance:
    """Mean and variance of a stream of values in float64, merged batch by batch (Chan et al., 1983)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # Σ (x − mean)²

    def update(self, values: Tensor) -> None:
        """Adds all entries of a tensor, which must be finite."""
        values = values.detach().double().flatten()
        count, mean = values.numel(), values.mean().item()
        total, shift = self.count + count, mean - self.mean
        self.squares += (values - mean).square().sum().item() + shift**2 * self.count * count / total
        self.mean += shift * count / total
        self.count = total

    @property
    def variance(self) -> float:
        """The unbiased sample variance; needs at least two values."""
        if self.count < 2:
            raise ValueError(f"a variance needs at least 2 values, got {self.count}")
        return self.squares / (self.count - 1)


class VarianceMatchedWeight:
    """w such that Var(w · L_LPL) = fraction · Var(ℓ2), measured over the first batches and fixed from then on.

    Both variances are over single samples, pooled over all batches measured: the mean squared error of each sample's
    output and its perceptual loss, *every* sample of the batch included, so that those beyond the gate enter the
    perceptual term's variance as the zeros that they contribute to the loss. The paper weights its comparisons this way
    with fraction = 0.1 (appendix A.4).

    Args:
        fraction: the ratio of variances wanted, > 0.
        batches: how many batches to measure, ≥ 1.

    Example:
        >>> weight = VarianceMatchedWeight(fraction=0.1, batches=32)
        >>> while not weight.fixed:
        ...     weight.update(squared_errors, perceptual_losses)  # each of shape (B,)
        >>> loss = squared_errors.mean() + weight.value * perceptual_losses.mean()
    """

    def __init__(self, fraction: float = 0.1, batches: int = 32) -> None:
        if fraction <= 0:
            raise ValueError(f"fraction: got {fraction}, takes a positive number")
        if batches < 1:
            raise ValueError(f"batches: got {batches}, takes a positive integer")
        self.fraction = fraction
        self.batches = batches
        self.measured = 0
        self.diffusion = RunningVariance()
        self.perceptual = RunningVariance()
        self._value = 0.0

    @property
    def fixed(self) -> bool:
        """Whether enough batches have been measured."""
        return self.measured >= self.batches

    @property
    def value(self) -> float:
        """The weight once it is fixed; 0 until then, so that nothing unmeasured is added to the loss."""
        return self._value

    @property
    def variance_ratio(self) -> float:
        """Var(L_LPL)/Var(ℓ2) as measured; eq. (15)'s gain is w_LPL times this.

        Raises:
            ValueError: not enough has been measured, or the ℓ2 loss did not vary.
        """
        if not self.diffusion.variance:
            raise ValueError(
                f"the ℓ2 loss was {self.diffusion.mean:g} for all samples, so no variance compares with it"
            )
        return self.perceptual.variance / self.diffusion.variance

    def update(self, diffusion: Tensor, perceptual: Tensor, batches: int = 1) -> None:
        """Adds the per-sample losses of one batch, or of several in one call; once fixed, does nothing.

        Args:
            diffusion: ℓ2 loss of each sample, shape (N,).
            perceptual: perceptual loss of the same samples, shape (N,), zero beyond the gate.
            batches: how many batches the samples are.

        Raises:
            ValueError: the shapes differ, a value is not finite, or the perceptual loss turns out not to vary.
        """
        if self.fixed:
            return
        if diffusion.ndim != 1 or diffusion.shape != perceptual.shape:
            raise ValueError(
                "diffusion, perceptual: take one loss a sample, both of shape (N,), "
                f"got {tuple(diffusion.shape)} and {tuple(perceptual.shape)}"
            )
        for name, values in (("diffusion", diffusion), ("perceptual", perceptual)):
            if not torch.isfinite(values).all():
                raise ValueError(f"{name}: a weight can't be matched to losses that are NaN or infinite")
        self.diffusion.update(diffusion)
        self.perceptual.update(perceptual)
        self.measured += batches
        if self.fixed:
            self._value = self._match()

    def _match(self) -> float:
        if self.diffusion.variance == 0:
            raise ValueError(
                f"the ℓ2 loss was {self.diffusion.mean:g} for all {self.diffusion.count} samples of {self.measured} "
                "batches, so no weight matches its variance; give the weight as a number"
            )
        if self.perceptual.variance == 0:
            raise ValueError(
                f"the perceptual loss was {self.perceptual.mean:g} for all {self.perceptual.count} samples of "
                f"{self.measured} batches, so no weight matches its variance to the ℓ2 loss's: raise "
                "sigma_threshold so that samples pass the gate, measure more batches, or give the weight as a number"
            )
        return (self.fraction * self.diffusion.variance / self.perceptual.variance) ** 0.5

    def state_dict(self) -> dict[str, float]:
        """Everything measured, as plain numbers."""
        return {
            "measured": self.measured,
            "value": self._value,
            **{f"diffusion.{key}": value for key, value in vars(self.diffusion).items()},
            **{f"perceptual.{key}": value for key, value in vars(self.perceptual).items()},
        }

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continues from `state_dict()`'s numbers."""
        self.measured = int(state["measured"])
        self._value = float(state["value"])
        for name in ("diffusion", "perceptual"):
            variance = RunningVariance(
                int(state[f"{name}.count"]), float(state[f"{name}.mean"]), float(state[f"{name}.squares"])
            )
            setattr(self, name, variance)
