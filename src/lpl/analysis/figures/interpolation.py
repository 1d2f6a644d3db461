"""Pictures of `lpl analyze interpolation`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..interpolation import ALL_BLOCKS, Correlation, InterpolationStudy
from ..statistics import Interval
from ..variants import METHODS
from .style import COLOURS, QUIET, pixels, show, styled

METHOD_LABELS = {
    "pixel-bilinear": "bilinear\nin pixels",
    "latent-nearest": "nearest\nin latents",
    "latent-bilinear": "bilinear\nin latents",
    "latent-bicubic": "bicubic\nin latents",
}
DAMAGE_LABELS = {
    "ms_ssim": "1 − MS-SSIM",
    "gmsd": "GMSD",
    "sliced_wasserstein": "sliced Wasserstein",
    "extractor": "extractor's features",
}
MEASURE_LABELS = {"latent_mse": "latent MSE", "pixel_mse": "pixel MSE", "psnr": "PSNR", "ssim": "SSIM"} | DAMAGE_LABELS


@styled
def figure_11(study: InterpolationStudy, image: int = 0) -> Figure:
    """The appendix's layout: rows are methods, columns s, each picture with its latent MSE and GMSD.

    Args:
        study: what to show.
        image: which of the pictures kept.
    """
    scales = sorted({variant.scale for variant in study.variants})
    figure = Figure(figsize=(1.3 * (len(scales) + 1) + 0.75, 1.44 * len(METHODS) + 0.4))
    grid = figure.subplots(len(METHODS), len(scales) + 1, squeeze=False)
    for row, method in enumerate(METHODS):
        show(grid[row, 0], pixels(study.reference[image]), " ")
        grid[row, 0].set_ylabel(METHOD_LABELS[method], rotation=0, ha="right", va="center", fontsize=8.5, labelpad=6)
        for column, scale in enumerate(scales, start=1):
            _variant_panel(grid[row, column], study, image, method, scale)
    for axes, label in zip(grid[0], ("unharmed", *(f"s = {scale:g}" for scale in scales)), strict=True):
        axes.annotate(label, (0.5, 1.17), xycoords="axes fraction", ha="center", fontweight="bold", fontsize=9)
    figure.supxlabel("MSE: of the latents. GMSD: damage to the decoded picture, 0 for none.", fontsize=7.5, color=QUIET)
    return figure


def _variant_panel(axes: Axes, study: InterpolationStudy, image: int, method: str, scale: float) -> None:
    index = next(i for i, variant in enumerate(study.variants) if (variant.method, variant.scale) == (method, scale))
    error, damage = study.values["latent_mse"][image, index], study.damages["gmsd"][image, index]
    show(axes, pixels(study.decoded[image, index]), f"MSE {error:.2f}, GMSD {damage:.2f}")


@styled
def correlations_figure(study: InterpolationStudy, normalization: str = "prediction") -> Figure:
    """How well each measure orders pictures by damage: Spearman's ρ with 95 % intervals, one panel a damage.

    Lines mark the latent MSE: what lies right of its line orders the pictures better.
    """
    damages = list(study.damages)
    measures = [name for name in _ordered_measures(study, normalization) if name not in damages]
    figure = Figure(figsize=(2.6 * len(damages) + 1.6, 0.27 * len(measures) + 1.3))
    panels = figure.subplots(1, len(damages), sharey=True, sharex=True, squeeze=False)[0]
    for axes, damage in zip(panels, damages, strict=True):
        for offset, subset, colour in ((-0.14, "all", COLOURS[0]), (0.14, "latent", COLOURS[1])):
            found = {c.measure: c for c in study.correlations if c.damage == damage and c.subset == subset}
            _intervals(axes, [found[name] for name in measures], offset, colour)
            axes.axvline(found["latent_mse"].rho.mean, color=colour, linewidth=0.8, linestyle=":")
        axes.set_title(f"Damage: {DAMAGE_LABELS.get(damage, damage)}")
        axes.axvline(0, color=QUIET, linewidth=0.6)
    panels[0].set_yticks(range(len(measures)), [_measure_label(name) for name in measures])
    panels[0].invert_yaxis()
    for colour, label in ((COLOURS[0], "all ways of shrinking"), (COLOURS[1], "in latents alone")):
        panels[-1].plot([], [], "o", color=colour, markersize=4, label=label)
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    note = "Spearman's ρ, mean over images and its 95 % interval; dotted: the latent MSE's"
    figure.supxlabel(note, fontsize=8, x=0.01, ha="left")
    return figure


def _intervals(axes: Axes, found: Sequence[Correlation], offset: float, colour: str) -> None:
    rows = np.arange(len(found)) + offset
    means = np.array([entry.rho.mean for entry in found])
    reach = np.abs(np.array([[entry.rho.low for entry in found], [entry.rho.high for entry in found]]) - means)
    axes.errorbar(means, rows, xerr=reach, fmt="o", color=colour, markersize=3.5, linewidth=1)


def _ordered_measures(study: InterpolationStudy, normalization: str) -> list[str]:
    """Plain measures, then the blocks under one normalisation, then the whole loss under each."""
    plain = [name for name in study.values if not name.startswith("feature/")]
    split = {name: name.removeprefix("feature/").rsplit("/", 1) for name in study.values if name.startswith("feature/")}
    known = {kind for _, kind in split.values()}
    shown = normalization if normalization in known else sorted(known)[0]
    blocks = [name for name, (block, kind) in split.items() if kind == shown and block != ALL_BLOCKS]
    whole = [name for name, (block, _) in split.items() if block == ALL_BLOCKS]
    return plain + blocks + whole


def _measure_label(name: str) -> str:
    if not name.startswith("feature/"):
        return MEASURE_LABELS.get(name, name)
    block, kind = name.removeprefix("feature/").rsplit("/", 1)
    return f"all blocks, {kind}" if block == ALL_BLOCKS else f"block {block}, {kind}"


@styled
def damage_figure(study: InterpolationStudy, normalization: str = "prediction", damage: str = "gmsd") -> Figure:
    """Damage against the latent MSE, and against the decoder's features, one point a variant (mean over images)."""
    whole = f"feature/{ALL_BLOCKS}/{normalization}"
    figure = Figure(figsize=(7.2, 3.2))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, measure, label in (
        (panels[0], "latent_mse", "latent MSE"),
        (panels[1], whole, f"distance of decoder features, {normalization}"),
    ):
        _scatter(axes, study, measure, damage)
        found = {c.subset: c.rho for c in study.correlations if (c.measure, c.damage) == (measure, damage)}
        axes.set_title(f"ρ = {_with_interval(found['all'])}", pad=14)
        axes.annotate(
            f"in latents alone {_with_interval(found['latent'])}",
            (0, 1),
            (0, 4),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=7.5,
            color=QUIET,
        )
        axes.set(xlabel=label, xscale="log")
    panels[0].set_ylabel(f"damage: {DAMAGE_LABELS.get(damage, damage)}")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(METHODS))
    return figure


def _with_interval(value: Interval) -> str:
    return f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]".replace("-", "−")


def _scatter(axes: Axes, study: InterpolationStudy, measure: str, damage: str) -> None:
    x, y = study.values[measure].mean(axis=0), study.damages[damage].mean(axis=0)
    for colour, method in zip(COLOURS, METHODS, strict=False):
        chosen = [i for i, variant in enumerate(study.variants) if variant.method == method]
        chosen.sort(key=lambda i: study.variants[i].scale)
        label = METHOD_LABELS[method].replace("\n", " ")
        axes.plot(x[chosen], y[chosen], "o-", color=colour, markersize=4, linewidth=0.8, label=label)
        for index in {chosen[0], chosen[-1]}:  # the line says which are in between
            axes.annotate(
                f"s={study.variants[index].scale:g}",
                (x[index], y[index]),
                (4, 3),
                textcoords="offset points",
                fontsize=6.5,
                color=colour,
            )
