"""What every analysis starts from: pictures, their latents, and a way to show progress."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from ..autoencoders import Autoencoder, DecoderFeatures
from ..config import DataConfig
from ..data import PHOTOGRAPHS, ImageSource, UnreadableImage, crop_and_resize, open_images, seeded_generator
from ..errors import LplError

DRAW_SEED = 0x5EE  # of the images that are looked at; not a setting, so that analyses see the same ones

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Track = Callable[[Sequence[Any], str], Iterable[Any]]
"""track(items, description) yields the items, and may show how far it has come."""


class AnalysisError(LplError):
    """An analysis that can't be made as asked; the message names the argument, what was given and what is allowed."""


@dataclass(frozen=True)
class Pictures:
    """The images that an analysis looks at.

    Attributes:
        images: float32 (N, 3, R, R) in [−1, 1], on the CPU.
        names: where each lies.
        source: what was asked for.
        split: of the bundled photographs and hub data sets.
        available: how many images the source has.
        fingerprint: of the source.
        labels: position of each image's class in `classes`.
        classes: names of the classes; one for images without labels.
        skipped: images that could not be read, with the reason.
    """

    images: Tensor
    names: tuple[str, ...]
    source: str
    split: str
    available: int
    fingerprint: str
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    @property
    def resolution(self) -> int:
        """Pixels a side."""
        return int(self.images.shape[-1])


def open_pictures(
    source: str,
    resolution: int,
    limit: int,
    split: str = "train",
    image_column: str = "image",
    label_column: str | None = None,
) -> Pictures:
    """Reads images drawn at random from a source, the same ones every time: sources are often sorted by class.

    A larger limit adds images to those of a smaller one. The bundled crops overlap, so theirs are drawn from one
    photograph after the other: the first twelve show twelve photographs and are independent of each other.

    Args:
        source: "photographs", a folder, parquet files, tar shards or a hub name, as `data.source` of a recipe.
        resolution: pixels a side after the centre crop.
        limit: how many images at the most.
        split: of the bundled photographs and hub data sets.
        image_column: of parquet files and hub data sets.
        label_column: of classes, as `data.label_column` of a recipe; None where they don't matter.

    Raises:
        AnalysisError: `limit` or `resolution` is not positive, or no image can be read.
        DataError: the source can't be opened or holds no images.
    """
    if limit < 1:
        raise AnalysisError(f"limit: got {limit}, takes a positive number of images")
    if resolution < 1:
        raise AnalysisError(f"resolution: got {resolution}, takes a positive number of pixels")
    config = DataConfig(
        source=source,
        resolution=resolution,
        split=split,
        image_column=image_column,
        label_column=label_column,
    )
    return _read(open_images(config), config, limit)


def _read(source: ImageSource, config: DataConfig, limit: int) -> Pictures:
    images: list[Tensor] = []
    names: list[str] = []
    labels: list[int] = []
    skipped: list[str] = []
    groups = len(PHOTOGRAPHS) if config.source == "photographs" else 1
    for index in draw_order(len(source), groups)[:limit]:
        try:
            picture, label = source[index]
        except UnreadableImage as error:
            logger.warning("%s; left out", error)
            skipped.append(str(error))
            continue
        images.append(crop_and_resize(picture, config.resolution))
        names.append(source.name(index))
        labels.append(label)
    if not images:
        raise AnalysisError(f"data: none of the {len(skipped)} images tried of {config.source} can be read; {skipped}")
    return Pictures(
        torch.stack(images),
        tuple(names),
        config.source,
        config.split,
        len(source),
        source.fingerprint(),
        tuple(labels),
        tuple(source.classes),
        tuple(skipped),
    )


def draw_order(count: int, groups: int = 1) -> list[int]:
    """A random order of 0 … count − 1 that takes groups in turn, where index i is of group i mod `groups`.

    Args:
        count: number of images, a multiple of `groups`.
        groups: how many groups of images there are.
    """
    size = count // groups
    rows = [torch.randperm(size, generator=seeded_generator(DRAW_SEED, group)) for group in range(groups)]
    order: list[int] = (torch.stack(rows) * groups + torch.arange(groups)[:, None]).T.flatten().tolist()
    return order


def check_resolution(autoencoder: Autoencoder, resolution: int) -> None:
    """Refuses images whose size the autoencoder does not take.

    Raises:
        AnalysisError: the resolution is not a multiple of the downsampling.
    """
    try:
        autoencoder.latent_shape(resolution)
    except ValueError as error:
        raise AnalysisError(str(error)) from None


def decoder_features(autoencoder: Autoencoder, blocks: Sequence[str] | None = None) -> DecoderFeatures:
    """The decoder's blocks, all of them unless some are named.

    Raises:
        AnalysisError: a block that does not exist; the message lists those that do.
    """
    try:
        return DecoderFeatures(autoencoder.model, blocks)
    except ValueError as error:
        raise AnalysisError(str(error)) from None


def encode(autoencoder: Autoencoder, images: Tensor, batch_size: int = 8, track: Track | None = None) -> Tensor:
    """Posterior means of images (N, 3, R, R) in [−1, 1]: float32 (N, C, h, w) on the autoencoder's device."""
    batches = (track or untracked)(images.split(batch_size), "Encoding")
    return torch.cat([autoencoder.encode(batch)[0] for batch in batches])


def decode_map(autoencoder: Autoencoder) -> Callable[[Tensor], Tensor]:
    """The decoder as a differentiable map F: latents as the diffusion model sees them → images, not clamped.

    Unlike `Autoencoder.decode` it keeps the gradient, and values beyond [−1, 1] as they are: the derivative of a
    clamped pixel is zero, which says nothing of the decoder.
    """
    return autoencoder.decode_unclamped


def untracked(items: Sequence[Item], description: str) -> Iterable[Item]:
    """Shows nothing."""
    return items


def tracked(items: Sequence[Item], description: str) -> Iterator[Item]:
    """Shows a bar with the time left, on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("elapsed"))
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *times, console=Console(file=sys.stderr)) as bar:
        yield from bar.track(items, description=description, total=len(items))
