"""Pictures of `lpl analyze linear`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ..linear import LinearCheck
from ..local import TOLERANCES, MetricAt, TaylorStudy
from .style import COLOURS, QUIET, pixels, show, step_colour, styled


@styled
def equations_figure(checks: Sequence[LinearCheck]) -> Figure:
    """Equations (10) and (12) for a linear decoder: the identity, and how loose the bound is."""
    figure = Figure(figsize=(7.6, 3.0))
    identity, bound = figure.subplots(1, 2)
    for colour, check in zip(COLOURS, checks, strict=False):
        label = f"{check.shape}, {check.image_values}×{check.latent_values}"
        identity.plot(check.divergence[:200], check.closed_form[:200], ".", color=colour, markersize=4, label=label)
        identity.plot(check.divergence[:200], check.as_printed[:200], "x", color=colour, markersize=3, alpha=0.5)
        bound.hist(np.log10(check.tightness), bins=40, color=colour, alpha=0.55, density=True, label=label)
        bound.axvline(np.log10(check.loosest), color=colour, linewidth=1, linestyle=":")
    highest = max(float(check.divergence[:200].max()) for check in checks)
    identity.plot([0, highest], [0, highest], color=QUIET, linewidth=0.8)
    identity.set(xlabel="KL(q‖p) in nats", ylabel="eq. (10)")
    identity.set_title("Dots: put right; crosses: as printed")
    identity.legend()
    bound.set(xlabel="log₁₀ (bound (12) / exact penalty (11))", ylabel="density over random Δμ")
    bound.set_title("The bound is loose; dotted: the worst Δμ")
    bound.set_xlim(left=0)
    return figure


@styled
def metric_figure(metrics: Sequence[MetricAt]) -> Figure:
    """The spectrum of JᵀJ and its diagonal by channel."""
    figure = Figure(figsize=(7.6, 3.0))
    spectrum, channels = figure.subplots(1, 2)
    for index, metric in enumerate(metrics):
        colour = step_colour(index, len(metrics))
        values = metric.ritz.values.clamp_min(metric.largest * 1e-7)
        share = 1 - metric.ritz.weights.cumsum(0).numpy()
        spectrum.step(
            values,
            np.clip(share, 1 / metric.dimension, None),
            color=colour,
            where="post",
            label=f"latent {index}: λ_max/λ_min ≥ {metric.condition:.2g}",
        )
    spectrum.set(xlabel="λ", ylabel="share of eigenvalues above λ", xscale="log", yscale="log")
    spectrum.set_title("Eigenvalues of JᵀJ (estimate)")
    spectrum.legend(loc="lower left")
    mean = np.mean([metric.channels.mean.numpy() for metric in metrics], axis=0)
    order = np.argsort(mean)[::-1]
    channels.bar(range(len(mean)), mean[order], color=COLOURS[0], width=0.8)
    channels.axhline(mean.mean(), color=COLOURS[1], linewidth=1, label="mean: what latent MSE takes all to be")
    channels.set(xlabel="latent channels, most sensitive first", ylabel="squared image change per unit²", yscale="log")
    if len(order) <= 40:
        channels.set_xticks(range(len(order)), [str(channel) for channel in order], fontsize=5.5)
    channels.set_title("Sensitivity by channel")
    channels.legend()
    return figure


@styled
def directions_figure(metrics: Sequence[MetricAt], step_length: float) -> Figure:
    """What steps of one length along the most and the least visible direction do to the picture."""
    figure = Figure(figsize=(4.9, 1.65 * len(metrics) + 0.4))
    grid = figure.subplots(len(metrics), 3, squeeze=False)
    for axes, metric in zip(grid, metrics, strict=True):
        show(axes[0], pixels(metric.reference), "decoded")
        show(axes[1], pixels(metric.largest_step), f"along λ_max = {metric.largest:.3g}")
        show(axes[2], pixels(metric.smallest_step), f"along λ_min ≤ {metric.smallest:.2g}")
    figure.suptitle(f"Steps of {step_length:.0%} of the latent's norm", fontsize=9)
    return figure


@styled
def taylor_figure(study: TaylorStudy) -> Figure:
    """How far the linear approximation (13)–(14) holds."""
    figure = Figure(figsize=(4.4, 3.0))
    axes = figure.subplots()
    for row in study.errors:
        axes.plot(study.sigmas, row, color=COLOURS[0], alpha=0.3, linewidth=0.9)
    axes.plot(
        study.sigmas, study.errors.mean(axis=0), "o-", color=COLOURS[0], markersize=3.5, label="mean over latents"
    )
    for colour, tolerance in zip(COLOURS[1:], TOLERANCES, strict=False):
        at = study.crossings[tolerance]
        reached = "not reached" if at is None else f"at σ {'≤' if at <= study.sigmas[0] else '='} {at:.2g}"
        axes.axhline(tolerance, color=colour, linewidth=1, linestyle=":", label=f"{tolerance:.0%}, {reached}")
    axes.set(xlabel="σ of the latent's error", ylabel="relative error of F(z) + σJn", xscale="log", yscale="log")
    axes.set_title("Linear approximation of the decoder")
    axes.legend()
    return figure
