"""The loss of some of the samples that pass the gate, reweighted to stand for all of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..gate import passing, refuse_nan
from .base import Estimator, Terms, scaled_shares, sigma_of_each
from .sampling import draw, inclusion_probabilities

Proxy = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def by_error(prediction: Tensor, target: Tensor, sigma: Tensor | None) -> Tensor:
    """‖ẑ0 − z0‖ of each sample, to which the gradient of a squared distance is roughly in proportion."""
    difference = (prediction - target).to(torch.promote_types(prediction.dtype, torch.float32))
    return torch.linalg.vector_norm(difference.flatten(1), dim=1)


def by_sigma(prediction: Tensor, target: Tensor, sigma: Tensor | None) -> Tensor:
    """σ_t of each sample: the noisier, the larger the error."""
    if sigma is None:
        raise ValueError("sigma: missing; importance='sigma' draws by it")
    return sigma_of_each(prediction, sigma).to(torch.float32)


PROXIES: dict[str, Proxy] = {"error": by_error, "sigma": by_sigma}


class GatedSubset(Estimator):
    """Computes the loss of some of the samples that pass the gate, each weighted by 1/π_i (Horvitz & Thompson, 1952).

    π_i is the probability with which the sample was drawn, so that value and gradient are unbiased whatever the
    probabilities are; the nearer they are to being in proportion to the samples' gradients, the lower the variance.
    Draws are without replacement and of a fixed number, see `lpl.losses.estimators.sampling`.

    Args:
        loss: an exact loss or another estimator.
        count: how many of the passing samples to draw, at least 1; all where fewer pass.
        fraction: instead of `count`, which share of the passing samples to draw, in (0, 1], rounded up.
        importance: "uniform", "error" (π_i ∝ ‖ẑ0 − z0‖), "sigma" (π_i ∝ σ_t), or a function of the passing samples'
            (prediction, target, sigma) that returns one number, not negative, for each.
        uniform_share: share of π_i that is the same for all, in (0, 1], which bounds the weights where the importance
            misjudges a sample: none exceeds 1/uniform_share of the uniform one's.
        seed: of the draws.

    Raises:
        ValueError: an argument outside its range; both or neither of `count` and `fraction`.

    Example:
        >>> perceptual = GatedSubset(LatentPerceptualLoss(vae), count=4, importance="error")
        >>> loss = mse + 0.1 * perceptual(clean_hat, clean, sigma)
    """

    def __init__(
        self,
        loss: nn.Module,
        count: int | None = None,
        fraction: float | None = None,
        importance: Literal["uniform", "error", "sigma"] | Proxy = "uniform",
        uniform_share: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(loss, seed)
        if (count is None) == (fraction is None):
            raise ValueError(f"count, fraction: got {count} and {fraction}, takes one of the two")
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ValueError(f"count: got {count}, takes a positive integer")
        if fraction is not None and not 0 < fraction <= 1:
            raise ValueError(f"fraction: got {fraction}, takes a number above 0, at most 1")
        if not callable(importance) and importance not in ("uniform", *PROXIES):
            allowed = ", ".join(map(repr, ("uniform", *PROXIES)))
            raise ValueError(f"importance: got {importance!r}, takes {allowed} or a function")
        if not 0 < uniform_share <= 1:
            raise ValueError(f"uniform_share: got {uniform_share}, takes a number above 0, at most 1")
        self.count = count
        self.fraction = fraction
        self.importance = importance
        self.uniform_share = uniform_share

    def estimate(self, prediction: Tensor, target: Tensor, sigma: Tensor | float | None) -> Terms:
        """Σ over the samples drawn of ℓ_i/π_i, divided by the size of the whole batch."""
        passed = passing(sigma, self.sigma_threshold, prediction)
        count = self._number_drawn(len(passed))
        if count == len(passed):
            return self.loss(prediction, target, sigma, return_terms=True)
        each = None if sigma is None else sigma_of_each(prediction, sigma)
        inclusion = inclusion_probabilities(self._sizes(prediction, target, each, passed), count)
        drawn = draw(inclusion, self.generator())
        weights = inclusion[drawn].reciprocal().to(prediction.device)
        chosen = passed[drawn.to(passed.device)]
        weighted = weigh_gradient(prediction[chosen], weights)
        terms = self.loss(weighted, target[chosen], None if each is None else each[chosen], return_terms=True)
        return _reweighted(terms, weights, chosen, len(prediction), len(passed))

    def _number_drawn(self, passed: int) -> int:
        wanted = self.count if self.count is not None else math.ceil((self.fraction or 0.0) * passed)
        return min(wanted, passed)

    @torch.no_grad()
    def _sizes(self, prediction: Tensor, target: Tensor, sigma: Tensor | None, passed: Tensor) -> Tensor:
        """What π_i is in proportion to: the importance, of mean 1, mixed with 1; float64 (N,)."""
        even = torch.ones(len(passed), dtype=torch.float64, device=prediction.device)
        if self.importance == "uniform":
            return even
        for name, latents in (("prediction", prediction), ("target", target)):
            refuse_nan(name, latents[passed])
        proxy = self.importance if callable(self.importance) else PROXIES[self.importance]
        sizes = proxy(prediction[passed], target[passed], None if sigma is None else sigma[passed]).double()
        if sizes.shape != even.shape or not bool((torch.isfinite(sizes) & (sizes >= 0)).all()):
            raise ValueError(
                f"importance: gave {sizes.tolist()} for {len(passed)} samples, takes a finite number ≥ 0 for each"
            )
        mean = sizes.mean()
        return even if mean == 0 else self.uniform_share * even + (1 - self.uniform_share) * sizes / mean

    def extra_repr(self) -> str:
        """The options, for `print(loss)`."""
        return (
            f"count={self.count}, fraction={self.fraction}, importance={self.importance!r}, "
            f"uniform_share={self.uniform_share}, seed={self.seed}"
        )


def weigh_gradient(values: Tensor, weights: Tensor) -> Tensor:
    """The same values, (N, …), but the gradient of the i-th is multiplied by the i-th weight, (N,)."""
    shaped = weights.to(values.dtype).reshape(-1, *[1] * (values.ndim - 1))
    return values.detach() + shaped * (values - values.detach())  # the difference is exactly zero


def _reweighted(terms: Any, weights: Tensor, chosen: Tensor, batch_size: int, passed: int) -> Any:
    """From the terms of the samples drawn, whose gradients are weighted already, to those of the whole batch."""
    own = terms.loss * (len(chosen) / batch_size)  # its gradient is right, its value is that of weights of 1
    per_sample = terms.per_sample * weights.to(terms.per_sample.dtype)
    value = per_sample.sum() / batch_size
    # Shares are known for all samples drawn together only; they are scaled alike, so as to sum to the loss.
    factor = torch.where(terms.loss.detach() == 0, 0.0, value / terms.loss.detach())
    return dataclasses.replace(
        terms,
        loss=own + (value - own.detach()),
        passed=passed,
        per_sample=per_sample.new_zeros(batch_size).index_copy(0, chosen, per_sample),
        **scaled_shares(terms, factor),
    )
