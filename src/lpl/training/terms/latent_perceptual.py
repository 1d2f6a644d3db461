"""`kind: lpl`, the latent perceptual loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from ...config import PerceptualConfig
from ...losses.estimators import Estimator, EveryKth, GatedSubset, RandomWindows
from ...losses.perceptual import LatentPerceptualLoss
from ...objective_sections import EstimatorConfig
from .base import LatentPrediction, TermParts, Terms, TermValues, TrainingBatch


class LatentPerceptualTerm:
    """L_LPL, with each block's share and outliers.

    An estimator's draws vary more than the loss does. Without a gradient, as while a weight is matched to the loss's
    variance, the loss is therefore computed whole, so that the weight is the same whatever stands in for it.
    """

    facts: Mapping[str, Any] = {}

    def __init__(self, config: PerceptualConfig, parts: TermParts) -> None:
        decoder = parts.decoder or parts.autoencoder
        if decoder is None:
            raise ValueError("autoencoder: got None; the latent perceptual loss needs the decoder it compares in")
        exact = LatentPerceptualLoss(
            decoder.model,
            blocks=config.blocks,
            sigma_threshold=config.sigma_threshold,
            normalization=config.normalization,
            outliers=config.outliers,
            depth_weights=config.depth_weights,
            reduction=config.reduction,
            variance_floor=config.variance_floor,
            dtype=getattr(torch, config.precision),
            micro_batch=config.micro_batch,
        )
        self.loss = _estimated(exact, config.estimator)

    def __call__(self, prediction: LatentPrediction) -> TermValues:
        """See `PerceptualTerm`."""
        if isinstance(self.loss, Estimator):
            _follow(self.loss, prediction.batch)
        terms = self.loss(prediction.predicted, prediction.clean, prediction.sigma, return_terms=True)
        details: Terms = {f"loss/perceptual/{name}": value for name, value in terms.blocks.items()}
        details |= {f"outliers/{name}": value for name, value in terms.outlier_share.items()}
        details["passed"] = terms.passed / len(prediction.sigma)
        return TermValues(terms.loss, terms.per_sample, details)


def _estimated(exact: LatentPerceptualLoss, config: EstimatorConfig) -> LatentPerceptualLoss | Estimator:
    """The estimator that a recipe describes: of steps, of samples within them, of windows within these."""
    loss: LatentPerceptualLoss | Estimator = exact
    if config.window is not None:
        importance: Literal["uniform", "error"] = "error" if config.importance == "error" else "uniform"
        loss = RandomWindows(exact, config.window, config.margin, importance=importance)
    if config.fraction < 1:
        loss = GatedSubset(loss, fraction=config.fraction, importance=config.importance)
    return EveryKth(loss, config.every) if config.every > 1 else loss


def _follow(estimator: Estimator, batch: TrainingBatch) -> None:
    """Makes an estimator's draws a function of the run's seed, the step and the part of its batch, if it draws."""
    seed, step, *part = batch.seed if len(batch.seed) > 1 else (0, *batch.seed)
    estimator.step = step
    inner: object = estimator
    while isinstance(inner, Estimator):
        inner.training = torch.is_grad_enabled()
        inner.seed = hash((seed, *part))  # of numbers, and so the same in every process
        inner = inner.loss
