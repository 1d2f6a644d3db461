"""`kind: self_perceptual`, a distance between hidden states of the denoiser that training starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...config import SelfPerceptualConfig
from ...denoisers.hidden import hidden_states
from ...losses.self_perceptual import SelfPerceptualLoss
from .base import LatentPrediction, TermError, TermParts, Terms, TermValues


class SelfPerceptualTerm:
    """The frozen copy sees the labels that training sees, and the noise of the training step."""

    def __init__(self, config: SelfPerceptualConfig, parts: TermParts) -> None:
        if parts.denoiser is None:
            raise ValueError(
                "denoiser: got None; the Self-Perceptual loss compares in the one that training starts from"
            )
        try:
            hidden = hidden_states(parts.denoiser, config.depth, getattr(torch, config.precision))
        except ValueError as error:
            raise TermError(str(error)) from None
        self.path = parts.path
        self.fresh = config.timesteps == "fresh"
        self.loss = SelfPerceptualLoss(hidden.to(parts.device), parts.path, config.sigma_threshold)
        self.facts: Mapping[str, Any] = {"frozen_denoiser": parts.origin, "block": hidden.number or hidden.block}

    def __call__(self, prediction: LatentPrediction) -> TermValues:
        """See `PerceptualTerm`."""
        batch = prediction.batch
        timesteps = batch.timesteps
        if self.fresh:
            timesteps = self.path.sample_timesteps(len(timesteps), batch.generator()).to(timesteps.device)
        terms = self.loss(
            prediction.predicted,
            prediction.clean,
            prediction.sigma,
            noise=batch.noise,
            timesteps=timesteps,
            labels=batch.labels,
            return_terms=True,
        )
        details: Terms = {} if self.loss.sigma_threshold is None else {"passed": terms.passed / len(timesteps)}
        return TermValues(terms.loss, terms.per_sample, details)
