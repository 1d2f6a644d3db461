"""The same seeds side by side: which images of the runs belong together, and those images inlined within a budget.

Sample i of every run starts from the noise seeded by (seed, i). Two images are a pair only if seed, index, class and
size agree; what doesn't is left out and said.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from lpl.reports import wording
from lpl.reports.comparison import plain
from lpl.reports.runs import Run, SampleSet, mapping

MAX_PICTURES = 48  # sample indices shown
PAGE_LIMIT = 25_000_000  # bytes of the whole page
IMAGE_BUDGET = 18_000_000  # bytes of data URIs; the rest of the page is far more than most charts take
LOSSLESS_SIDE = 256  # up to this many pixels a side an image is inlined as PNG, pixel for pixel
JPEG_QUALITY = 95  # beyond it as JPEG without chroma subsampling, which keeps the detail that LPL is about
PIXELATED_SIDE = 128  # images this small are enlarged pixel by pixel, so that no detail is invented


@dataclass(frozen=True)
class Picture:
    """One run's image of one sample."""

    run: int  # position among the runs of the page
    uri: str
    side: tuple[int, int]  # width and height in pixels
    alternative: str  # what it is, for people who can't see it


@dataclass(frozen=True)
class PictureGroup:
    """All runs' images of one sample: same seed, same index, same class, same size."""

    index: int
    seed: int | None
    class_name: str | None
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Gallery:
    """The pictures of a page, and what has to be said about them."""

    groups: tuple[PictureGroup, ...]
    runs: tuple[int, ...]  # positions of the runs that have pictures
    total: int  # samples that could have been shown
    lossless: bool = True
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Width in pixels of the widest picture; 0 without pictures."""
        return max((picture.side[0] for group in self.groups for picture in group.pictures), default=0)

    @property
    def size(self) -> int:
        """Bytes of all data URIs."""
        return sum(len(picture.uri) for group in self.groups for picture in group.pictures)

    @property
    def first_pair(self) -> tuple[int, int]:
        """The two runs to begin with; twice the same where there is nothing to pair."""
        pair = next((group.pictures[:2] for group in self.groups if len(group.pictures) > 1), ())
        runs = [picture.run for picture in pair] or [*self.runs[:1], *self.runs[:1]] or [0, 0]
        return runs[0], runs[1]

    @property
    def pixelated(self) -> bool:
        """Whether the pictures are so small that they are enlarged pixel by pixel."""
        return self.width <= PIXELATED_SIDE


@dataclass
class _Budget:
    """Bytes left for images, and the names of those that could not be read."""

    left: int
    unreadable: list[str] = field(default_factory=list)


Size = tuple[int, int]
Key = tuple[int | None, int, str | None, Size | None]  # seed, sample index, class name, width and height


def gallery(runs: Sequence[Run], limit: int = MAX_PICTURES, budget: int = IMAGE_BUDGET) -> Gallery:
    """Groups the runs' images by sample, and inlines the first ones.

    Args:
        runs: the runs of the page.
        limit: the most samples shown.
        budget: the most bytes that all images may take, written as data URIs.
    """
    shown = [index for index, run in enumerate(runs) if run.samples]
    available = {index: _by_key(runs[index].samples) for index in shown}
    shared = _shared_keys(available)
    remaining = _Budget(budget)
    groups = []
    for key in shared[:limit]:
        group = _group(key, {run: images[key] for run, images in available.items() if key in images}, runs, remaining)
        if remaining.left < 0:
            break
        if group.pictures:
            groups.append(group)
    lossless = all(max(picture.side) <= LOSSLESS_SIDE for group in groups for picture in group.pictures)
    found = Gallery(tuple(groups), tuple(shown), len(shared), lossless)
    return Gallery(**{**vars(found), "notes": tuple(_notes(runs, found, available, remaining))})


def pairing_problem(first: Run, second: Run) -> str | None:
    """Why no image of one run pairs with one of the other; None where some do."""
    if not first.samples or not second.samples:
        return None
    if first.samples.seed is None or second.samples.seed is None:
        return "a seed is unknown"
    if _by_key(first.samples).keys() & _by_key(second.samples).keys():
        return None
    if first.samples.seed != second.samples.seed:
        return f"their seeds differ ({first.samples.seed} and {second.samples.seed})"
    if first.samples.size != second.samples.size:
        return "their images differ in size, so they start from different noise"
    if set(first.samples.images).isdisjoint(second.samples.images):
        return "they have no sample index in common"
    return "the same sample has another class in each"


def _by_key(samples: SampleSet | None) -> dict[Key, Path]:
    if samples is None:
        return {}
    return {
        (samples.seed, index, samples.class_name(index), samples.size): path for index, path in samples.images.items()
    }


def _shared_keys(available: Mapping[int, Mapping[Key, Path]]) -> list[Key]:
    """Samples that at least two runs have, in the order of their index; with one run, all of its own.

    Without a known seed nothing is known to be shared.
    """
    counts: dict[Key, int] = {}
    for images in available.values():
        for key in images:
            counts[key] = counts.get(key, 0) + 1
    if len(available) == 1:
        return sorted(counts, key=lambda key: key[1])
    return sorted((key for key, count in counts.items() if count > 1 and key[0] is not None), key=lambda key: key[1])


def _group(key: Key, files: Mapping[int, Path], runs: Sequence[Run], budget: _Budget) -> PictureGroup:
    seed, index, class_name, _ = key
    pictures: list[Picture] = []
    for run, path in files.items():
        inlined = _inline(path, budget, runs[run].name)
        if inlined is None:
            continue
        uri, side = inlined
        of_class = f" of {class_name}" if class_name else ""
        pictures.append(Picture(run, uri, side, f"{runs[run].name}: sample {index}{of_class}"))
    return PictureGroup(index, seed, class_name, tuple(pictures))


def _inline(path: Path, budget: _Budget, run: str) -> tuple[str, tuple[int, int]] | None:
    """A data URI and the image's width and height; None, and a name in the budget, where it can't be read."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, UnidentifiedImageError):
        budget.unreadable.append(f"{run}/{path.name}")
        return None
    buffer = io.BytesIO()
    if max(image.size) <= LOSSLESS_SIDE:
        kind = "png"
        image.save(buffer, "PNG")
    else:
        kind = "jpeg"
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    budget.left -= len(uri)
    return uri, image.size


def _notes(
    runs: Sequence[Run], found: Gallery, available: Mapping[int, Mapping[Key, Path]], budget: _Budget
) -> list[str]:
    notes = []
    if found.total > len(found.groups):
        notes.append(
            f"The first {len(found.groups)} of {found.total:,} shared samples are shown, to keep the page small."
        )
    if found.groups and not found.lossless:
        notes.append(f"Images over {LOSSLESS_SIDE} pixels a side are inlined as JPEG at quality {JPEG_QUALITY}.")
    if budget.unreadable:
        notes.append(f"Unreadable images were left out: {wording.listed(budget.unreadable)}.")
    if len(available) > 1:
        notes += _pairing_notes([runs[index] for index in available])
    return notes


def _pairing_notes(runs: Sequence[Run]) -> list[str]:
    """Each run against the first one that has pictures: what can't be paired, and what was drawn differently."""
    notes = []
    first, *others = runs
    for other in others:
        problem = pairing_problem(first, other)
        if problem:
            notes.append(f"{first.name} and {other.name} can't be paired: {problem}.")
            continue
        notes += _partial_notes(first, other)
        if mapping(first.recipe.get("autoencoder")).get("path") != mapping(other.recipe.get("autoencoder")).get("path"):
            notes.append(f"{first.name} and {other.name} use different autoencoders, so a seed is not the same noise.")
        differing = "; ".join(differing_settings(first, other))
        if differing:
            what = f"{first.name} and {other.name} were sampled differently ({differing})"
            notes.append(f"{what}, so the pictures show that too.")
    return notes


def _partial_notes(first: Run, other: Run) -> list[str]:
    ours, theirs = _by_key(first.samples), _by_key(other.samples)
    indices = {key[1] for key in ours} & {key[1] for key in theirs}
    shared = {key[1] for key in ours.keys() & theirs.keys()}
    unmatched = len(indices - shared)
    if not unmatched:
        return []
    return [
        f"{wording.counted(unmatched, 'sample')} of {first.name} and {other.name} have different classes: not paired."
    ]


def differing_settings(first: Run, other: Run) -> list[str]:
    """Sampling settings that differ between two runs' images, apart from those that can't change an image."""
    ours = first.samples.settings if first.samples else {}
    theirs = other.samples.settings if other.samples else {}
    harmless = {"batch_size", "count", "labels"}
    keys = [key for key in dict.fromkeys([*ours, *theirs]) if key not in harmless and ours.get(key) != theirs.get(key)]
    return [f"{key} {plain(ours.get(key))} and {plain(theirs.get(key))}" for key in keys]
