"""Pictures of `lpl calibrate`."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..advice import CONCENTRATED, PAPER
from ..calibrate import Calibration
from ..distances import Comparison
from ..gradients import COMPARISONS, PRINTED
from ..mixture import alignment, block_shares, contrast_pull, gradient_ratios, weights_of
from .style import COLOURS, QUIET, step_colour, styled


@styled
def noise_figure(calibration: Calibration) -> Figure:
    """What happens as the noise grows: reliability, magnification, shares of the gradient, and its size."""
    figure = Figure(figsize=(9.6, 5.4))
    panels = figure.subplots(2, 3)
    _reliability(panels[0, 0], calibration)
    _concentration(panels[0, 1], calibration)
    _shares(panels[0, 2], calibration)
    _ratios(panels[1, 0], calibration)
    _directions(panels[1, 1], calibration)
    _costs(panels[1, 2], calibration)
    for axes in panels.flat[:5]:
        axes.set_xscale("log")
        axes.set_xlabel("σ_t")
        axes.axvline(calibration.settings["sigma_threshold"], color=QUIET, linewidth=0.9, linestyle=":")
    return figure


def _reliability(axes: Axes, calibration: Calibration) -> None:
    study = calibration.chosen
    axes.plot(study.sigmas, study.reliability, color=COLOURS[0], marker="o", markersize=3, label="ẑ0, latents")
    axes.plot(
        study.sigmas, calibration.channelwise, color=QUIET, linestyle="--", linewidth=1, label="without neighbours"
    )
    for index, name in enumerate(study.blocks):
        colour = step_colour(index, len(study.blocks))
        axes.plot(
            study.sigmas, study.feature_reliability[:, index], color=colour, linewidth=0.9, label=f"features {name}"
        )
    axes.set(ylabel="share of the variance explained", ylim=(-0.3, 1.02))
    axes.set_title("Reliability of ẑ0 (dotted: τ_σ)")
    axes.legend(fontsize=6.5)


def _concentration(axes: Axes, calibration: Calibration) -> None:
    study, settings = calibration.paper, calibration.settings
    chosen = Comparison(settings["normalization"], settings["variance_floor"])
    shown = dict.fromkeys((PRINTED, chosen, COMPARISONS[0], Comparison("target"), Comparison("unit")))
    for colour, entry in zip(COLOURS[1:], shown, strict=False):
        label = f"{entry.name}{' (chosen)' if entry == chosen else ''}{' (as printed)' if entry == PRINTED else ''}"
        worst = study.concentration[entry.name].max(dim=1).values
        axes.plot(study.sigmas, worst, color=colour, linewidth=2.4 if entry == chosen else 1.2, label=label)
    axes.axhline(CONCENTRATED, color=QUIET, linewidth=0.8, linestyle="--")
    axes.set(ylabel="share of the worst block's distance", ylim=(0, 1.02))
    axes.set_title("Held by a tenth of its channels")
    axes.legend(fontsize=6.5)


def _shares(axes: Axes, calibration: Calibration) -> None:
    study, weights = calibration.chosen, _chosen_weights(calibration)
    rows = [block_shares(study, weights, mass) for mass in torch.eye(len(study.sigmas), dtype=torch.float64)]
    colours = [step_colour(index, len(study.blocks)) for index in range(len(study.blocks))]
    axes.stackplot(study.sigmas, torch.stack(rows).T.clamp_min(0), labels=study.blocks, colors=colours, alpha=0.85)
    axes.set(ylabel="share of the gradient", ylim=(0, 1))
    axes.set_title("Gradient by block")
    axes.legend(fontsize=6.5, frameon=True, framealpha=0.85, edgecolor="none", loc="lower left")


def _ratios(axes: Axes, calibration: Calibration) -> None:
    weight = calibration.settings["weight"]
    chosen = weight * gradient_ratios(calibration.chosen, _chosen_weights(calibration))
    paper = PAPER["weight"] * gradient_ratios(
        calibration.paper, weights_of(calibration.paper, calibration.paper.blocks)
    )
    axes.plot(
        calibration.chosen.sigmas, chosen, color=COLOURS[0], marker="o", markersize=3, label=f"chosen, w = {weight:g}"
    )
    axes.plot(calibration.paper.sigmas, paper, color=COLOURS[1], label="the paper's settings, w = 3")
    axes.axhline(1, color=QUIET, linewidth=0.8, linestyle="--")
    axes.set(ylabel="‖∇ w·LPL‖ / ‖∇ ℓ2‖", yscale="log")
    axes.set_title("Gradient at the denoiser's output")
    axes.legend(fontsize=6.5)


def _directions(axes: Axes, calibration: Calibration) -> None:
    studies = (("chosen", calibration.chosen, COLOURS[0]), ("the paper's", calibration.paper, COLOURS[1]))
    for name, study, colour in studies:
        weights = _chosen_weights(calibration) if name == "chosen" else weights_of(study, study.blocks)
        axes.plot(study.sigmas, alignment(study, weights), color=colour, label=f"to the error, {name}")
        axes.plot(
            study.sigmas, contrast_pull(study, weights), color=colour, linestyle="--", label=f"to contrast, {name}"
        )
    axes.axhline(0, color=QUIET, linewidth=0.8)
    axes.set_ylabel("cosine")
    axes.set_title("Where the gradient points")
    axes.legend(fontsize=6.5)


def _costs(axes: Axes, calibration: Calibration) -> None:
    study = calibration.chosen
    shares = block_shares(study, _chosen_weights(calibration), calibration.mixture.passed)
    total = sum(cost.added_gigaflops for cost in calibration.costs.values())
    rows = range(len(study.blocks))
    costs = [calibration.costs[name].added_gigaflops / total for name in study.blocks]
    axes.barh([row - 0.2 for row in rows], costs, height=0.36, color=COLOURS[6], label="of the cost")
    axes.barh([row + 0.2 for row in rows], shares, height=0.36, color=COLOURS[0], label="of the gradient")
    axes.set_yticks(list(rows), study.blocks)
    axes.invert_yaxis()
    axes.set_xlabel("share")
    axes.set_title("What each block costs and gives")
    axes.set_xlim(right=1.35 * max([*costs, *shares.tolist()]))
    axes.legend(fontsize=6.5, loc="lower right")


def _chosen_weights(calibration: Calibration) -> torch.Tensor:
    settings = calibration.settings
    blocks = settings["blocks"] or calibration.chosen.blocks
    return weights_of(calibration.chosen, blocks, settings["depth_weights"])
