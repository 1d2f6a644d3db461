"""What every source of images offers, and how the bytes of one image become an RGB picture."""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..errors import LplError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
)
DIGESTED_FILES = 1024  # whose content is sampled
DIGESTED_BLOCKS = 16  # of each of them
BLOCK_BYTES = 4096
UNLABELLED = ["images"]  # the one class of a data set without labels


class DataError(LplError, ValueError):
    """A data setting that can't be used; the message names the key of the recipe."""


class UnreadableImage(Exception):
    """An image whose bytes can't be decoded.

    Attributes:
        name: where the image lies, such as a path, or a shard and its member.
        reason: what the decoder said.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: unreadable image: {self.reason}"


class ImageSource(ABC):
    """Labelled images with random access; safe to read from several threads.

    Attributes:
        classes: the name of every class; labels are positions in this list.
    """

    classes: list[str]

    @abstractmethod
    def __len__(self) -> int:
        """How many images there are."""

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """The image as RGB, and its label.

        Raises:
            UnreadableImage: the image is corrupt.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """Where image `index` lies, for messages and logs."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash that changes when the images, their order or their labels do; cheap to compute."""


class Limited(ImageSource):
    """The first `limit` images of a source."""

    def __init__(self, source: ImageSource, limit: int) -> None:
        self.source = source
        self.limit = limit
        self.classes = source.classes

    def __len__(self) -> int:
        return min(self.limit, len(self.source))

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.source[check_index(index, len(self))]

    def name(self, index: int) -> str:
        """The name the source gives it."""
        return self.source.name(index)

    def fingerprint(self) -> str:
        """That of the source, and how many images are left of it."""
        return digest(self.source.fingerprint(), len(self))


class Relabelled(ImageSource):
    """A source whose labels count positions in another list of classes.

    Args:
        source: the images.
        classes: the new list of classes.
        positions: for each class of `source`, its position in `classes`.
    """

    def __init__(self, source: ImageSource, classes: Sequence[str], positions: Sequence[int]) -> None:
        self.source = source
        self.classes = list(classes)
        self.positions = list(positions)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        image, label = self.source[index]
        return image, self.positions[label]

    def name(self, index: int) -> str:
        """The name the source gives it."""
        return self.source.name(index)

    def fingerprint(self) -> str:
        """That of the source, and the new labels."""
        return digest(self.source.fingerprint(), self.classes, self.positions)


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decodes the first frame of an image into 8-bit RGB, as a viewer would show it.

    The EXIF orientation is applied, transparency is laid over white, and 16-bit greyscale keeps its full range. Colour
    profiles are not applied.

    Args:
        data: the content of an image file.
        name: where it comes from, for the error.

    Raises:
        UnreadableImage: the bytes are not an image, are cut short, or hold pixels of no known range.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except MemoryError:
        raise
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise UnreadableImage(name, f"{type(error).__name__}: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode of picture as RGB: transparency over white, 16-bit values divided by 257.

    Raises:
        ValueError: the pixels are floats or 32-bit integers, whose white is unknown.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"pixels from {values.min()} to {values.max()}; integers from 0 to 65535 are taken")
        return Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def index_classes(values: Sequence[Any], subject: str) -> tuple[list[str], dict[Any, int]]:
    """Names and numbers the classes behind plain labels.

    Args:
        values: the distinct labels.
        subject: starts the error message.

    Returns:
        The classes' names, in numerical or alphabetical order, and the position of each value.

    Raises:
        DataError: the labels are neither all integers nor all strings.
    """
    kinds = {type(value) for value in values}
    if kinds not in ({int}, {str}):
        raise DataError(
            f"{subject} holds {', '.join(sorted(kind.__name__ for kind in kinds))}; takes integers throughout "
            "or strings throughout; data.label_column=null uses the images without labels"
        )
    ordered = sorted(values)
    return [str(value) for value in ordered], {value: position for position, value in enumerate(ordered)}


def check_index(index: int, length: int) -> int:
    """Returns `index`, refusing one outside 0 … length−1, which also ends iteration.

    Raises:
        IndexError: it lies outside.
    """
    if not 0 <= index < length:
        raise IndexError(f"index: got {index}, takes 0 to {length - 1}")
    return index


def digest(*parts: Any) -> str:
    """A hash of plain values, the same in every process: 32 hexadecimal digits."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def digest_files(files: Sequence[Path], root: Path) -> str:
    """A hash of the files' names below `root`, their sizes, and samples of their content.

    Times of modification do not enter it: a copy of a data set, on a node's own disk say, has the hash of the original.
    Read are 16 blocks of 4 KiB a file, spread evenly with the first and the last among them, of at most 1,024 files,
    spread evenly too; content that is replaced between those, by as many bytes, is not noticed.

    Args:
        files: whose order counts.
        root: a folder above them all.

    Returns:
        32 hexadecimal digits.
    """
    state = hashlib.sha256()
    looked_into = set(_evenly_spread(len(files), DIGESTED_FILES))
    for number, file in enumerate(files):
        size = file.stat().st_size
        state.update(f"{file.relative_to(root).as_posix()}\0{size}\n".encode())
        if number in looked_into:
            _digest_content(file, size, state)
    return state.hexdigest()[:32]


def _digest_content(file: Path, size: int, state: hashlib._Hash) -> None:
    blocks = -(-size // BLOCK_BYTES)
    with file.open("rb", buffering=0) as opened:
        for block in _evenly_spread(blocks, DIGESTED_BLOCKS):
            opened.seek(block * BLOCK_BYTES)
            state.update(opened.read(BLOCK_BYTES))


def _evenly_spread(length: int, count: int) -> list[int]:
    """At most `count` of the numbers below `length`, the first and the last among them."""
    if length <= count:
        return list(range(length))
    return [round(step * (length - 1) / (count - 1)) for step in range(count)]
