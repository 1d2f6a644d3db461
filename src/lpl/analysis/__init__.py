"""Instruments: what an autoencoder's latent space does to pictures, and which settings of the loss suit it.

One file an analysis: `interpolation` (Figure 11), `perturbation` (Figure 12), `features` (Figure 13), `linear` and
`local` (A.1), `calibrate`. They return dataclasses; `figures` draws them, `records` writes them, `commands` is the
command line.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .calibrate import Calibration, calibrate_loss, recipe_fragment
    from .features import FeatureStudy, study_features
    from .inputs import AnalysisError, Pictures, encode, open_pictures
    from .interpolation import InterpolationStudy, study_interpolation
    from .linear import LinearCheck, check_linear_decoder
    from .local import MetricAt, TaylorStudy, metric_at, study_predictions, study_taylor
    from .perturbation import PerturbationStudy, study_perturbation
    from .predictors import DenoiserPredictor, GaussianLatents, fit_gaussian

__all__ = [
    "AnalysisError",
    "Calibration",
    "DenoiserPredictor",
    "FeatureStudy",
    "GaussianLatents",
    "InterpolationStudy",
    "LinearCheck",
    "MetricAt",
    "PerturbationStudy",
    "Pictures",
    "TaylorStudy",
    "calibrate_loss",
    "check_linear_decoder",
    "encode",
    "fit_gaussian",
    "metric_at",
    "open_pictures",
    "recipe_fragment",
    "study_features",
    "study_interpolation",
    "study_perturbation",
    "study_predictions",
    "study_taylor",
]

_HOMES = {
    "AnalysisError": "inputs",
    "Calibration": "calibrate",
    "DenoiserPredictor": "predictors",
    "FeatureStudy": "features",
    "GaussianLatents": "predictors",
    "InterpolationStudy": "interpolation",
    "LinearCheck": "linear",
    "MetricAt": "local",
    "PerturbationStudy": "perturbation",
    "Pictures": "inputs",
    "TaylorStudy": "local",
    "calibrate_loss": "calibrate",
    "check_linear_decoder": "linear",
    "encode": "inputs",
    "fit_gaussian": "predictors",
    "metric_at": "local",
    "open_pictures": "inputs",
    "recipe_fragment": "calibrate",
    "study_features": "features",
    "study_interpolation": "interpolation",
    "study_perturbation": "perturbation",
    "study_predictions": "local",
    "study_taylor": "local",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for: the command line's help need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
