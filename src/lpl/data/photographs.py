"""The bundled data set: photographs from the wheels of scikit-image and scikit-learn, cut into labelled crops.

Every photograph is one class. A strip along one of its edges is held out: test crops lie within the strip and training
crops within the rest, so that the splits share no pixel. The sides are chosen so that the training part shows the
subject; the strip may show its surroundings, and its crops are smaller. Crops are squares whose sizes and places follow
a Kronecker sequence, hence the same everywhere and evenly spread.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from .images import DataError, ImageSource, check_index, decode_image, digest

Box = tuple[int, int, int, int]  # left, upper, right, lower in pixels; the last two lie outside


@dataclass(frozen=True)
class Photograph:
    """One photograph and the strip of it that is held out.

    Attributes:
        name: the class.
        package: whose wheel carries the file.
        path: of the file within the package.
        strip: the edge along which the test crops lie.
        share: of the photograph's width or height that the strip takes.
    """

    name: str
    package: str
    path: str
    strip: Literal["left", "right", "bottom"]
    share: float


PHOTOGRAPHS = (
    Photograph("astronaut", "skimage", "data/astronaut.png", "bottom", 0.36),
    Photograph("brick", "skimage", "data/brick.png", "right", 0.4),
    Photograph("cat", "skimage", "data/chelsea.png", "left", 0.28),
    Photograph("coffee", "skimage", "data/coffee.png", "left", 0.34),
    Photograph("flower", "sklearn", "datasets/images/flower.jpg", "bottom", 0.3),
    Photograph("galaxies", "skimage", "data/hubble_deep_field.jpg", "right", 0.4),
    Photograph("gravel", "skimage", "data/gravel.png", "right", 0.4),
    Photograph("motorcycle", "skimage", "data/motorcycle_left.png", "right", 0.36),
    Photograph("pagoda", "sklearn", "datasets/images/china.jpg", "right", 0.36),
    Photograph("retina", "skimage", "data/retina.jpg", "right", 0.36),
    Photograph("rocket", "skimage", "data/rocket.jpg", "right", 0.34),
    Photograph("tissue", "skimage", "data/ihc.png", "right", 0.4),
)
CROPS: dict[str, int] = {"train": 192, "test": 48}  # for each photograph
SMALLEST = 0.7  # side of the smallest crop over that of the largest, which touches both sides of its part


class PhotographSource(ImageSource):
    """Crops of the bundled photographs, the classes in turn, so that any first n images hold all of them.

    Args:
        split: "train" (192 crops a class) or "test" (48).
        key: the recipe's key that names the split, for messages.

    Raises:
        DataError: the split is neither, or a photograph is missing from its wheel.
    """

    def __init__(self, split: str = "train", key: str = "data.split") -> None:
        if split not in CROPS:
            raise DataError(f"{key}: got {split!r}; the bundled photographs have 'train' and 'test'")
        self.split = split
        self.classes = [photograph.name for photograph in PHOTOGRAPHS]
        self.boxes = [crop_boxes(photograph, split) for photograph in PHOTOGRAPHS]

    def __len__(self) -> int:
        return len(PHOTOGRAPHS) * CROPS[self.split]

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        crop, label = divmod(check_index(index, len(self)), len(PHOTOGRAPHS))
        return load_photograph(PHOTOGRAPHS[label]).crop(self.boxes[label][crop]), label

    def name(self, index: int) -> str:
        """The file and the box, such as `data/coffee.png (200, 0, 400, 200)`."""
        crop, label = divmod(check_index(index, len(self)), len(PHOTOGRAPHS))
        return f"{PHOTOGRAPHS[label].path} {self.boxes[label][crop]}"

    def fingerprint(self) -> str:
        """A hash of the files' content and of the boxes."""
        contents = [hashlib.sha256(read_photograph(photograph)).hexdigest() for photograph in PHOTOGRAPHS]
        return digest(self.classes, contents, self.boxes)


def read_photograph(photograph: Photograph) -> bytes:
    """The photograph's file.

    Raises:
        DataError: the installed package does not carry it.
    """
    file = importlib.resources.files(photograph.package)
    for part in photograph.path.split("/"):
        file = file / part
    if not file.is_file():
        raise DataError(
            f"data.source: the installed {photograph.package} lacks {photograph.path}, one of the bundled photographs; "
            "install scikit-image and scikit-learn from their wheels"
        )
    return file.read_bytes()


@functools.lru_cache(maxsize=len(PHOTOGRAPHS))
def load_photograph(photograph: Photograph) -> Image.Image:
    """The whole photograph in RGB."""
    return decode_image(read_photograph(photograph), photograph.path)


def split_box(photograph: Photograph, split: str) -> Box:
    """The part of the photograph that a split's crops are cut from."""
    width, height = load_photograph(photograph).size
    left, right = round(photograph.share * width), round((1 - photograph.share) * width)
    lower = round((1 - photograph.share) * height)
    boxes: dict[str, tuple[Box, Box]] = {  # the strip, the rest
        "left": ((0, 0, left, height), (left, 0, width, height)),
        "right": ((right, 0, width, height), (0, 0, right, height)),
        "bottom": ((0, lower, width, height), (0, 0, width, lower)),
    }
    strip, rest = boxes[photograph.strip]
    return strip if split == "test" else rest


def crop_boxes(photograph: Photograph, split: str) -> list[Box]:
    """The squares that a split cuts from a photograph, evenly spread over sizes and places."""
    left, upper, right, lower = split_box(photograph, split)
    width, height = right - left, lower - upper
    boxes = []
    for size_share, x_share, y_share in spread_points(CROPS[split]):
        size = round((SMALLEST + size_share * (1 - SMALLEST)) * min(width, height))
        x, y = left + round(x_share * (width - size)), upper + round(y_share * (height - size))
        boxes.append((x, y, x + size, y + size))
    return boxes


def spread_points(count: int) -> np.ndarray:
    """Evenly spread points of the unit cube, float64 of shape (count, 3): the Kronecker sequence ½ + n α mod 1.

    α = (g⁻¹, g⁻², g⁻³) for the real root g of g⁴ = g + 1, the generalised golden ratio (Roberts, *The Unreasonable
    Effectiveness of Quasirandom Sequences*, 2018). Any stride through it is spread too.
    """
    steps = 1.2207440846057596 ** -np.arange(1.0, 4.0)
    return (0.5 + np.outer(np.arange(count), steps)) % 1
