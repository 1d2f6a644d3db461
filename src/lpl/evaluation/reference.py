"""The images that samples should look like, cut as the recipe cuts them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..config import DataConfig
from ..data.images import ImageSource, UnreadableImage
from ..data.transforms import crop_and_resize

CHOICE_SEED = 0  # of images where not all are taken: the same ones in every evaluation


class ReferenceImages(Dataset[Tensor]):
    """A source's images as tensors, one crop each.

    Where the recipe takes random crops, image i's comes from a generator seeded by i, so that the reference is always
    the same.

    Args:
        source: of the pictures, from `lpl.data.open_images`.
        data: the recipe's section, of which resolution and crop are used.
    """

    def __init__(self, source: ImageSource, data: DataConfig) -> None:
        self.source, self.resolution, self.crop = source, data.resolution, data.crop

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Tensor:
        """Image `index` as (3, R, R) float32 in [-1, 1].

        Raises:
            UnreadableImage: it is corrupt.
        """
        image, _ = self.source[index]
        generator = torch.Generator().manual_seed(index)
        return crop_and_resize(image, self.resolution, self.crop, generator)

    def fingerprint(self) -> str:
        """Hash of everything that the tensors depend on."""
        parts = f"{self.source.fingerprint()} {self.resolution} {self.crop}"
        return hashlib.sha256(parts.encode()).hexdigest()[:32]


@runtime_checkable
class Indexed(Protocol):
    """Anything with a length and items by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Stratified:
    """At most `limit` images of a data set, one at random from each of as many equal parts of it.

    Data sets are often sorted by class, of which the first images would be a few; or their classes take turns, of which
    every k-th image would be. The choice depends on the two numbers alone.
    """

    def __init__(self, images: Indexed, limit: int) -> None:
        self.images = images
        count, total = min(limit, len(images)), len(images)
        starts = torch.arange(count + 1) * total // max(count, 1)
        within = torch.rand(count, generator=torch.Generator().manual_seed(CHOICE_SEED), dtype=torch.float64)
        self.chosen = (starts[:-1] + within * starts.diff()).long().tolist()

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Any:
        """Image `index` of those that are left."""
        return self.images[self.chosen[index]]


def limited(images: Iterable[Any] | Indexed, limit: int | None) -> Iterable[Any] | Indexed:
    """The images, at most `limit` of them: from all over where they have a length, else the first ones."""
    if limit is None:
        return images
    if isinstance(images, Indexed):
        return Stratified(images, limit)
    return itertools.islice(images, limit)


def readable(images: Iterable[Any] | Indexed, skipped: list[str]) -> Iterator[Any]:
    """Items of a data set or iterable; corrupt images of a data set are named in `skipped` and left out."""
    if not isinstance(images, Indexed):
        yield from images
        return
    # Read by index even where the data set iterates: an iterator that raised could not go on.
    for index in range(len(images)):
        try:
            image = images[index]
        except UnreadableImage as error:
            skipped.append(str(error))
            continue
        yield image
