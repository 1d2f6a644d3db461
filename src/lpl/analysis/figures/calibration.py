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
from .style import COLOURS, INK, QUIET, step_colour, styled


@styled
def noise_figure(calibration: Calibration) -> Figure:
    """What happens as the noise grows: reliability, magnification, shares of loss and gradient, and their size."""
    figure = Figure(figsize=(12.8, 5.8))
    panels = figure.subplots(2, 4)
    _reliability(panels[0, 0], calibration)
    _concentration(panels[0, 1], calibration)
    _shares(panels[0, 2], calibration, loss=True)
    _shares(panels[0, 3], calibration, loss=False)
    _ratios(panels[1, 0], calibration)
    _directions(panels[1, 1], calibration)
    _mixture(panels[1, 2], calibration)
    _costs(panels[1, 3], calibration)
    for axes in panels.flat[:7]:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("σ_t")
        axes.axvline(calibration.settings["sigma_threshold"], color=QUIET, linewidth=0.9, linestyle=":")
    handles, labels = panels[0, 3].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), title="block (dotted lines: τ_σ)")
    return figure


def _reliability(axes: Axes, calibration: Calibration) -> None:
    study = calibration.chosen
    for index in range(len(study.blocks)):
        colour = step_colour(index, len(study.blocks))
        axes.plot(study.sigmas, study.feature_reliability[:, index], color=colour, linewidth=1)
    axes.plot(study.sigmas, study.reliability, color=INK, marker="o", markersize=3, label="latents")
    axes.plot(
        study.sigmas, calibration.channelwise, color=QUIET, linestyle="--", linewidth=1, label="latents, no neighbours"
    )
    axes.plot([], [], color=step_colour(0, 2), linewidth=1, label="features, by block")
    axes.axhline(0, color=QUIET, linewidth=0.8)
    axes.set(ylabel="share of the variance explained", ylim=(-0.3, 1.02))
    axes.set_title("Reliability of ẑ0")
    axes.legend(fontsize=6.5, loc="lower left")


def _concentration(axes: Axes, calibration: Calibration) -> None:
    study, settings = calibration.paper, calibration.settings
    chosen = Comparison(settings["normalization"], settings["variance_floor"])
    shown = dict.fromkeys((PRINTED, chosen, COMPARISONS[0], Comparison("target"), Comparison("unit")))
    for colour, entry in zip(COLOURS[1:], shown, strict=False):
        name = "prediction, no floor (as printed)" if entry == PRINTED else entry.name
        label = f"{name}{' (chosen)' if entry == chosen else ''}"
        worst = study.concentration[entry.name].max(dim=1).values
        axes.plot(study.sigmas, worst, color=colour, linewidth=2.4 if entry == chosen else 1.2, label=label)
    axes.axhline(CONCENTRATED, color=QUIET, linewidth=0.8, linestyle="--", label="too much")
    axes.set(ylabel="share of the worst block's distance", ylim=(0, 1.5))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_title("Held by a tenth of its channels")
    axes.legend(fontsize=6.5, loc="upper left")


def _shares(axes: Axes, calibration: Calibration, loss: bool) -> None:
    study, weights = calibration.chosen, _chosen_weights(calibration)
    if loss:
        rows = study.loss.mean(dim=1) * weights
        rows = rows / rows.sum(dim=1, keepdim=True)
    else:
        levels = torch.eye(len(study.sigmas), dtype=torch.float64)
        rows = torch.stack([block_shares(study, weights, mass) for mass in levels])
    colours = [step_colour(index, len(study.blocks)) for index in range(len(study.blocks))]
    axes.stackplot(study.sigmas, rows.T.clamp_min(0), labels=study.blocks, colors=colours, alpha=0.85)
    axes.set(ylabel=f"share of the {'loss' if loss else 'gradient'}", ylim=(0, 1))
    axes.set_title("Loss by block" if loss else "Gradient by block")


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
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title("Gradient at the denoiser's output")
    axes.legend(fontsize=6.5)


def _directions(axes: Axes, calibration: Calibration) -> None:
    studies = (("the paper's", calibration.paper, COLOURS[1], 2.6), ("chosen", calibration.chosen, COLOURS[0], 1.2))
    for name, study, colour, width in studies:  # the chosen one on top: they often agree
        weights = _chosen_weights(calibration) if name == "chosen" else weights_of(study, study.blocks)
        axes.plot(study.sigmas, alignment(study, weights), color=colour, linewidth=width, label=f"to the error, {name}")
        pull = contrast_pull(study, weights)
        axes.plot(study.sigmas, pull, color=colour, linewidth=width, linestyle="--", label=f"to contrast, {name}")
    axes.axhline(0, color=QUIET, linewidth=0.8)
    low, high = axes.get_ylim()
    axes.set(ylabel="cosine", ylim=(min(low, -0.1), high + 0.45 * (high - low)))
    axes.set_title("Where the gradient points")
    axes.legend(fontsize=6.5, loc="upper left")


def _mixture(axes: Axes, calibration: Calibration) -> None:
    """How often training meets each level, as steps between the levels' borders."""
    sigmas, mixture = calibration.chosen.sigmas, calibration.mixture
    inner = (sigmas[1:] * sigmas[:-1]).sqrt()
    edges = torch.cat([sigmas[:1] ** 2 / inner[:1], inner, sigmas[-1:] ** 2 / inner[-1:]])
    passed = float(mixture.passed.sum())
    axes.stairs(mixture.everywhere, edges, color=QUIET, label="all samples")
    axes.stairs(mixture.passed, edges, color=COLOURS[0], fill=True, alpha=0.6, label=f"pass the gate, {passed:.0%}")
    axes.set(ylabel="share of training samples")
    axes.set_ylim(top=1.35 * float(mixture.everywhere.max()))
    axes.set_title("How often training meets it")
    axes.legend(fontsize=6.5, loc="upper left")


def _costs(axes: Axes, calibration: Calibration) -> None:
    study = calibration.chosen
    shares = block_shares(study, _chosen_weights(calibration), calibration.mixture.passed)
    total = sum(cost.added_gigaflops for cost in calibration.costs.values())
    rows = range(len(study.blocks))
    costs = [calibration.costs[name].added_gigaflops / total for name in study.blocks]
    axes.barh([row - 0.2 for row in rows], costs, height=0.36, color=COLOURS[6], label="of the cost (FLOP)")
    axes.barh([row + 0.2 for row in rows], shares, height=0.36, color=COLOURS[0], label="of the gradient")
    axes.set_yticks(list(rows), study.blocks)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("share")
    axes.set_title("What each block costs and gives")
    axes.set_ylim(bottom=len(study.blocks) + 0.3)
    axes.legend(fontsize=6.5, loc="lower right", ncols=2)


def _chosen_weights(calibration: Calibration) -> torch.Tensor:
    settings = calibration.settings
    blocks = settings["blocks"] or calibration.chosen.blocks
    return weights_of(calibration.chosen, blocks, settings["depth_weights"])
