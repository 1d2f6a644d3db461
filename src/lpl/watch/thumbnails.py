"""Small pictures in the terminal: two pixels a character, one above the other, in 24-bit colour."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

HALF = "▀"  # its foreground is the upper pixel, its background the lower one
GAP = 1  # columns between pictures
SMALLEST = 8  # pixels a side below which a picture shows nothing
COLOURS = ("truecolor", "256")


def can_show(console: Console) -> bool:
    """Whether the terminal has enough colours for pictures."""
    return console.color_system in COLOURS


class Thumbnails:
    """As many of some images as fit beside each other, all at one size.

    Args:
        paths: of the images, those to prefer first; unreadable ones are left out.
        height: pixels of a picture, at most; two to a line of text.
    """

    def __init__(self, paths: Sequence[Path], height: int) -> None:
        self.paths = paths
        self.height = height - height % 2

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self._fitting(options.max_width)
        for top in range(0, max((image.height for image in shown), default=0), 2):
            for number, image in enumerate(shown):
                if number:
                    yield Segment(" " * GAP)
                yield from _line(image, top)
            yield Segment.line()

    def _fitting(self, width: int) -> list[Image.Image]:
        """The images, scaled, whose widths and gaps add up to `width` at most."""
        fitting: list[Image.Image] = []
        left = width
        for path in self.paths:
            image = _scaled(path, _modified(path), width, self.height)
            if image is None:
                continue
            if image.width > left:
                break
            fitting.append(image)
            left -= image.width + GAP
        return fitting


def _line(image: Image.Image, top: int) -> list[Segment]:
    """Two rows of pixels as a line of text; blank below the picture's end."""
    if top >= image.height:
        return [Segment(" " * image.width)]
    segments = []
    for column in range(image.width):
        upper, lower = (_colour(image, column, row) for row in (top, top + 1))
        segments.append(Segment(HALF, Style(color=upper, bgcolor=lower)))
    return segments


def _colour(image: Image.Image, column: int, row: int) -> Color | None:
    if row >= image.height:
        return None
    red, green, blue = image.getpixel((column, row))  # type: ignore[misc]
    return Color.from_rgb(red, green, blue)


@lru_cache(maxsize=128)
def _scaled(path: Path, modified: float, width: int, height: int) -> Image.Image | None:
    """An image shrunk to fit, or None where it can't be read; `modified` makes a new file a new key."""
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, UnidentifiedImageError):
        return None
    scale = min(width / image.width, height / image.height, 1.0)
    size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
    return image.resize(size, Image.Resampling.BOX) if scale < 1 else image


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
