"""Pictures of `lpl analyze linear`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..linear import LinearCheck
from ..local import TOLERANCES, MetricAt, TaylorStudy
from .style import COLOURS, QUIET, pixels, show, step_colour, styled


@styled
def equations_figure(checks: Sequence[LinearCheck]) -> Figure:
    """Equations (10) and (12) for a linear decoder: the identity, and how loose the bound is."""
    figure = Figure(figsize=(7.6, 3.2))
    identity, bound = figure.subplots(1, 2)
    bins = np.geomspace(1, 1.1 * max(check.loosest for check in checks), 80)
    for colour, check in zip(COLOURS, checks, strict=False):
        label = f"{check.shape}, {check.image_values}×{check.latent_values}"
        identity.plot(check.divergence[:200], check.closed_form[:200], ".", color=colour, markersize=4, label=label)
        identity.plot(check.divergence[:200], check.as_printed[:200], "x", color=colour, markersize=3, alpha=0.5)
        bound.hist(check.tightness, bins=bins, color=colour, alpha=0.6)
        bound.axvline(check.loosest, color=colour, linewidth=1, linestyle=":")
    highest = max(float(check.divergence[:200].max()) for check in checks)
    identity.plot([0, highest], [0, highest], color=QUIET, linewidth=0.8)
    identity.set(xlabel="KL(q‖p) (nats)", ylabel="equation (10) (nats)")
    identity.set_title("Dots: put right; crosses: as printed")
    shifts = f"random Δμ, of {len(checks[0].tightness):,}"
    bound.set(xlabel="bound (12) over exact penalty (11)", ylabel=shifts, xscale="log", xlim=(0.9, None))
    bound.xaxis.set_major_formatter("{x:g}")
    bound.set_title("The bound is loose; dotted: the worst Δμ")
    figure.legend(*identity.get_legend_handles_labels(), loc="outside lower center", ncols=len(checks))
    return figure


@styled
def metric_figure(metrics: Sequence[MetricAt]) -> Figure:
    """The spectrum of JᵀJ and its diagonal by channel."""
    figure = Figure(figsize=(8.4, 3.2))
    spectrum, channels = figure.subplots(1, 2, width_ratios=(1, 1.25))
    for index, metric in enumerate(metrics):
        _spectrum_line(
            spectrum, metric, step_colour(index, len(metrics)), f"latent {index}: κ ≥ {metric.condition:.2g}"
        )
    spectrum.set(xlabel="λ", ylabel="share of eigenvalues above λ", xscale="log", yscale="log")
    spectrum.set_title("Eigenvalues of JᵀJ")
    spectrum.legend(loc="lower left", title="κ = λ_max/λ_min", title_fontsize=7.5)
    mean = np.mean([metric.channels.mean.numpy() for metric in metrics], axis=0)
    order = np.argsort(mean)[::-1]
    channels.bar(range(len(mean)), mean[order], color=COLOURS[0], width=0.8)
    channels.axhline(mean.mean(), color=COLOURS[1], linewidth=1, label="mean: what latent MSE takes all to be")
    channels.set(xlabel="latent channel, most sensitive first", ylabel="squared image change per unit²")
    crowded = len(order) > 20
    shown = range(0, len(order), 1 if len(order) <= 40 else 4)
    channels.set_xticks(list(shown), [str(order[rank]) for rank in shown], fontsize=6, rotation=90 if crowded else 0)
    channels.grid(visible=False, axis="x")
    channels.set_title(f"Sensitivity by channel: {mean.max() / mean.min():.0f} to 1")
    channels.legend()
    return figure


def _spectrum_line(axes: Axes, metric: MetricAt, colour: str, label: str) -> None:
    """Lanczos' estimate of the spectrum; below its precision nothing is known."""
    known = metric.ritz.values > metric.precision
    share = 1 - metric.ritz.weights.cumsum(0).numpy()
    share = np.clip(share, 1 / metric.dimension, None)
    axes.step(metric.ritz.values[known], share[known.numpy()], color=colour, where="post", linewidth=1.3, label=label)


@styled
def directions_figure(metrics: Sequence[MetricAt], step_length: float) -> Figure:
    """What steps of one length along the most and the least visible direction do to the picture."""
    figure = Figure(figsize=(4.9, 1.72 * len(metrics) + 0.35))
    grid = figure.subplots(len(metrics), 3, squeeze=False)
    for axes, metric in zip(grid, metrics, strict=True):
        show(axes[0], pixels(metric.reference), "decoded")
        show(axes[1], pixels(metric.largest_step), f"along λ_max = {metric.largest:.3g}")
        show(axes[2], pixels(metric.smallest_step), f"along λ_min ≤ {metric.smallest:.2g}")
    figure.suptitle(f"Steps of {step_length:.0%} of the latent's norm", fontsize=9)
    return figure


@styled
def taylor_figure(noise: TaylorStudy, predictions: TaylorStudy) -> Figure:
    """How far the linear approximation (13)–(14) holds: for white noise, and for the errors of ẑ0."""
    figure = Figure(figsize=(7.6, 3.1))
    panels = figure.subplots(1, 2, sharey=True)
    _taylor_panel(panels[0], noise, "σ of white noise on the latent", "σ")
    _taylor_panel(panels[1], predictions, "σ_t of the noise that ẑ0 was predicted from", "σ_t")
    panels[0].set_ylabel("relative error of F(z) + Je")
    panels[0].set_title("White noise, e = σn")
    panels[1].set_title("Errors that training sees, e = ẑ0 − z0")
    return figure


def _taylor_panel(axes: Axes, study: TaylorStudy, label: str, symbol: str) -> None:
    for row in study.errors:
        axes.plot(study.sigmas, row, color=COLOURS[0], alpha=0.3, linewidth=0.9)
    mean = study.errors.mean(axis=0)
    axes.plot(study.sigmas, mean, "o-", color=COLOURS[0], markersize=3.5, label="mean over latents")
    for colour, tolerance in zip(COLOURS[1:], TOLERANCES, strict=False):
        reached = study.reached(tolerance, symbol)
        axes.axhline(tolerance, color=colour, linewidth=1, linestyle=":", label=f"{tolerance:.0%} {reached}")
    axes.set(xlabel=label, xscale="log", yscale="log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(loc="lower right")
