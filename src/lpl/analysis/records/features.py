"""The folder of `lpl analyze features`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...autoencoders import DecoderFeatures
from ...losses import outlier_mask
from ..features import HISTOGRAM_EDGES, NORM_SHARES, QUANTILES, BlockFeatures, FeatureStudy
from ..figures.features import distributions_figure, figure_13, sweep_figure
from ..inputs import AnalysisError, Pictures
from ..maps import MASK_DEFAULTS
from ..output import AnalysisFolder, sprite
from .common import Rows, grey_picture, save_originals

TILE = 64  # pixels a side of the maps in a sprite, at the most
COLUMNS = 8  # of a sprite
BINS = 48  # of a map's histogram, from its least to its greatest value


def choose_channels(study: FeatureStudy, channels: Sequence[int] | None, count: int) -> dict[str, list[int]]:
    """The channels to show of each block: those asked for, or those with the largest outliers.

    Raises:
        AnalysisError: a block that has no such channel.
    """
    chosen: dict[str, list[int]] = {}
    for name, block in study.blocks.items():
        total = len(block.rank_by_outliers)
        for channel in channels or ():
            if not 0 <= channel < total:
                raise AnalysisError(f"channel: got {channel}, block {name} has channels 0 to {total - 1}")
        chosen[name] = list(channels) if channels else block.rank_by_outliers[:count].tolist()
    return chosen


@torch.no_grad()
def maps_of(features: DecoderFeatures, latent: Tensor) -> dict[str, Tensor]:
    """Features of one latent (C, h, w): block → (C_l, H_l, W_l), on the CPU."""
    return {name: maps[0].cpu() for name, maps in features(latent[None]).items()}


def record_features(
    folder: AnalysisFolder,
    study: FeatureStudy,
    pictures: Pictures,
    maps: Sequence[Mapping[str, Tensor]],
    shown: Mapping[str, Sequence[int]],
    sprite_channels: int = 64,
) -> tuple[Rows, dict[str, Any]]:
    """Draws the figures, writes the maps, and returns the JSON file's `images` and `results`.

    Args:
        folder: to write into.
        study: what was measured.
        pictures: the images.
        maps: features of the first images, block → (C, H, W).
        shown: block → channels of the figures.
        sprite_channels: channels of each block whose maps are written, those with the largest outliers first.
    """
    for index, features in enumerate(maps):
        folder.save_figure(f"figure-13-{index:03d}", figure_13(study, features, shown))
    folder.save_figure("distributions", distributions_figure(study))
    if study.sweeps:
        folder.save_figure("mask", sweep_figure(study))
    rows = save_originals(folder, pictures, len(maps))
    for index, features in enumerate(maps):
        rows[index]["maps"] = {
            name: _write_maps(folder, features[name], block, sprite_channels, f"images/{index:03d}/block-{number}")
            for number, (name, block) in enumerate(study.blocks.items())
        }
    return rows, _results(study)


def _write_maps(folder: AnalysisFolder, maps: Tensor, block: BlockFeatures, count: int, base: str) -> dict[str, Any]:
    """Sprites of the maps before and after the mask; the mask is written as transparency."""
    chosen = block.rank_by_outliers[:count]
    values = maps[chosen].float().cpu()
    masks = outlier_mask(values[None], block.down_f)[0]
    before, after, scales = [], [], []
    for plain, mask in zip(values, masks, strict=True):
        kept = plain[mask] if bool(mask.any()) else plain.flatten()
        scales.append({"low": plain.min(), "high": plain.max(), "kept_low": kept.min(), "kept_high": kept.max()})
        before.append(grey_picture(_shrink(plain).numpy(), float(plain.min()), float(plain.max())))
        grey = grey_picture(_shrink(plain).numpy(), float(kept.min()), float(kept.max()))
        alpha = grey_picture(_shrink(mask.float(), keep_low=True).numpy(), 0, 1)
        after.append(Image.merge("LA", (grey, alpha)))
    columns = min(COLUMNS, len(before))
    return {
        "channels": chosen,
        "before": folder.save_picture(f"{base}-before.png", sprite(before, columns)),
        "after": folder.save_picture(f"{base}-after.png", sprite(after, columns)),
        "tile": list(before[0].size),
        "columns": columns,
        "scales": [{key: float(value) for key, value in entry.items()} for entry in scales],
        "masked_share": (~masks).float().mean(dim=(-2, -1)),
        "histograms": [_histogram(plain, mask) for plain, mask in zip(values, masks, strict=True)],
    }


def _histogram(values: Tensor, mask: Tensor) -> dict[str, list[int]]:
    """Counts of a map's values in `BINS` equal steps from its least to its greatest, kept and masked."""
    span = (float(values.min()), float(values.max()))
    parts = {"kept": values[mask], "masked": values[~mask]}
    return {name: np.histogram(part.numpy(), BINS, span)[0].tolist() for name, part in parts.items()}


def _shrink(values: Tensor, keep_low: bool = False) -> Tensor:
    """A map (H, W) at 64 a side or fewer, keeping of each window what lies farthest from the mean (or the lowest)."""
    factor = -(-max(values.shape) // TILE)
    if factor == 1:
        return values
    high = F.max_pool2d(values[None], factor, ceil_mode=True)[0]
    low = -F.max_pool2d(-values[None], factor, ceil_mode=True)[0]
    if keep_low:
        return low
    mean = values.mean()
    return torch.where(high - mean >= mean - low, high, low)


def _results(study: FeatureStudy) -> dict[str, Any]:
    return {
        "quantile_levels": QUANTILES,
        "histogram_edges": HISTOGRAM_EDGES,
        "norm_shares": NORM_SHARES,
        "mask_defaults": MASK_DEFAULTS,
        "blocks": {name: _block_entry(block) for name, block in study.blocks.items()},
        "sweeps": {
            sweep.parameter: {
                "values": sweep.values,
                "masked_share": sweep.masked_share,
                "masked_energy": sweep.masked_energy,
            }
            for sweep in study.sweeps
        },
    }


def _block_entry(block: BlockFeatures) -> dict[str, Any]:
    channels = block.channels
    return {
        "size": block.size,
        "down_f": block.down_f,
        "masked_by_default": block.masked_by_default,
        "masked_share": float(channels.masked_share.mean()),
        "masked_energy": float(channels.masked_energy.mean()),
        "energy_lift": block.energy_lift,
        "zero_share": float(channels.zero_share.mean()),
        "kurtosis": {"median": float(channels.kurtosis.median()), "largest": float(channels.kurtosis.max())},
        "kept_kurtosis": {
            "median": float(channels.kept_kurtosis.median()),
            "largest": float(channels.kept_kurtosis.max()),
        },
        "dead_channels": block.dead,
        "weak_channels": block.weak,
        "rank_by_outliers": block.rank_by_outliers,
        "histogram": block.histogram,
        "norms": block.norms,
        "largest_norm": block.largest_norm,
        "channels": {name: np.asarray(values) for name, values in vars(channels).items()},
    }
