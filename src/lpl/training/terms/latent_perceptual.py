"""`kind: lpl`, the latent perceptual loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...config import PerceptualConfig
from ...losses.perceptual import LatentPerceptualLoss
from .base import LatentPrediction, TermParts, Terms, TermValues


class LatentPerceptualTerm:
    """L_LPL, with each block's share and outliers."""

    facts: Mapping[str, Any] = {}

    def __init__(self, config: PerceptualConfig, parts: TermParts) -> None:
        decoder = parts.decoder or parts.autoencoder
        if decoder is None:
            raise ValueError("autoencoder: got None; the latent perceptual loss needs the decoder it compares in")
        self.loss = LatentPerceptualLoss(
            decoder.model,
            blocks=config.blocks,
            sigma_threshold=config.sigma_threshold,
            normalization=config.normalization,
            outliers=config.outliers,
            depth_weights=config.depth_weights,
            reduction=config.reduction,
            variance_floor=config.variance_floor,
            dtype=getattr(torch, config.precision),
        )

    def __call__(self, prediction: LatentPrediction) -> TermValues:
        """See `PerceptualTerm`."""
        terms = self.loss(prediction.predicted, prediction.clean, prediction.sigma, return_terms=True)
        details: Terms = {f"loss/perceptual/{name}": value for name, value in terms.blocks.items()}
        details |= {f"outliers/{name}": value for name, value in terms.outlier_share.items()}
        details["passed"] = terms.passed / len(prediction.sigma)
        return TermValues(terms.loss, terms.per_sample, details)
