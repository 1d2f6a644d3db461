"""Opens whatever `data.source` names: the bundled photographs, a folder, parquet, tar shards or a Hugging Face set."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import Literal

from ..config import DataConfig
from .folders import FolderSource, suffixes_below
from .images import IMAGE_SUFFIXES, UNLABELLED, DataError, ImageSource, Limited, Relabelled
from .photographs import PhotographSource
from .shards import ShardSource
from .tables import SAVED_MARKERS, open_dataset, open_parquet

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[\w.-]+)?")


def open_images(config: DataConfig, holdout: bool = False) -> ImageSource:
    """Opens the training images, or those held out from training.

    Held-out images are those of `data.holdout`, or of the split `data.holdout_split` where the source has splits. Their
    labels count positions in the training images' list of classes. `data.limit` holds for the training images alone.

    Args:
        config: the recipe's section `data`.
        holdout: whether to open the held-out images.

    Raises:
        DataError: the source can't be found or read, holds no images or lacks a column; or the held-out images are
            named nowhere, or have classes that the training images lack.
    """
    train = _open(config, config.source, "data.source")
    if not holdout:
        return train if config.limit is None else Limited(train, config.limit)
    if config.holdout is not None:
        held_out = _open(config, config.holdout, "data.holdout", "holdout_split")
    elif _format_of(config, config.source, "data.source") in ("photographs", "hub"):
        held_out = _open(config, config.source, "data.source", "holdout_split")
    else:
        raise DataError(
            f"data.holdout: not given, and {config.source} has no splits; name the held-out images, written like "
            "data.source"
        )
    return _align_classes(held_out, train)


def detect_format(source: str, key: str = "data.source") -> str:
    """What kind of data set a name stands for: "photographs", "folder", "parquet", "webdataset" or "hub".

    Raises:
        DataError: nothing of that name exists and it can't be a name on the hub, or a folder holds none of the kinds.
    """
    if source == "photographs":
        return "photographs"
    path = Path(source).expanduser()
    if path.is_dir():
        return _detect_folder(path, key)
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".tar"):
        return "parquet" if suffix == ".parquet" else "webdataset"
    if not path.exists() and HUB_NAME.fullmatch(source):
        return "hub"
    found = "is none of these" if path.exists() else "does not exist"
    raise DataError(
        f"{key}: {source} {found}; takes 'photographs', a folder, *.parquet files, *.tar shards, or a data set's name "
        "on the hub"
    )


def _detect_folder(folder: Path, key: str) -> str:
    if any((folder / marker).is_file() for marker in SAVED_MARKERS):
        return "hub"
    suffixes = suffixes_below(folder)
    if ".parquet" in suffixes and suffixes & IMAGE_SUFFIXES:
        raise DataError(f"{key}: {folder} holds both images and parquet files; set data.format to folder or to hub")
    if suffixes & IMAGE_SUFFIXES:
        return "folder"
    if ".parquet" in suffixes:  # laid out like a repository of the hub, with splits in the names
        return "hub"
    if ".tar" in suffixes:
        raise DataError(f"{key}: {folder} holds tar shards; name them by a pattern, such as {folder}/*.tar")
    raise DataError(f"{key}: {folder} holds no images, parquet files or tar shards")


def _format_of(config: DataConfig, source: str, key: str) -> str:
    return detect_format(source, key) if config.format == "auto" else config.format


def _open(
    config: DataConfig, source: str, key: str, split_key: Literal["split", "holdout_split"] = "split"
) -> ImageSource:
    kind = _format_of(config, source, key)
    split: str = getattr(config, split_key)
    if kind == "photographs":
        photographs = PhotographSource(split, f"data.{split_key}")
        everything_one = [0] * len(photographs.classes)
        return photographs if config.label_column else Relabelled(photographs, UNLABELLED, everything_one)
    if kind == "hub":
        expanded = Path(source).expanduser()
        name = str(expanded) if expanded.exists() else source
        return open_dataset(name, split, config.image_column, config.label_column, key)
    if kind == "folder":
        return FolderSource(Path(source).expanduser(), config.label_column is not None, key)
    files = _find_files(source, key)
    if kind == "parquet":
        return open_parquet(files, config.image_column, config.label_column, key)
    return ShardSource(files, config.label_column, key)


def _find_files(pattern: str, key: str) -> list[Path]:
    """The file of that name, or those that match it as a pattern, in alphabetical order."""
    path = Path(pattern).expanduser()
    files = [path] if path.is_file() else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    files = [file for file in files if file.is_file()]
    if not files:
        raise DataError(f"{key}: no file is named {pattern} or matches it as a pattern")
    return files


def _align_classes(held_out: ImageSource, train: ImageSource) -> ImageSource:
    """The held-out images with the training images' labels, matched by the classes' names."""
    if held_out.classes == train.classes:
        return held_out
    position = {name: label for label, name in enumerate(train.classes)}
    unknown = [name for name in held_out.classes if name not in position]
    if unknown:
        raise DataError(
            f"data.holdout: has classes that data.source lacks: {', '.join(unknown[:10])}"
            f"{' …' if len(unknown) > 10 else ''}"
        )
    return Relabelled(held_out, train.classes, [position[name] for name in held_out.classes])
