"""Pictures of `lpl analyze features`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ...losses import outlier_mask
from ..features import HISTOGRAM_EDGES, NORM_SHARES, BlockFeatures, FeatureStudy
from ..maps import MASK_DEFAULTS
from .style import INK, QUIET, bare, number, show, step_colour, styled

MASKED = "#cf5420"
SWEEP_LABELS = {
    "offset": "offset (standard deviations)",
    "opening": "opening (pixels)",
    "closing": "closing (pixels)",
}


@styled
def figure_13(study: FeatureStudy, maps: Mapping[str, Tensor], channels: Mapping[str, Sequence[int]]) -> Figure:
    """Maps before and after the mask: a row a block, a pair of panels a channel.

    Args:
        study: what was measured.
        maps: features of one image, block → (C, H, W).
        channels: block → the channels to show, as many for each.
    """
    count = max(len(chosen) for chosen in channels.values())
    figure = Figure(figsize=(2.5 * count + 0.9, 1.42 * len(channels) + 0.4))
    grid = figure.subplots(len(channels), 2 * count, squeeze=False)
    for axes, (name, chosen) in zip(grid, channels.items(), strict=True):
        for panel in axes:
            bare(panel)
        size = "×".join(map(str, study.blocks[name].size))
        used = "" if study.blocks[name].masked_by_default else "\nnot masked\nby default"
        axes[0].set_ylabel(f"{name}\n{size}{used}", rotation=0, ha="right", va="center", labelpad=6, fontsize=7.5)
        for index, channel in enumerate(chosen):
            _before_and_after(axes[2 * index : 2 * index + 2], maps[name][channel], study.blocks[name], channel)
    note = "Left of each pair: the map, with its range. Right: what Algorithm 1 keeps, on a grey scale of its own."
    figure.supxlabel(note, fontsize=7.5, color=QUIET)
    return figure


def _before_and_after(axes: np.ndarray, values: Tensor, block: BlockFeatures, channel: int) -> None:
    mask = outlier_mask(values[None, None], block.down_f)[0, 0].numpy()
    plain = values.float().numpy()
    show(axes[0], plain, f"c = {channel}: {number(plain.min())} to {number(plain.max())}", cmap="gray")
    kept = np.where(mask, plain, np.nan)
    axes[1].set_facecolor(MASKED)
    low, high = (np.nanmin(kept), np.nanmax(kept)) if mask.any() else (0.0, 1.0)
    title = "nothing masked" if mask.all() else f"{1 - mask.mean():.2%} masked"
    show(axes[1], kept, title, cmap="gray", vmin=low, vmax=high)


@styled
def distributions_figure(study: FeatureStudy) -> Figure:
    """Histograms of standardised activations by block, the norms of positions, and the kurtosis of each channel."""
    figure = Figure(figsize=(10.4, 3.2))
    histogram, norms, kurtosis = figure.subplots(1, 3)
    for index, (name, block) in enumerate(study.blocks.items()):
        colour = step_colour(index, len(study.blocks))
        _histogram_line(histogram, block, colour, name)
        norms.plot([100 * share for share in NORM_SHARES], block.norms, color=colour, linewidth=1.2, label=name)
        values = np.sort(block.channels.kept_kurtosis.numpy())
        kurtosis.plot(np.linspace(0, 100, len(values)), values, color=colour, linewidth=1.2, label=name)
    _decorate_distributions(histogram, norms, kurtosis)
    handles, labels = histogram.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _histogram_line(axes: Axes, block: BlockFeatures, colour: str, label: str) -> None:
    width = float(HISTOGRAM_EDGES[1] - HISTOGRAM_EDGES[0])
    centres = ((HISTOGRAM_EDGES[1:] + HISTOGRAM_EDGES[:-1]) / 2).numpy()
    density = np.where(block.histogram > 0, block.histogram / width, np.nan)
    inner = slice(1, -1)  # the outermost bins hold all that is beyond
    axes.plot(centres[inner], density[inner], color=colour, linewidth=1.2, label=label)


def _decorate_distributions(histogram: Axes, norms: Axes, kurtosis: Axes) -> None:
    grid = np.linspace(float(HISTOGRAM_EDGES[0]), float(HISTOGRAM_EDGES[-1]), 400)
    normal = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    histogram.plot(grid, normal, color=QUIET, linewidth=1, linestyle="--", label="normal distribution")
    histogram.set(xlabel="standard deviations from the map's mean", ylabel="density", yscale="log", ylim=(1e-6, 20))
    histogram.set_title("Activations")
    norms.set(xlabel="share of the positions with more (%)", ylabel="norm over the median position's")
    norms.set(xscale="log", yscale="log", ylim=(0.9, max(10.0, 1.2 * norms.get_ylim()[1])))
    norms.invert_xaxis()
    norms.xaxis.set_major_formatter("{x:g}")
    norms.yaxis.set_major_formatter("{x:g}")
    norms.set_title("Norm over channels, worst image")
    kurtosis.axhline(3, color=QUIET, linewidth=0.8, linestyle=":")
    values = np.concatenate([line.get_ydata() for line in kurtosis.lines])
    highest = max(1.3 * float(values.max()), 4.0)
    kurtosis.set_yscale("symlog", linthresh=3)
    kurtosis.set_ylim(min(float(values.min()), -1.0) - 0.2, highest)
    kurtosis.set_yticks([tick for tick in (-2, -1, 0, 1, 2, 3, 10, 100, 1000, 10000, 100000) if tick <= highest])
    kurtosis.yaxis.set_major_formatter("{x:g}")
    kurtosis.minorticks_off()
    kurtosis.set(xlabel="channels (%)", ylabel="excess kurtosis of kept positions")
    kurtosis.set_title("Outliers, or heavy tails?")
    kurtosis.annotate("Laplace distribution", (0, 3), (0, 3), textcoords="offset points", fontsize=6.5)


@styled
def sweep_figure(study: FeatureStudy) -> Figure:
    """How the mask moves with each parameter of Algorithm 1: positions above, energy below."""
    figure = Figure(figsize=(2.3 * len(study.sweeps) + 0.6, 4.2))
    panels = figure.subplots(2, len(study.sweeps), squeeze=False, sharey="row", sharex="col")
    for column, sweep in enumerate(study.sweeps):
        for row, shares in enumerate((sweep.masked_share, sweep.masked_energy)):
            _sweep_panel(panels[row, column], study, sweep.values, shares)
            panels[row, column].axvline(MASK_DEFAULTS[sweep.parameter], color=QUIET, linewidth=0.8, linestyle=":")
        panels[1, column].set_xlabel(SWEEP_LABELS.get(sweep.parameter, sweep.parameter))
        if sweep.parameter == "quantile":
            panels[0, column].set_xscale("log")
            panels[1, column].xaxis.set_major_formatter("{x:g}")
        else:
            panels[1, column].set_xticks(sweep.values, [f"{value:g}" for value in sweep.values])
    panels[0, 0].set_ylabel("positions masked (%)")
    panels[1, 0].set_ylabel("energy masked (%)")
    handles, labels = panels[0, -1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    title = "Algorithm 1's mask as one parameter moves. Dotted: the appendix's value; dashed: not masked by default"
    figure.suptitle(title, fontsize=9, color=INK)
    return figure


def _sweep_panel(
    axes: Axes, study: FeatureStudy, values: Sequence[float], shares: Mapping[str, Sequence[float]]
) -> None:
    for index, (name, row) in enumerate(shares.items()):
        style = "o-" if study.blocks[name].masked_by_default else "o--"
        colour = step_colour(index, len(shares))
        axes.plot(values, 100 * np.array(row), style, color=colour, markersize=3, linewidth=1.2, label=name)
