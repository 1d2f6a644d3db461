"""`lpl calibrate`: measures an autoencoder's decoder and chooses the perceptual loss's settings from it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..autoencoders import Autoencoder
from ..config import PerceptualConfig
from ..diffusion.paths import DiffusionPath
from .advice import (
    PAPER,
    Advice,
    advise_blocks,
    advise_comparison,
    advise_depth_weights,
    advise_mask,
    advise_threshold,
    advise_weight,
    choose_comparison,
    paper_weight_warning,
)
from .costs import BlockCost, block_costs
from .distances import Comparison, Masked
from .features import FeatureStudy, study_features
from .gradients import PRINTED, SIGMAS, GradientStudy, study_gradients
from .inputs import AnalysisError, Track, decoder_features, untracked
from .mixture import NoiseMixture, noise_mixture
from .predictors import Predictor, fit_gaussian


@dataclass(frozen=True)
class Calibration:
    """What was measured, and the settings that follow.

    Attributes:
        features: statistics of the decoder's blocks.
        paper: losses and gradients with the paper's mask and normalisation.
        chosen: the same with the mask and normalisation chosen.
        mixture: how often training meets each noise level, with the gate chosen.
        costs: of each block.
        advice: one for each setting, in the order they were decided.
        channelwise: share of the latents' variance that a Gaussian without neighbours explains at each noise, (S,).
    """

    features: FeatureStudy
    paper: GradientStudy
    chosen: GradientStudy
    mixture: NoiseMixture
    costs: dict[str, BlockCost]
    advice: tuple[Advice, ...]
    channelwise: Tensor

    @property
    def settings(self) -> dict[str, Any]:
        """Key of `PerceptualConfig` → value."""
        return {entry.setting: entry.value for entry in self.advice}

    @property
    def config(self) -> PerceptualConfig:
        """The settings, checked as a recipe's are."""
        return PerceptualConfig.model_validate(self.settings)


def calibrate_loss(
    autoencoder: Autoencoder,
    latents: Tensor,
    path: DiffusionPath,
    predictor: Predictor | None = None,
    blocks: Sequence[str] | None = None,
    gradient_images: int = 8,
    sigmas: Sequence[float] = SIGMAS,
    seed: int = 0,
    track: Track = untracked,
) -> Calibration:
    """Measures, and decides one setting after the other: mask, normalisation, τ_σ, blocks, ω_l, w.

    Args:
        autoencoder: to calibrate for.
        latents: (N, C, h, w); all serve to fit the Gaussian.
        path: from data to noise that training will use.
        predictor: gives ẑ0; by default the posterior mean under a Gaussian fitted to the latents.
        blocks: decoder blocks to consider; all by default.
        gradient_images: how many of the latents to measure features and gradients on.
        sigmas: noise levels, ascending.
        seed: of the noise.
        track: shows progress.

    Raises:
        AnalysisError: a block that does not exist, or fewer than 2 images.
    """
    features = decoder_features(autoencoder, blocks)
    numbers = torch.arange(min(len(latents), gradient_images))
    if len(numbers) < 2:
        raise AnalysisError(f"images: got {len(numbers)}, calibration takes 2 or more")
    chosen_latents = latents[numbers]
    predicting: Predictor = fit_gaussian(latents) if predictor is None else predictor
    statistics = study_features(features, chosen_latents, sweeps={}, track=track)

    def measure(comparison: Comparison, masked: Masked, judged: Masked) -> GradientStudy:
        return study_gradients(
            features, predicting, path, chosen_latents, sigmas, comparison, masked, judged, numbers, seed, track=track
        )

    mask = advise_mask(statistics)
    paper = measure(PRINTED, PAPER["outliers"], judged=mask.value)
    comparison = choose_comparison(paper)
    chosen = measure(comparison, mask.value, judged=mask.value)
    threshold = advise_threshold(chosen, comparison)
    mixture = noise_mixture(path, chosen.sigmas, threshold.value)
    costs = block_costs(autoencoder.model, chosen.blocks, chosen_latents[:2], comparison)
    block_advice = advise_blocks(chosen, mixture, costs)
    used = block_advice.value or chosen.blocks
    depth = advise_depth_weights(chosen, mixture, used)
    weight = advise_weight(chosen, mixture, used, depth.value)
    weight = replace(weight, warning=paper_weight_warning(paper, noise_mixture(path, paper.sigmas, 3.0)))
    channelwise = fit_gaussian(latents, neighbours=False)
    return Calibration(
        features=statistics,
        paper=paper,
        chosen=chosen,
        mixture=mixture,
        costs=costs,
        advice=(mask, *advise_comparison(paper, comparison), threshold, _named(block_advice, blocks), depth, weight),
        channelwise=torch.tensor([channelwise.explained(sigma) for sigma in sigmas]),
    )


def recipe_fragment(calibration: Calibration, comments: Sequence[str]) -> str:
    """The settings as a recipe's section, each with its reason as a comment; `extends` or merge it into a recipe."""
    lines = [f"# {comment}" for comment in comments] + ["objective:", "  perceptual:"]
    for entry in calibration.advice:
        lines += textwrap.wrap(entry.reason, 116, initial_indent="    # ", subsequent_indent="    # ")
        lines.append(f"    {entry.setting}: {json.dumps(entry.value)}")  # JSON is YAML, on one line
    return "\n".join(lines) + "\n"


def _named(advice: Advice, blocks: Sequence[str] | None) -> Advice:
    """Every block considered, by its name where the caller chose from some of them."""
    return advice if advice.value is not None or blocks is None else replace(advice, value=list(blocks))
