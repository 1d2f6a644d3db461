"""Evaluates a run with the images that its own recipe names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..autoencoders import Autoencoder, load_autoencoder
from ..config import AutoencoderConfig, DataConfig, EvaluationConfig, Recipe, load_recipe
from ..data import open_images
from .evaluate import evaluate
from .reference import ReferenceImages, Stratified, readable
from .samples import SampleError, open_samples


def evaluate_run(
    run: str | Path,
    config: EvaluationConfig | None = None,
    sample_set: str = "default",
    device: str = "cpu",
    cache_dir: str | Path | None = None,
    progress: bool = True,
    recipe: Recipe | None = None,
    reconstructions: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measures a run's samples against the images its recipe trains on, or holds out.

    The autoencoder's reconstructions of reference images are measured beside the samples, as many as there are of
    those, since distances depend on the number: no latent diffusion model in that latent space can be expected to do
    better. Where the reference has fewer images there are fewer reconstructions, and their distances a little larger.

    Args:
        run: the run's folder.
        config: settings of the evaluation; by default the recipe's.
        sample_set: folder below RUN/samples.
        device: where images are measured.
        cache_dir: where the reference's features are kept for the next evaluation.
        progress: whether to show progress bars.
        recipe: says where the images and the autoencoder lie; by default the run's.
        reconstructions: their measurement from another run with the same settings, reference and autoencoder; by
            default they are measured.

    Returns:
        The set's entry in RUN/metrics.json.

    Raises:
        SampleError: no recipe in the folder, or no complete set of samples.
        DataError, ExtractorError: the images or the extractor can't be opened.
    """
    recipe = recipe or recipe_of(run)
    config = config or recipe.evaluation
    source = open_images(recipe.data, holdout=config.reference == "holdout")
    images = ReferenceImages(source, recipe.data)
    count = len(open_samples(run, sample_set))
    known = {} if reconstructions is None else {"reconstruction": reconstructions}
    return evaluate(
        run,
        config,
        images,
        sample_set,
        reference_description=_describe(recipe.data, config.reference),
        baselines={} if known else {"reconstruction": _reconstructions(images, count, recipe.autoencoder, device)},
        measured_baselines=known,
        cache_dir=cache_dir,
        device=device,
        progress=progress,
    )


def _reconstructions(images: ReferenceImages, count: int, config: AutoencoderConfig, device: str) -> Reconstructions:
    autoencoder = load_autoencoder(config.path, config.subfolder, getattr(torch, config.precision), device)
    return Reconstructions(images, count, autoencoder, config.batch_size)


def _describe(data: DataConfig, reference: str) -> str:
    """Where the reference images come from, for people."""
    if reference == "train":
        return f"{data.source} (training images)"
    return f"{data.holdout or f'{data.source}, {data.holdout_split}'} (held-out images)"


def recipe_of(run: str | Path) -> Recipe:
    """The recipe in a run's folder.

    Raises:
        SampleError: the folder holds none.
    """
    path = Path(run) / "recipe.yaml"
    if not path.is_file():
        raise SampleError(f"run: {run} is not a run's folder: it holds no recipe.yaml; give a folder of `lpl train`")
    return load_recipe(path)


class Reconstructions:
    """What the autoencoder makes of `count` images from all over a data set, encoded and decoded in batches."""

    def __init__(self, images: ReferenceImages, count: int, autoencoder: Autoencoder, batch_size: int) -> None:
        self.images = Stratified(images, count)
        self.autoencoder = autoencoder
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Tensor]:
        batch: list[Tensor] = []
        for image in readable(self.images, []):  # those left out are named by the reference's own pass
            batch.append(image)
            if len(batch) == self.batch_size:
                yield from self._reconstruct(batch)
                batch = []
        if batch:
            yield from self._reconstruct(batch)

    def _reconstruct(self, batch: list[Tensor]) -> Tensor:
        mean, _ = self.autoencoder.encode(torch.stack(batch))
        return self.autoencoder.decode(mean).cpu()
