"""The registry of measures: what `evaluate` computes, and how a report should label it.

A new measure is a function on features or on a part of `ImageSummary`, in a file of its own, and one entry of
`MEASURES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..config import EvaluationConfig
from .checks import TooFewSamplesError
from .frechet import few_samples_caution, frechet_distance
from .kernel import kernel_distance
from .neighbours import neighbour_scores
from .sliced_wasserstein import Normalization, PatchSettings, compare_patches
from .spectrum import high_frequency_ratio, log_spectral_distance, spectrum_frequencies
from .summary import ImageSummary

Better = Literal["lower", "higher", "one"]
NORMALIZATIONS: dict[str, Normalization] = {"sliced_wasserstein": "each", "sliced_wasserstein_shared": "reference"}


@dataclass(frozen=True)
class Label:
    """How one number of the results is shown.

    Attributes:
        label: for people, short.
        better: which way is better; "one" for ratios that are best at 1, None for what only describes.
        description: one sentence.
    """

    label: str
    better: Better | None
    description: str


@dataclass(frozen=True)
class MeasureSettings:
    """What measures depend on besides the images.

    Attributes:
        config: the recipe's section.
        patches: of the sliced Wasserstein distance.
        seed: of random directions and subsets.
        device: where distances between features are computed.
    """

    config: EvaluationConfig = field(default_factory=EvaluationConfig)
    patches: PatchSettings = field(default_factory=PatchSettings)
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Outcome:
    """Numbers by name, and what to bear in mind about them."""

    results: dict[str, float]
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measure:
    """One computation, which may give several numbers.

    Attributes:
        name: of the computation, in notes.
        compute: (samples, reference, settings) -> numbers; may raise `TooFewSamplesError`.
        labels: of every number it gives; "a/b" goes by the label of "a".
        on_features: needs an extractor.
    """

    name: str
    compute: Callable[[ImageSummary, ImageSummary, MeasureSettings], Outcome]
    labels: dict[str, Label]
    on_features: bool = False


def compare(
    samples: ImageSummary,
    reference: ImageSummary,
    settings: MeasureSettings,
    advance: Callable[[str], object] | None = None,
) -> tuple[dict[str, float], list[str]]:
    """Every measure that the two summaries allow.

    Args:
        samples: of the images that are judged.
        reference: of the images they should look like.
        settings: of the measures.
        advance: called with the name of a measure before it is computed.

    Returns:
        Results by name, and notes: "<measure>: <why it is missing, or a caution>".

    Raises:
        ValueError: the sets differ in size of image, or only one has features.
    """
    if samples.resolution != reference.resolution:
        raise ValueError(f"samples are {samples.resolution} pixels a side and the reference {reference.resolution}")
    if (samples.features is None) != (reference.features is None):
        raise ValueError("samples and reference must both have features, or neither")
    results: dict[str, float] = {}
    notes: list[str] = []
    for measure in MEASURES:
        if measure.on_features and samples.features is None:
            continue
        if advance is not None:
            advance(measure.name)
        try:
            outcome = measure.compute(samples, reference, settings)
        except TooFewSamplesError as reason:
            notes.append(f"{measure.name}: {reason}")
            continue
        notes += [f"{measure.name}: {caution}" for caution in outcome.cautions]
        results |= {name: value for name, value in outcome.results.items() if math.isfinite(value)}
        notes += [f"{name}: is {value}" for name, value in outcome.results.items() if not math.isfinite(value)]
    if samples.features is None:
        missing = ", ".join(measure.name for measure in MEASURES if measure.on_features)
        notes.append(f"{missing}: need features, and evaluation.extractor is none")
    return results, notes


def all_labels() -> dict[str, Label]:
    """The label of every number, in the order to show them."""
    return {name: label for measure in MEASURES for name, label in measure.labels.items()}


def _sliced_wasserstein(samples: ImageSummary, reference: ImageSummary, settings: MeasureSettings) -> Outcome:
    distances = compare_patches(
        samples.patches, reference.patches, settings.patches.directions, tuple(NORMALIZATIONS.values()), settings.seed
    )
    results = {}
    for name, normalization in NORMALIZATIONS.items():
        results[name] = distances[normalization].mean
        results |= {f"{name}/{side}": value for side, value in distances[normalization].levels.items()}
    return Outcome(results)


def _spectrum(samples: ImageSummary, reference: ImageSummary, settings: MeasureSettings) -> Outcome:
    powers = samples.power.double().mean(dim=0), reference.power.double().mean(dim=0)
    frequencies = spectrum_frequencies(samples.resolution)
    return Outcome(
        {
            "log_spectral_distance": log_spectral_distance(*powers),
            "high_frequency_ratio": high_frequency_ratio(*powers, frequencies),
        }
    )


def _mean_and_ratio(name: str) -> Callable[..., Outcome]:
    def compute(samples: ImageSummary, reference: ImageSummary, settings: MeasureSettings) -> Outcome:
        ours, theirs = (getattr(summary, name).double().mean().item() for summary in (samples, reference))
        means = {name: ours, f"{name}_reference": theirs}
        if theirs == 0:
            return Outcome(means, (f"no {name}_ratio, for the reference has no {name} at all",))
        return Outcome({f"{name}_ratio": ours / theirs, **means})

    return compute


def _frechet(samples: ImageSummary, reference: ImageSummary, settings: MeasureSettings) -> Outcome:
    ours, theirs = _features(samples, settings), _features(reference, settings)
    distance = frechet_distance(ours, theirs)
    caution = few_samples_caution(len(ours), len(theirs), ours.shape[1])
    return Outcome({"frechet_distance": distance}, (caution,) if caution else ())


def _kernel(samples: ImageSummary, reference: ImageSummary, settings: MeasureSettings) -> Outcome:
    distance = kernel_distance(
        _features(samples, settings),
        _features(reference, settings),
        subsets=settings.config.kid_subsets,
        subset_size=settings.config.kid_subset_size,
        seed=settings.seed,
    )
    return Outcome({"kernel_distance": distance.mean, "kernel_distance_std": distance.std})


def _neighbours(samples: ImageSummary, reference: ImageSummary, settings: MeasureSettings) -> Outcome:
    features = _features(samples, settings), _features(reference, settings)
    return Outcome(vars(neighbour_scores(*features, neighbours=settings.config.neighbours)))


def _features(summary: ImageSummary, settings: MeasureSettings) -> Tensor:
    if summary.features is None:
        raise ValueError("this measure needs features, and the images were summarised without an extractor")
    device = torch.device(settings.device)
    return summary.features.to(device if device.type == "cuda" else "cpu")  # others may lack float64


MEASURES: tuple[Measure, ...] = (
    Measure(
        "frechet_distance",
        _frechet,
        {"frechet_distance": Label("Fréchet distance", "lower", "Between Gaussians fitted to features, as in FID.")},
        on_features=True,
    ),
    Measure(
        "kernel_distance",
        _kernel,
        {
            "kernel_distance": Label("kernel distance", "lower", "Squared MMD of features; KID's formula, unbiased."),
            "kernel_distance_std": Label("± over subsets", None, "Standard deviation of the kernel distance."),
        },
        on_features=True,
    ),
    Measure(
        "neighbours",
        _neighbours,
        {
            "precision": Label("precision", "higher", "Share of samples that lie among the reference."),
            "recall": Label("recall", "higher", "Share of the reference that lies among the samples."),
            "density": Label("density", "higher", "Reference neighbourhoods a sample lies in, over k; 1 if equal."),
            "coverage": Label("coverage", "higher", "Share of reference neighbourhoods that hold a sample."),
        },
        on_features=True,
    ),
    Measure(
        "sliced_wasserstein",
        _sliced_wasserstein,
        {
            "sliced_wasserstein": Label(
                "sliced Wasserstein", "lower", "Patches of Laplacian pyramids, ×1000; blind to contrast, as published."
            ),
            "sliced_wasserstein_shared": Label(
                "sliced Wasserstein, shared scale",
                "lower",
                "The same on the reference's scale; sees contrast.",
            ),
        },
    ),
    Measure(
        "spectrum",
        _spectrum,
        {
            "log_spectral_distance": Label("log-spectral distance, dB", "lower", "Between radial power spectra."),
            "high_frequency_ratio": Label(
                "high-frequency power", "one", "Above 0.25 cycles a pixel, over the reference's: over 1 is over-sharp."
            ),
        },
    ),
    Measure(
        "contrast",
        _mean_and_ratio("contrast"),
        {
            "contrast_ratio": Label("contrast ratio", "one", "Contrast over the reference's."),
            "contrast": Label("contrast", None, "Mean standard deviation of luminance."),
            "contrast_reference": Label("contrast of the reference", None, "Mean standard deviation of luminance."),
        },
    ),
    Measure(
        "saturation",
        _mean_and_ratio("saturation"),
        {
            "saturation_ratio": Label("saturation ratio", "one", "Saturation over the reference's."),
            "saturation": Label("saturation", None, "Mean HSV saturation."),
            "saturation_reference": Label("saturation of the reference", None, "Mean HSV saturation."),
        },
    ),
)
