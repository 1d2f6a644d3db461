"""Pictures of `lpl analyze perturbation`."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter, ScalarFormatter

from ..perturbation import ImagePerturbation, PerturbationStudy, Position
from .style import COLOURS, QUIET, number, pixels, show, step_colour, styled

GAIN = 5.0  # by which difference pictures are magnified


def position_map(study: PerturbationStudy, values: torch.Tensor) -> np.ndarray:
    """One number a position on the latent's grid, (h, w); NaN where nothing was perturbed."""
    grid = np.full(study.grid, np.nan)
    for (row, column), value in zip(study.positions, values.tolist(), strict=True):
        grid[row, column] = value
    return grid


def difference_picture(image: ImagePerturbation, index: int, gain: float = GAIN) -> torch.Tensor:
    """gain · (picture with the noise − reference) around mid grey, (3, R, R) in [−1, 1]."""
    picture = image.pictures[index].float() / 127.5 - 1
    return (gain * (picture - image.reference)).clamp(-1, 1)


@styled
def figure_12(study: PerturbationStudy) -> Figure:
    """A row an image: picture, error by position, share outside the window, and the worst and the mildest position."""
    rows = len(study.images)
    figure = Figure(figsize=(10.4, 1.5 * rows + 0.55))
    grid = figure.subplots(rows, 7, squeeze=False)
    norm = _shared_norm(study)
    for axes, image in zip(grid, study.images, strict=True):
        _image_row(figure, axes, study, image, norm)
    titles = ("decoded", "error by position", "share far away", "worst position", f"change ×{GAIN:g}")
    for axes, title in zip(grid[0], (*titles, "mildest position", f"change ×{GAIN:g}"), strict=True):
        axes.annotate(title, (0.5, 1.14), xycoords="axes fraction", ha="center", fontsize=8, fontweight="bold")
    figure.supxlabel(_caption(study), fontsize=7.5, color=QUIET)
    return figure


def _caption(study: PerturbationStudy) -> str:
    return (
        "Error: mean squared change of the picture, values in [−1, 1], by where the noise went. Solid: the position; "
        f"dotted: within {study.window_radius}, beyond is far away."
    )


def _shared_norm(study: PerturbationStudy) -> Normalize:
    """One colour scale for all images, logarithmic where errors span a decade."""
    errors = torch.cat([image.error for image in study.images]).clamp_min(1e-12)
    low, high = float(errors.min()), float(errors.max()) * 1.0001
    return LogNorm(low, high) if high > 10 * low else Normalize(0.0, high)


def _image_row(
    figure: Figure, axes: np.ndarray, study: PerturbationStudy, image: ImagePerturbation, norm: Normalize
) -> None:
    show(axes[0], pixels(image.reference), " ")
    error = show(axes[1], position_map(study, image.error), cmap="magma", norm=norm)
    ticks = None if isinstance(norm, LogNorm) else _powers()
    figure.colorbar(error, ax=axes[1], fraction=0.046, pad=0.02, format=ticks)
    beyond = show(axes[2], position_map(study, 1 - image.local_share), cmap="viridis", vmin=0, vmax=1)
    figure.colorbar(beyond, ax=axes[2], fraction=0.046, pad=0.02, format=PercentFormatter(1.0))
    for column, index in ((3, int(image.error.argmax())), (5, int(image.error.argmin()))):
        _position_panels(axes[column], axes[column + 1], study, image, index)


def _powers() -> ScalarFormatter:
    """Ticks with a common power of ten above them."""
    formatter = ScalarFormatter(useMathText=True)
    formatter.set_powerlimits((-2, 2))
    return formatter


@styled
def worst_figure(study: PerturbationStudy, count: int = 6) -> Figure:
    """The worst positions of each image: what the latent with noise decodes to, and below it the change."""
    count = min(count, len(study.positions))
    rows = 2 * len(study.images)
    figure = Figure(figsize=(1.45 * (count + 1), 1.52 * rows + 0.35))
    grid = figure.subplots(rows, count + 1, squeeze=False)
    for index, image in enumerate(study.images):
        above, below = grid[2 * index], grid[2 * index + 1]
        show(above[0], pixels(image.reference), "decoded, no noise")
        below[0].set_visible(False)
        worst = image.error.argsort(descending=True)[:count].tolist()
        for decode, change, position in zip(above[1:], below[1:], worst, strict=True):
            _position_panels(decode, change, study, image, position)
    figure.supxlabel(f"Below each decode its change ×{GAIN:g}. {_caption(study)}", fontsize=7.5, color=QUIET)
    return figure


def _position_panels(
    decode: Axes, change: Axes, study: PerturbationStudy, image: ImagePerturbation, index: int
) -> None:
    position = study.positions[index]
    far = 1 - float(image.local_share[index])
    show(decode, pixels(image.pictures[index].float() / 127.5 - 1), f"{position}: {number(float(image.error[index]))}")
    show(change, pixels(difference_picture(image, index)), f"{far:.0%} far away")
    for panel in (decode, change):
        _mark(panel, study, position, image.reference.shape[-1])


def _mark(axes: Axes, study: PerturbationStudy, position: Position, resolution: int) -> None:
    """Outlines the pixels above a position, and the window that counts as local."""
    factor = resolution / study.grid[0]
    for reach, style in ((0, "-"), (study.window_radius, ":")):
        corner = ((position[1] - reach) * factor - 0.5, (position[0] - reach) * factor - 0.5)
        side = (2 * reach + 1) * factor
        axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=COLOURS[1], linewidth=0.9, linestyle=style))
    axes.set(xlim=(-0.5, resolution - 0.5), ylim=(resolution - 0.5, -0.5))


@styled
def locality_figure(study: PerturbationStudy) -> Figure:
    """How much of the error lies within r positions, and how unevenly positions cause it."""
    figure = Figure(figsize=(7.6, 2.9))
    near, uneven = figure.subplots(1, 2)
    for index, image in enumerate(study.images):
        colour = step_colour(index, len(study.images))
        shares = image.window_shares
        near.plot(shares.mean(dim=0), color=colour, marker="o", markersize=2.5, label=f"image {index}")
        near.fill_between(
            range(shares.shape[1]), shares.quantile(0.05, dim=0), shares.quantile(0.95, dim=0), color=colour, alpha=0.12
        )
        ordered = image.error.sort(descending=True).values
        uneven.plot(np.linspace(0, 100, len(ordered)), ordered / ordered.median(), color=colour)
    near.axvline(study.window_radius, color=QUIET, linewidth=0.8, linestyle=":")
    near.set(xlabel="radius r in latent positions (dotted: local)", ylabel="share of the squared error within")
    near.set_ylim(0, 1.02)
    near.yaxis.set_major_formatter(PercentFormatter(1.0))
    near.xaxis.set_major_locator(MaxNLocator(integer=True))
    near.set_title("Near and far: mean, 5th to 95th percentile")
    near.legend(loc="lower right")
    uneven.axhline(1, color=QUIET, linewidth=0.8, linestyle=":")
    uneven.set(xlabel="positions, worst first (%)", ylabel="error over the median position's")
    low, high = uneven.get_ylim()
    if high > 10 * max(low, 1e-12):
        uneven.set_yscale("log")
        uneven.yaxis.set_major_formatter("{x:g}")
    else:
        uneven.set_ylim(bottom=0)
    uneven.set_title("How unevenly positions matter")
    return figure
