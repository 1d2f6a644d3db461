"""Small changes and what measures make of them: `python examples/what_measures_see.py RUN [SET [EXTRACTOR]]`.

A loss may change contrast, sharpness or colours; whether a distance rises or falls with it then depends on how it
weighs such changes beside all else. This takes a run's samples, changes one of these and nothing else, and measures
them against the reference of the run's recipe; and as many training images likewise, than which no samples are better.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from lpl.data import open_images
from lpl.evaluation.contrast import luminance
from lpl.evaluation.extractors import load_extractor
from lpl.evaluation.measures import MeasureSettings, compare
from lpl.evaluation.reference import ReferenceImages, Stratified
from lpl.evaluation.run import recipe_of
from lpl.evaluation.samples import SampleSet, open_samples
from lpl.evaluation.summary import ImageSummary, SummarySettings, summarize

SHOWN = {
    "frechet_distance": "FD",
    "kernel_distance": "KID",
    "sliced_wasserstein": "SWD",
    "sliced_wasserstein_shared": "SWD, shared",
    "log_spectral_distance": "spectrum, dB",
    "high_frequency_ratio": "high freq.",
    "contrast_ratio": "contrast",
    "saturation_ratio": "saturation",
}


def contrast(factor: float) -> Callable[[Tensor], Tensor]:
    """Scales an image (3, R, R) about its mean."""

    def change(image: Tensor) -> Tensor:
        mean = image.mean()
        return (mean + factor * (image - mean)).clamp(-1, 1)

    return change


def saturation(factor: float) -> Callable[[Tensor], Tensor]:
    """Scales colours about the luminance."""

    def change(image: Tensor) -> Tensor:
        grey = 2 * luminance(image[None]) - 1
        return (grey + factor * (image - grey)).clamp(-1, 1)

    return change


def sharpness(amount: float, sigma: float = 1.0) -> Callable[[Tensor], Tensor]:
    """Adds that much of what a Gaussian blur takes away; a negative amount blurs."""
    taps = torch.arange(-4, 5, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)

    def change(image: Tensor) -> Tensor:
        padded = F.pad(image[None], (4, 4, 4, 4), mode="reflect")
        blurred = F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.mT, groups=3)[0]
        return (image + amount * (image - blurred)).clamp(-1, 1)

    return change


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "as they are": lambda image: image,
    "contrast × 0.94": contrast(0.94),
    "contrast × 1.06": contrast(1.06),
    "contrast × 1.12": contrast(1.12),
    "blurred by a tenth": sharpness(-0.1),
    "sharper by a tenth": sharpness(0.1),
    "sharper by a fifth": sharpness(0.2),
    "saturation × 1.1": saturation(1.1),
}


class Changed:
    """Images, each changed in the same way."""

    def __init__(self, images: SampleSet | Stratified, change: Callable[[Tensor], Tensor]) -> None:
        self.images, self.change = images, change

    def __iter__(self) -> Iterator[Tensor]:
        return (self.change(self.images[index]) for index in range(len(self.images)))


def main(run: str, sample_set: str = "default", extractor_name: str | None = None) -> None:
    """Prints a table in Markdown."""
    recipe = recipe_of(run)
    name = extractor_name or recipe.evaluation.extractor
    extractor = None if name == "none" else load_extractor(name)
    settings = SummarySettings(extractor, batch_size=recipe.evaluation.batch_size)
    held_out = recipe.evaluation.reference == "holdout"
    reference = summarize(ReferenceImages(open_images(recipe.data, holdout=held_out), recipe.data), settings)
    samples = open_samples(run, sample_set)
    training = ReferenceImages(open_images(recipe.data), recipe.data)
    spaced = Stratified(training, len(samples))

    rows: dict[str, ImageSummary] = {}
    for what, change in track(CHANGES.items(), description="changes"):
        rows[f"samples, {what}"] = summarize(Changed(samples, change), settings)
    for what in ("as they are", "contrast × 0.94", "blurred by a tenth"):
        rows[f"training images, {what}"] = summarize(Changed(spaced, CHANGES[what]), settings)
    print("| | " + " | ".join(SHOWN.values()) + " |\n| --- |" + " --- |" * len(SHOWN))
    for what, summary in rows.items():
        results, _ = compare(summary, reference, MeasureSettings(recipe.evaluation))
        print(f"| {what} | " + " | ".join(f"{results[key]:.4g}" if key in results else "" for key in SHOWN) + " |")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
