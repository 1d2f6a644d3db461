"""How well an estimator stands in for a loss: its gradient's direction, bias and variance, its time and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..autoencoders.lean import kept_bytes
from ..losses.estimators import Estimator
from .inputs import AnalysisError, Track, untracked

Batch = tuple[Tensor, Tensor, Tensor | None]
"""(prediction ẑ0, target z0, σ_t), as the loss is called."""


@dataclass(frozen=True)
class GradientAgreement:
    """An estimator's draws against the exact loss, for one batch. g is the exact gradient at ẑ0, g_d a draw's.

    Attributes:
        draws: how many.
        loss: mean of the draws' losses over the exact loss.
        cosine: mean over draws of cos(g_d, g); a draw without gradient counts as 0.
        cosine_of_mean: cos(mean of g_d, g).
        relative_error: root mean square over draws of ‖g_d − g‖/‖g‖.
        bias: ‖E g_d − g‖/‖g‖, estimated from ‖mean − g‖² less the share of it that the draws' scatter explains, which
            is unbiased for the square; 0 where scatter explains all of it.
        bias_resolution: what ‖mean − g‖/‖g‖ would be from scatter alone; a bias well below it is not seen.
        variance: E‖g_d − E g_d‖²/‖g‖², unbiased; what is added to the gradient's noise by estimating.
        time_ratio: seconds of a loss and its gradient, mean over draws, over the exact loss's.
        kept_ratio: bytes kept for backward, the most of any draw, over the exact loss's.
        exact_seconds: of one exact loss and gradient.
        exact_bytes: kept by it.
    """

    draws: int
    loss: float
    cosine: float
    cosine_of_mean: float
    relative_error: float
    bias: float
    bias_resolution: float
    variance: float
    time_ratio: float
    kept_ratio: float
    exact_seconds: float
    exact_bytes: int


def gradient_agreement(
    exact: nn.Module,
    estimator: nn.Module,
    batch: Batch,
    draws: int = 64,
    timed: int = 5,
    counted: int = 4,
    track: Track = untracked,
) -> GradientAgreement:
    """Compares an estimator's draws with the exact loss, value and gradient with respect to ẑ0.

    Args:
        exact: the loss, called as `exact(prediction, target, sigma)`.
        estimator: of that loss; any module of that call. An `Estimator` makes the draws of steps 0 … draws − 1; another
            decoder's loss, which has no draws, is taken once whatever `draws` says.
        batch: latents and noise levels, on the modules' device.
        draws: how many, at least 2 for a bias to be told from scatter.
        timed: of those, how many are timed, each next to an exact one; the first one of each goes before, untimed.
        counted: of those, how many have their kept bytes counted.
        track: shows progress.

    Raises:
        AnalysisError: too few draws, or an exact loss whose gradient is zero.
    """
    drawn = isinstance(estimator, Estimator)
    if drawn and draws < 2:
        raise AnalysisError(f"draws: got {draws}, takes at least 2")
    count = draws if drawn else 1
    loss, gradient = _evaluate(exact, batch)
    norm = gradient.norm()
    if norm == 0:
        raise AnalysisError("batch: the exact loss has no gradient there; do some samples pass the gate?")
    scatter = _Scatter(gradient)
    losses = []
    for step in track(range(count), "Draws"):
        _set_step(estimator, step)
        value, estimate = _evaluate(estimator, batch)
        losses.append(value)
        scatter.add(estimate)
    seconds, exact_seconds = _times(exact, estimator, batch, timed if not drawn else min(timed, count))
    exact_bytes = _kept(exact, batch, step=0)
    most = max(_kept(estimator, batch, step) for step in range(min(counted, count)))
    return GradientAgreement(
        draws=count,
        loss=statistics.fmean(losses) / loss,
        **scatter.figures(),
        time_ratio=seconds / exact_seconds,
        kept_ratio=most / exact_bytes,
        exact_seconds=exact_seconds,
        exact_bytes=exact_bytes,
    )


class _Scatter:
    """Draws of a gradient, one by one, in float64: only sums are kept."""

    def __init__(self, exact: Tensor) -> None:
        self.exact = exact
        self.norm = float(exact.norm())
        self.count = 0
        self.total = torch.zeros_like(exact)
        self.squares = 0.0  # Σ ‖g_d − g‖²
        self.cosines: list[float] = []

    def add(self, gradient: Tensor) -> None:
        self.count += 1
        self.total += gradient - self.exact
        self.squares += float((gradient - self.exact).square().sum())
        self.cosines.append(self._cosine(gradient))

    def figures(self) -> dict[str, float]:
        error = self.total / self.count
        squared_error = float(error.square().sum())
        spread = max(0.0, self.squares - self.count * squared_error) / max(1, self.count - 1)
        explained = spread / self.count if self.count > 1 else 0.0
        return {
            "cosine": statistics.fmean(self.cosines),
            "cosine_of_mean": self._cosine(self.exact + error),
            "relative_error": (self.squares / self.count) ** 0.5 / self.norm,
            "bias": max(0.0, squared_error - explained) ** 0.5 / self.norm,
            "bias_resolution": explained**0.5 / self.norm,
            "variance": spread / self.norm**2,
        }

    def _cosine(self, gradient: Tensor) -> float:
        norm = float(gradient.norm())
        return 0.0 if norm == 0 else float((gradient * self.exact).sum()) / (norm * self.norm)


def _set_step(loss: nn.Module, step: int) -> None:
    if isinstance(loss, Estimator):
        loss.step = step


def _evaluate(loss: nn.Module, batch: Batch) -> tuple[float, Tensor]:
    """The loss and its gradient with respect to ẑ0, float64 on the CPU."""
    value, prediction = _forward(loss, batch)
    (gradient,) = torch.autograd.grad(value, prediction)
    return float(value.detach()), gradient.double().cpu()


def _forward(loss: nn.Module, batch: Batch) -> tuple[Any, Tensor]:
    prediction, target, sigma = batch
    prediction = prediction.detach().requires_grad_()
    return loss(prediction, target, sigma), prediction


def _times(exact: nn.Module, estimator: nn.Module, batch: Batch, repeats: int) -> tuple[float, float]:
    """Seconds of the estimator, mean over draws, and of the exact loss, median; in turn, on the same machine."""
    own, others = [], []
    for step in range(-1, repeats):
        _set_step(estimator, max(step, 0))
        pair = _seconds(lambda: _evaluate(estimator, batch)), _seconds(lambda: _evaluate(exact, batch))
        if step >= 0:
            own.append(pair[0])
            others.append(pair[1])
    return statistics.fmean(own), statistics.median(others)


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()  # ends with the gradient on the CPU, so that a GPU has finished
    return time.perf_counter() - start


def _kept(loss: nn.Module, batch: Batch, step: int) -> int:
    _set_step(loss, step)
    return kept_bytes(lambda: _forward(loss, batch), loss)
