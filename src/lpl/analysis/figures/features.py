"""Pictures of `lpl analyze features`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ...losses import outlier_mask
from ..features import HISTOGRAM_EDGES, MASK_DEFAULTS, BlockFeatures, FeatureStudy
from .style import INK, QUIET, bare, show, step_colour, styled

MASKED = "#cf5420"


@styled
def figure_13(study: FeatureStudy, maps: Mapping[str, Tensor], channels: Mapping[str, Sequence[int]]) -> Figure:
    """Maps before and after the mask: a row a block, a pair of panels a channel.

    Args:
        study: what was measured.
        maps: features of one image, block → (C, H, W).
        channels: block → the channels to show, as many for each.
    """
    count = max(len(chosen) for chosen in channels.values())
    figure = Figure(figsize=(2.35 * count + 0.9, 1.5 * len(channels) + 0.45))
    grid = figure.subplots(len(channels), 2 * count, squeeze=False)
    for axes, (name, chosen) in zip(grid, channels.items(), strict=True):
        for panel in axes:
            bare(panel)
        label = f"{name}\n{study.blocks[name].size[0]}×{study.blocks[name].size[1]}"
        axes[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=6)
        for index, channel in enumerate(chosen):
            _before_and_after(axes[2 * index : 2 * index + 2], maps[name][channel], study.blocks[name], channel)
    return figure


def _before_and_after(axes: np.ndarray, values: Tensor, block: BlockFeatures, channel: int) -> None:
    mask = outlier_mask(values[None, None], block.down_f)[0, 0].numpy()
    plain = values.float().numpy()
    show(axes[0], plain, f"c = {channel}: {plain.min():.2g} to {plain.max():.2g}", cmap="gray")
    kept = np.where(mask, plain, np.nan)
    axes[1].set_facecolor(MASKED)
    low, high = (np.nanmin(kept), np.nanmax(kept)) if mask.any() else (0.0, 1.0)
    show(axes[1], kept, f"{1 - mask.mean():.2%} masked", cmap="gray", vmin=low, vmax=high)


@styled
def distributions_figure(study: FeatureStudy) -> Figure:
    """Histograms of standardised activations by block, and the kurtosis of each channel."""
    figure = Figure(figsize=(7.6, 3.0))
    histogram, kurtosis = figure.subplots(1, 2)
    centres = ((HISTOGRAM_EDGES[1:] + HISTOGRAM_EDGES[:-1]) / 2).numpy()
    width = float(HISTOGRAM_EDGES[1] - HISTOGRAM_EDGES[0])
    for index, (name, block) in enumerate(study.blocks.items()):
        colour = step_colour(index, len(study.blocks))
        density = np.where(block.histogram > 0, block.histogram / width, np.nan)
        histogram.plot(centres, density, color=colour, linewidth=1.2, label=name)
        values = np.sort(block.channels.kept_kurtosis.numpy())
        kurtosis.plot(np.linspace(0, 100, len(values)), values, color=colour, label=name)
    normal = np.exp(-(centres**2) / 2) / np.sqrt(2 * np.pi)
    histogram.plot(centres, normal, color=QUIET, linewidth=1, linestyle="--", label="normal")
    histogram.set(xlabel="standard deviations from the map's mean", ylabel="density", yscale="log", ylim=(1e-6, 10))
    histogram.set_title("Activations")
    histogram.legend(title="block", loc="upper left")
    kurtosis.axhline(3, color=QUIET, linewidth=0.8, linestyle=":")
    kurtosis.set(xlabel="channels (%)", ylabel="excess kurtosis of kept positions", yscale="symlog")
    kurtosis.set_ylim(bottom=-3)
    kurtosis.set_title("Outliers, or heavy tails?")
    kurtosis.annotate("Laplace distribution", (98, 3), (0, -9), textcoords="offset points", ha="right", fontsize=6.5)
    return figure


@styled
def sweep_figure(study: FeatureStudy) -> Figure:
    """How the mask moves with each parameter of Algorithm 1: positions above, energy below."""
    figure = Figure(figsize=(2.3 * len(study.sweeps) + 0.6, 4.0))
    panels = figure.subplots(2, len(study.sweeps), squeeze=False, sharey="row", sharex="col")
    for column, sweep in enumerate(study.sweeps):
        for row, shares in enumerate((sweep.masked_share, sweep.masked_energy)):
            _sweep_panel(panels[row, column], sweep.values, shares)
            panels[row, column].axvline(MASK_DEFAULTS[sweep.parameter], color=QUIET, linewidth=0.8, linestyle=":")
        panels[1, column].set_xlabel(sweep.parameter)
        if sweep.parameter == "quantile":
            panels[0, column].set_xscale("log")
    panels[0, 0].set_ylabel("positions masked (%)")
    panels[1, 0].set_ylabel("energy masked (%)")
    panels[0, -1].legend(title="block")
    figure.suptitle("Algorithm 1's mask as one parameter moves; dotted: the appendix's", fontsize=9, color=INK)
    return figure


def _sweep_panel(axes: Axes, values: Sequence[float], shares: Mapping[str, Sequence[float]]) -> None:
    for index, (name, row) in enumerate(shares.items()):
        colour = step_colour(index, len(shares))
        axes.plot(values, 100 * np.array(row), "o-", color=colour, markersize=3, linewidth=1.2, label=name)
