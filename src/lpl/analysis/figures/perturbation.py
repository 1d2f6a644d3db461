"""Pictures of `lpl analyze perturbation`."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from ..perturbation import ImagePerturbation, PerturbationStudy, Position
from .style import COLOURS, QUIET, pixels, show, step_colour, styled

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
    figure = Figure(figsize=(10.4, 1.62 * rows + 0.45))
    grid = figure.subplots(rows, 7, squeeze=False)
    norm = _shared_norm(study)
    for axes, image in zip(grid, study.images, strict=True):
        _image_row(figure, axes, study, image, norm)
    titles = ("decoded", "error by position", "share far away", "worst position", f"change ×{GAIN:g}")
    for axes, title in zip(grid[0], (*titles, "mildest position", f"change ×{GAIN:g}"), strict=True):
        axes.set_title(title, fontsize=8, fontweight="bold", loc="center", pad=4)
    return figure


def _shared_norm(study: PerturbationStudy) -> LogNorm:
    errors = torch.cat([image.error for image in study.images]).clamp_min(1e-12)
    return LogNorm(float(errors.min()), float(errors.max()) * 1.0001)


def _image_row(
    figure: Figure, axes: np.ndarray, study: PerturbationStudy, image: ImagePerturbation, norm: LogNorm
) -> None:
    show(axes[0], pixels(image.reference))
    error = show(axes[1], position_map(study, image.error), cmap="magma", norm=norm)
    bar = figure.colorbar(error, ax=axes[1], fraction=0.046, pad=0.02)
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    beyond = show(axes[2], position_map(study, 1 - image.local_share), cmap="viridis", vmin=0, vmax=1)
    figure.colorbar(beyond, ax=axes[2], fraction=0.046, pad=0.02)
    for column, index in ((3, int(image.error.argmax())), (5, int(image.error.argmin()))):
        show(axes[column], pixels(image.pictures[index].float() / 127.5 - 1))
        show(axes[column + 1], pixels(difference_picture(image, index)))
        position = study.positions[index]
        label = f"{position}: {float(image.error[index]):.2g}, {1 - float(image.local_share[index]):.0%} far away"
        axes[column].text(0.5, -0.04, label, transform=axes[column].transAxes, ha="center", va="top", fontsize=6.5)
        for panel in (axes[column], axes[column + 1]):
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
    figure = Figure(figsize=(7.2, 2.8))
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
    near.set(xlabel="radius r in latent positions", ylabel="share of the squared error within", ylim=(0, 1.02))
    near.set_title("Near and far: mean, 5th to 95th percentile")
    near.legend(loc="lower right")
    uneven.set(xlabel="positions, worst first (%)", ylabel="error over the median position's", yscale="log")
    uneven.set_title("Some positions matter more")
    return figure
