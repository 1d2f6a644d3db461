"""Image folders: one subfolder a class, or no classes at all."""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from .images import IMAGE_SUFFIXES, UNLABELLED, DataError, ImageSource, check_index, decode_image, digest, digest_files

UNREAD_IMAGES = frozenset({".avif", ".heic", ".heif", ".jxl", ".jp2", ".apng", ".psd", ".svg", ".dng", ".exr"})
SPLIT_NAMES = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})

logger = logging.getLogger(__name__)


class FolderSource(ImageSource):
    """The images below a folder.

    With labels, an image's class is the subfolder of `root` it lies in, at any depth; the classes are in alphabetical
    order, and the images in turn of class, so that any first n images hold all classes evenly. Without labels the
    images are in alphabetical order. Files whose names start with a dot, or end like no image, are passed over.

    Args:
        root: the folder.
        labelled: whether subfolders are classes.
        key: the recipe's key that names the folder, for messages.

    Raises:
        DataError: no such folder, no image in it, images outside any class, or subfolders that are splits.
    """

    def __init__(self, root: Path, labelled: bool = True, key: str = "data.source") -> None:
        if not root.is_dir():
            raise DataError(f"{key}: {root} is not a folder")
        self.root = root
        files = list_images(root)
        if not files:
            raise DataError(f"{key}: {root} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        if not labelled:
            self.files, self.labels, self.classes = files, [0] * len(files), list(UNLABELLED)
            return
        by_class = _group_by_class(files, root, key)
        self.classes = sorted(by_class)
        turns = itertools.zip_longest(*(by_class[name] for name in self.classes))
        pairs = [(file, label) for turn in turns for label, file in enumerate(turn) if file is not None]
        self.files = [file for file, _ in pairs]
        self.labels = [label for _, label in pairs]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        file = self.files[check_index(index, len(self))]
        return decode_image(file.read_bytes(), str(file)), self.labels[index]

    def name(self, index: int) -> str:
        """The image's path."""
        return str(self.files[check_index(index, len(self))])

    def fingerprint(self) -> str:
        """A hash of the classes, of every file's name and size, and of samples of their content."""
        return digest(self.classes, digest_files(self.files, self.root))


def list_images(root: Path) -> list[Path]:
    """Every image file below a folder, in alphabetical order; links to folders are followed.

    Other files are passed over; images of kinds that are not read are warned of.
    """
    files, others = [], Counter[str]()
    for path in _visible_files(root):
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            files.append(path)
        else:
            others[suffix] += 1
    unread = {suffix: count for suffix, count in others.items() if suffix in UNREAD_IMAGES}
    if others:
        logger.info("%s: passed over %d files that are no images", root, others.total() - sum(unread.values()))
    if unread:
        kinds = ", ".join(f"{count} of {suffix}" for suffix, count in sorted(unread.items()))
        logger.warning(
            "%s: passed over images of kinds that are not read: %s; takes %s",
            root,
            kinds,
            ", ".join(sorted(IMAGE_SUFFIXES)),
        )
    return sorted(files)


def suffixes_below(root: Path) -> set[str]:
    """The extensions of all files below a folder, in lower case with the dot."""
    return {path.suffix.lower() for path in _visible_files(root)}


def _visible_files(root: Path) -> Iterator[Path]:
    """Every file below a folder but those hidden by a dot; links to folders are followed, but not round in circles."""
    ways: dict[str, frozenset[tuple[int, int]]] = {}  # for each folder, those that lead to it and itself
    for folder, below, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        identity, before = (status.st_dev, status.st_ino), ways.get(os.path.dirname(folder), frozenset())
        if identity in before:
            below.clear()
            continue
        ways[folder] = before | {identity}
        below[:] = [name for name in below if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _group_by_class(files: list[Path], root: Path, key: str) -> dict[str, list[Path]]:
    by_class: dict[str, list[Path]] = {}
    for file in files:
        below = file.relative_to(root).parts
        if len(below) == 1:
            raise DataError(
                f"{key}: {file.name} lies in {root} itself, and so in no class; move the images into one subfolder a "
                "class, or set data.label_column=null to use them without labels"
            )
        by_class.setdefault(below[0], []).append(file)
    if {name.lower() for name in by_class} <= SPLIT_NAMES:
        raise DataError(
            f"{key}: the subfolders of {root} ({', '.join(sorted(by_class))}) look like splits rather than classes; "
            "name one of them as data.source and another as data.holdout"
        )
    return by_class
