"""What samples are worth: measures with and without a network, and the evaluation of a run."""

from .contrast import contrast, luminance, saturation
from .evaluate import evaluate, read_metrics
from .extractors import Extractor, ExtractorError, load_extractor
from .frechet import frechet_distance
from .kernel import kernel_distance
from .neighbours import NeighbourScores, neighbour_scores
from .reference import ReferenceImages
from .samples import SampleError, SampleSet, open_samples
from .sliced_wasserstein import PatchSettings, SlicedWasserstein, sliced_wasserstein
from .spectrum import high_frequency_ratio, log_spectral_distance, radial_power_spectrum, spectrum_frequencies

__all__ = [
    "Extractor",
    "ExtractorError",
    "NeighbourScores",
    "PatchSettings",
    "ReferenceImages",
    "SampleError",
    "SampleSet",
    "SlicedWasserstein",
    "contrast",
    "evaluate",
    "frechet_distance",
    "high_frequency_ratio",
    "kernel_distance",
    "load_extractor",
    "log_spectral_distance",
    "luminance",
    "neighbour_scores",
    "open_samples",
    "radial_power_spectrum",
    "read_metrics",
    "saturation",
    "sliced_wasserstein",
    "spectrum_frequencies",
]
