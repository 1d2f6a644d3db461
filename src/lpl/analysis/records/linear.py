"""The folder of `lpl analyze linear`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..figures.linear import directions_figure, equations_figure, metric_figure, taylor_figure
from ..inputs import Pictures
from ..linear import LinearCheck
from ..local import MetricAt, TaylorStudy
from ..output import AnalysisFolder
from .common import Rows, save_originals

LISTED = 50  # shifts of a linear decoder whose numbers are listed


def record_linear(
    folder: AnalysisFolder,
    checks: Sequence[LinearCheck],
    metrics: Sequence[MetricAt],
    taylor: TaylorStudy,
    predictions: TaylorStudy,
    pictures: Pictures,
    latents: Tensor,
    step_length: float,
) -> tuple[Rows, dict[str, Any]]:
    """Draws the figures, writes the pictures, and returns the JSON file's `images` and `results`.

    Args:
        folder: to write into.
        checks: of the equations.
        metrics: at the first latents.
        taylor: how far the linear approximation holds for white noise.
        predictions: the same for the errors of ẑ0.
        pictures: the images.
        latents: theirs, (N, C, h, w).
        step_length: of the steps shown, as a share of the latent's norm.
    """
    folder.save_figure("equations", equations_figure(checks))
    folder.save_figure("metric", metric_figure(metrics))
    folder.save_figure("directions", directions_figure(metrics, step_length))
    folder.save_figure("taylor", taylor_figure(taylor, predictions))
    rows = save_originals(folder, pictures, len(metrics))
    for index, (row, metric) in enumerate(zip(rows, metrics, strict=False)):
        base = f"images/{index:03d}"
        row["reconstruction"] = folder.save_image(f"{base}/reconstruction.png", metric.reference)
        row["largest_step"] = folder.save_image(f"{base}/largest-step.png", metric.largest_step)
        row["smallest_step"] = folder.save_image(f"{base}/smallest-step.png", metric.smallest_step)
        row["metric"] = _metric_entry(metric)
    return rows, {
        "equations": [_check_entry(check) for check in checks],
        "channels": _channels(metrics, latents),
        "step_length": step_length,
        "taylor": _taylor_entry(taylor),
        "taylor_of_predictions": _taylor_entry(predictions) | {"predictor": predictions.predictor},
    }


def _taylor_entry(study: TaylorStudy) -> dict[str, Any]:
    return {
        "sigmas": study.sigmas,
        "latent_errors": study.latent_errors,
        "errors": study.errors,
        "mean": study.errors.mean(axis=0),
        "sigma_at": {f"{tolerance:g}": sigma for tolerance, sigma in study.crossings.items()},
    }


def _metric_entry(metric: MetricAt) -> dict[str, Any]:
    return {
        "dimension": metric.dimension,
        "largest_eigenvalue": metric.largest,
        "largest_residual": metric.ritz.residuals[-1],
        "smallest_eigenvalue_at_most": metric.smallest,
        "smallest_residual": metric.ritz.residuals[0],
        "precision": metric.precision,
        "condition_at_least": metric.condition,
        "mean_eigenvalue": metric.mean_eigenvalue,
        "effective_rank": metric.effective_rank,
        "bound_over_mean_at_least": metric.bound_over_mean,
        "ritz_values": metric.ritz.values,
        "ritz_weights": metric.ritz.weights,
        "channels": metric.channels.mean,
        "channels_standard_error": metric.channels.standard_error,
    }


def _channels(metrics: Sequence[MetricAt], latents: Tensor) -> dict[str, Any]:
    """Sensitivity by channel, with the variance of its latents and the share of image error that it accounts for."""
    sensitivity = torch.stack([metric.channels.mean for metric in metrics]).mean(dim=0)
    variance = latents.double().cpu().var(dim=(0, 2, 3))
    energy = sensitivity * variance
    return {
        "sensitivity": sensitivity,
        "latent_variance": variance,
        "energy_share": energy / energy.sum(),
        "anisotropy": float(sensitivity.max() / sensitivity.min()),
    }


def _check_entry(check: LinearCheck) -> dict[str, Any]:
    difference = (check.divergence - check.closed_form).abs().max()
    return {
        "shape": check.shape,
        "image_values": check.image_values,
        "latent_values": check.latent_values,
        "rank": check.rank,
        "condition": check.condition,
        "largest_inverse_eigenvalue": check.largest_inverse_eigenvalue,
        "identity_error": difference,
        "printed_error": (check.divergence - check.as_printed).abs().max(),
        "monte_carlo": {
            "estimate": check.monte_carlo,
            "standard_error": check.monte_carlo_error,
            "exact": check.divergence[0],
        },
        "constant": check.constant,
        "exact_over_latent_penalty": float((check.quadratic / check.latent_penalty).mean()),
        "tightness": {
            "smallest": check.tightness.min(),
            "median": check.tightness.median(),
            "largest": check.tightness.max(),
            "best_direction": check.tightest,
            "worst_direction": check.loosest,
        },
        "divergence": check.divergence[:LISTED],
        "closed_form": check.closed_form[:LISTED],
        "as_printed": check.as_printed[:LISTED],
        "bound": check.bound[:LISTED],
    }
