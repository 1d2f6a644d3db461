"""How all figures look."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

INK, QUIET, LINE = "#1f2023", "#6a6862", "#e5e2dc"
COLOURS = ("#3568b8", "#cf5420", "#248763", "#8552b3", "#a37708", "#bd3d7b", "#45443f")
STEPS = ("#43358f", "#3e62b0", "#2b86a8", "#2a9b82", "#62a043", "#b89a00")  # for things in an order
STYLE: Any = {
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.6,
    "image.interpolation": "nearest",
}

Arguments = ParamSpec("Arguments")


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Runs a drawing function under the common style, leaving matplotlib's settings as they were."""

    @functools.wraps(draw)
    def wrapper(*arguments: Arguments.args, **options: Arguments.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*arguments, **options)

    return wrapper


def pixels(image: Tensor) -> npt.NDArray[np.float64]:
    """An image (3, H, W) in [−1, 1] as matplotlib shows it: (H, W, 3) in [0, 1]."""
    return ((image.detach().double().cpu().clamp(-1, 1) + 1) / 2).permute(1, 2, 0).numpy()


def show(axes: Axes, picture: Any, title: str = "", **options: Any) -> Any:
    """Shows a picture without ticks or frame."""
    shown = axes.imshow(picture, **options)
    bare(axes)
    if title:
        axes.set_title(title, fontsize=7.5, fontweight="normal", loc="center", pad=3)
    return shown


def bare(axes: Axes) -> None:
    """Takes ticks, frame and grid away."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def step_colour(index: int, count: int) -> str:
    """The colour of one of several things in an order, from first to last."""
    position = index / max(count - 1, 1) * (len(STEPS) - 1)
    return STEPS[round(position)]


def number(value: float) -> str:
    """A number to two significant digits, with a proper minus sign."""
    return f"{value:.2g}".replace("-", "−")
