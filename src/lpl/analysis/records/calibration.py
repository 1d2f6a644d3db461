"""The folder of `lpl calibrate`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from ..advice import PAPER
from ..calibrate import Calibration, recipe_fragment
from ..features import BlockFeatures
from ..figures.calibration import noise_figure
from ..gradients import GradientStudy
from ..inputs import Pictures
from ..mixture import (
    alignment,
    block_shares,
    contrast_pull,
    gradient_ratio,
    gradient_ratios,
    matched_weight,
    typical_ratio,
    weights_of,
)
from ..output import AnalysisFolder
from .common import Rows, save_originals

RECIPE = "recipe.yaml"


def record_calibration(
    folder: AnalysisFolder, calibration: Calibration, pictures: Pictures, comments: list[str]
) -> tuple[Rows, dict[str, Any]]:
    """Draws the figure, writes the recipe fragment, and returns the JSON file's `images` and `results`."""
    folder.save_figure("noise", noise_figure(calibration))
    folder.save_text(RECIPE, recipe_fragment(calibration, comments))
    settings = calibration.settings
    used = weights_of(calibration.chosen, settings["blocks"] or calibration.chosen.blocks, settings["depth_weights"])
    return save_originals(folder, pictures, 0), {
        "recipe": RECIPE,
        "settings": settings,
        "paper": PAPER,
        "advice": [asdict(entry) for entry in calibration.advice],
        "predictor": calibration.chosen.predictor,
        "mixture": {"closed": calibration.mixture.mass[:, 0], "open": calibration.mixture.mass[:, 1]},
        "channelwise_reliability": calibration.channelwise,
        "blocks": {name: _block_entry(block) for name, block in calibration.features.blocks.items()},
        "costs": {name: asdict(cost) for name, cost in calibration.costs.items()},
        "chosen": _study_entry(calibration.chosen, used, calibration),
        "paper_settings": _study_entry(
            calibration.paper, weights_of(calibration.paper, calibration.paper.blocks), calibration
        ),
    }


def _block_entry(block: BlockFeatures) -> dict[str, Any]:
    channels = block.channels
    return {
        "channels": len(channels.std),
        "size": block.size,
        "down_f": block.down_f,
        "dead_channels": len(block.dead),
        "weak_channels": len(block.weak),
        "zero_share": float(channels.zero_share.mean()),
        "masked_share": float(channels.masked_share.mean()),
        "masked_energy": float(channels.masked_energy.mean()),
        "kept_kurtosis_median": float(channels.kept_kurtosis.median()),
    }


def _study_entry(study: GradientStudy, weights: torch.Tensor, calibration: Calibration) -> dict[str, Any]:
    """Measurements by noise level; lists have one entry a level of `sigmas`, tables one row a level."""
    levels = torch.eye(len(study.sigmas), dtype=torch.float64)
    return {
        "sigmas": study.sigmas,
        "blocks": study.blocks,
        "omega": weights,
        "reliability": study.reliability,
        "feature_reliability": study.feature_reliability,
        "diffusion_loss": study.diffusion_loss.mean(dim=1),
        "loss": study.loss.mean(dim=1) * weights,
        "gradient_share": torch.stack([block_shares(study, weights, mass) for mass in levels]),
        "gradient_ratio": gradient_ratios(study, weights),
        "alignment": alignment(study, weights),
        "contrast_pull": contrast_pull(study, weights),
        "by_comparison": study.by_comparison,
        "concentration": study.concentration,
        "training": {
            "gradient_ratio": gradient_ratio(study, weights, calibration.mixture),
            "typical_ratio": typical_ratio(study, weights, calibration.mixture),
            "matched_weight": matched_weight(study, weights, calibration.mixture),
            "gradient_share": block_shares(study, weights, calibration.mixture.passed),
        },
    }
