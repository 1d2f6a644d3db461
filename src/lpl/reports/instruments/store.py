"""The analyses' pictures, inlined once each and within a budget.

What does not fit is first compressed, then halved, halved again, and at last left out, always the picture that takes
most. Each step is said on the page.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from lpl.reports import wording
from lpl.reports.pictures import PAGE_LIMIT

MIME = {"PNG": "image/png", "WEBP": "image/webp", "JPEG": "image/jpeg"}
QUALITY = 90  # of WebP
SMALLEST_TILE = 16  # pixels a side: a smaller map says nothing any more
AS_IT_IS, COMPRESSED, HALF, QUARTER, LEFT_OUT = range(5)
STEPS = {
    COMPRESSED: f"compressed as WebP at quality {QUALITY}",
    HALF: "at a half of their size",
    QUARTER: "at a quarter of their size",
    LEFT_OUT: "left out",
}


@dataclass
class _Stored:
    """One picture file, as the page has it."""

    content: bytes  # of the file
    kind: str  # PIL's name of its format
    tile: tuple[int, int] | None  # of a sprite
    labels: dict[tuple[str, str], None] = field(default_factory=dict)  # section and what it is, in order
    step: int = AS_IT_IS
    data: bytes = b""  # what is inlined
    mime: str = ""

    def __post_init__(self) -> None:
        self.data, self.mime = self.content, MIME[self.kind]

    @property
    def size(self) -> int:
        """Bytes of its data URI, about."""
        return 4 * len(self.data) // 3 + 40 if self.data else 0

    def reduce(self) -> None:
        """Takes the next step that makes it smaller."""
        before = len(self.data)
        while self.step < LEFT_OUT:
            self.step += 1
            smaller = self._encoded()
            if len(smaller) < before:
                self.data, self.mime = smaller, MIME["WEBP"]
                return

    def _encoded(self) -> bytes:
        """The picture at its step; nothing where a tile would become too small."""
        if self.step == LEFT_OUT:
            return b""
        if self.step == COMPRESSED and self.kind == "WEBP":
            return self.content
        factor = {COMPRESSED: 1, HALF: 2, QUARTER: 4}[self.step]
        with Image.open(io.BytesIO(self.content)) as opened:
            picture = opened.convert("RGBA" if "A" in opened.getbands() else "RGB")
        tile = self.tile or picture.size
        if factor > 1 and min(tile) // factor < SMALLEST_TILE:
            self.step = LEFT_OUT
            return b""
        buffer = io.BytesIO()
        _shrunk(picture, tile, factor).save(buffer, "WEBP", quality=QUALITY, method=2)
        return buffer.getvalue()


class PictureStore:
    """Collects pictures; `settle` then turns them into data URIs that fit a budget."""

    def __init__(self) -> None:
        self._pictures: dict[str, _Stored] = {}
        self._unreadable: dict[str, dict[str, None]] = {}
        self.uris: dict[str, str] = {}

    def add(
        self, folder: Path, relative: str | None, section: str, label: str, tile: tuple[int, int] | None = None
    ) -> str | None:
        """Keeps a picture for the page.

        Args:
            folder: of the analysis.
            relative: path of the picture within it, or None.
            section: identifier of the section that shows it.
            label: what it is, for people who are told that it was left out; the same for pictures of a kind.
            tile: (width, height) of the tiles where it is a sprite.

        Returns:
            Its key in `uris`; None where there is no picture, or none that can be read, which is noted.
        """
        if relative is None:
            return None
        path = folder / relative
        try:
            if not path.resolve().is_relative_to(folder.resolve()):
                raise UnidentifiedImageError("it lies outside the folder")
            content = path.read_bytes()
            with Image.open(io.BytesIO(content)) as opened:
                kind = opened.format or ""
            if kind not in MIME:
                raise UnidentifiedImageError(f"it is a {kind}")
        except (OSError, UnidentifiedImageError):
            self._unreadable.setdefault(section, {})[f"{folder.name}/{relative}"] = None
            return None
        key = "p" + hashlib.sha256(content).hexdigest()[:12]
        stored = self._pictures.setdefault(key, _Stored(content, kind, tile))
        stored.labels[section, label] = None
        return key

    def settle(self, budget: int) -> None:
        """Fills `uris`, reducing the picture that takes most until all of them take at most `budget` bytes."""
        total = sum(picture.size for picture in self._pictures.values())
        while total > max(budget, 0):
            largest = max(self._pictures.values(), key=lambda picture: picture.size)
            before = largest.size
            largest.reduce()
            total += largest.size - before
        self.uris = {
            key: f"data:{picture.mime};base64,{base64.b64encode(picture.data).decode('ascii')}"
            for key, picture in self._pictures.items()
            if picture.data
        }

    def notes(self, section: str) -> list[str]:
        """What became of a section's pictures, once settled; empty where all are as they were written."""
        notes = []
        for step, words in STEPS.items():
            listed = list(self._reduced(section, step))
            if listed:
                notes.append(
                    f"To keep the page under {PAGE_LIMIT / 1e6:g}{wording.GAP}MB, {words}: {wording.listed(listed)}."
                )
        unreadable = list(self._unreadable.get(section, ()))
        if unreadable:
            shown = [*unreadable[:6], *([f"{len(unreadable) - 6} more"] if len(unreadable) > 6 else [])]
            notes.append(f"Missing or unreadable, so not shown: {wording.listed(shown)}.")
        return notes

    def _reduced(self, section: str, step: int) -> Iterable[str]:
        """Kinds of pictures at a step, with how many of them where not all are."""
        totals: dict[str, int] = {}
        reduced: dict[str, int] = {}
        for picture in self._pictures.values():
            for home, label in picture.labels:
                if home == section:
                    totals[label] = totals.get(label, 0) + 1
                    reduced[label] = reduced.get(label, 0) + (picture.step == step)
        for label, count in reduced.items():
            if count:
                yield label if count == totals[label] else f"{count} of {totals[label]} {label}"


def _shrunk(picture: Image.Image, tile: tuple[int, int], factor: int) -> Image.Image:
    """The picture at 1/factor of its size, tile by tile, so that neighbours don't run into each other."""
    if factor == 1:
        return picture
    if tile[0] % factor == 0 and tile[1] % factor == 0:
        return picture.reduce(factor)
    columns, rows = picture.width // tile[0], picture.height // tile[1]
    side = (tile[0] // factor, tile[1] // factor)
    small = Image.new(picture.mode, (columns * side[0], rows * side[1]))
    for place in range(columns * rows):
        left, top = place % columns, place // columns
        box = (left * tile[0], top * tile[1], (left + 1) * tile[0], (top + 1) * tile[1])
        small.paste(picture.resize(side, Image.Resampling.BOX, box=box), (left * side[0], top * side[1]))
    return small
