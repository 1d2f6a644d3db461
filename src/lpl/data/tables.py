"""Tables of images: parquet files, and Hugging Face data sets saved to a folder or named on the hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from .images import (
    UNLABELLED,
    DataError,
    ImageSource,
    UnreadableImage,
    check_index,
    decode_image,
    digest,
    digest_files,
    index_classes,
)

if TYPE_CHECKING:
    import datasets

SAVED_MARKERS = ("state.json", "dataset_dict.json")  # what `save_to_disk` leaves in the folder


class TableSource(ImageSource):
    """The rows of a table with a column of images and, where wanted, one of labels.

    Args:
        table: from `datasets`; its image column holds `Image` features, encoded bytes, or {"bytes", "path"} records.
        image_column: its name.
        label_column: name of a column of class labels, integers or strings; None for no labels. The classes are the
            names that a `ClassLabel` carries, or else all values in order.
        origin: what the table is called in messages and logs.
        fingerprint: a hash of the table's content.

    Raises:
        DataError: the table is empty, a column is missing, or holds something else.
    """

    def __init__(
        self, table: datasets.Dataset, image_column: str, label_column: str | None, origin: str, fingerprint: str
    ) -> None:
        import datasets  # slow to import, and not needed for the bundled photographs

        _check_column(table, image_column, "data.image_column", origin)
        if len(table) == 0:
            raise DataError(f"data.source: {origin} has no rows")
        if isinstance(table.features[image_column], datasets.Image):  # decoded here, where failures get a name
            table = table.cast_column(image_column, datasets.Image(decode=False))
        elif not _holds_bytes(table.features[image_column]):
            raise DataError(
                f"data.image_column: {image_column!r} of {origin} holds {table.features[image_column]}; takes images, "
                "or their files' bytes"
            )
        self.classes, self._positions = list(UNLABELLED), None
        if label_column is not None:
            _check_column(table, label_column, "data.label_column", origin)
            self.classes, self._positions = _read_classes(table, label_column, origin)
        self._table = table.select_columns([name for name in (image_column, label_column) if name is not None])
        self._image_column, self._label_column = image_column, label_column
        self._origin, self._fingerprint = origin, fingerprint

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        row = self._table[check_index(index, len(self))]
        label = 0 if self._positions is None else self._positions[row[self._label_column]]
        return decode_image(self._read_bytes(row[self._image_column], index), self.name(index)), label

    def name(self, index: int) -> str:
        """The table and the row, from 0."""
        return f"{self._origin} row {check_index(index, len(self))}"

    def fingerprint(self) -> str:
        """The table's fingerprint with the columns, the classes and every row's label."""
        labels = None if self._label_column is None else self._table[self._label_column][:]
        return digest(self._fingerprint, self._image_column, self._label_column, self.classes, labels)

    def _read_bytes(self, value: Any, index: int) -> bytes:
        if isinstance(value, bytes):
            return value
        if isinstance(value, dict) and value.get("bytes") is not None:
            return value["bytes"]
        if isinstance(value, dict) and value.get("path"):
            return Path(value["path"]).read_bytes()
        raise UnreadableImage(self.name(index), "the cell is empty")


def open_parquet(
    files: Sequence[Path], image_column: str, label_column: str | None, key: str = "data.source"
) -> TableSource:
    """Opens parquet files as one table, in the order given.

    Raises:
        DataError: a file is missing or is not parquet, or the files' columns differ.
    """
    from datasets import load_dataset

    origin = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    try:
        table = load_dataset("parquet", data_files={"train": [str(file) for file in files]}, split="train")
    except Exception as error:  # datasets wraps whatever pyarrow and the file system raise
        raise DataError(f"{key}: cannot read {origin} as parquet: {_root_cause(error)}") from error
    folder = Path(os.path.commonpath([file.absolute().parent for file in files]))
    fingerprint = digest_files([file.absolute() for file in files], folder)
    return TableSource(table, image_column, label_column, origin, fingerprint)


def open_dataset(
    name: str, split: str, image_column: str, label_column: str | None, key: str = "data.source"
) -> TableSource:
    """Opens a Hugging Face data set.

    Args:
        name: a folder written by `save_to_disk`, a folder laid out like a hub repository, or a name on the hub,
            `owner/name` or `owner/name:configuration`.
        split: which of its splits.
        image_column: see `TableSource`.
        label_column: see `TableSource`.
        key: the recipe's key that named it, for messages.

    Raises:
        DataError: it can't be found or read, or has no such split.
    """
    import datasets

    try:
        if any((Path(name) / marker).is_file() for marker in SAVED_MARKERS):
            table = datasets.load_from_disk(name)
        elif Path(name).exists():
            table = datasets.load_dataset(name, split=split)
        else:
            path, _, configuration = name.partition(":")
            table = datasets.load_dataset(path, configuration or None, split=split)
    except Exception as error:  # the network, the hub, the file system and the loader fail in ways of their own
        hint = "" if Path(name).exists() else f"no file or folder {name} here, and as a data set of the hub: "
        raise DataError(f"{key}: cannot open {name!r}, split {split!r}: {hint}{_root_cause(error)}") from error
    if isinstance(table, datasets.DatasetDict):
        if split not in table:
            raise DataError(f"{key}: {name!r} has no split {split!r}; it has {', '.join(map(repr, table))}")
        table = table[split]
    return TableSource(table, image_column, label_column, f"{name} ({split})", table._fingerprint)


def _holds_bytes(feature: Any) -> bool:
    """Whether a column holds encoded images: bytes, or records of bytes with or without a path."""
    if isinstance(feature, dict):
        return "bytes" in feature and _holds_bytes(feature["bytes"])
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def _check_column(table: datasets.Dataset, column: str, key: str, origin: str) -> None:
    if column not in table.column_names:
        hint = "; data.label_column=null uses the images without labels" if key == "data.label_column" else ""
        raise DataError(f"{key}: {origin} has no column {column!r}; it has {', '.join(table.column_names)}{hint}")


def _read_classes(table: datasets.Dataset, column: str, origin: str) -> tuple[list[str], dict[Any, int]]:
    """The names of the classes, and the label that stands for each value of the column."""
    import datasets

    feature = table.features[column]
    if isinstance(feature, datasets.ClassLabel):
        names = list(feature.names)
        values = set(table.unique(column))
        if not values <= set(range(len(names))):
            raise DataError(
                f"data.label_column: {column!r} of {origin} holds {sorted(values - set(range(len(names))), key=str)} "
                f"besides its {len(names)} classes; such rows have no label"
            )
        return names, {label: label for label in range(len(names))}
    if not isinstance(feature, datasets.Value):
        raise DataError(f"data.label_column: {column!r} of {origin} holds {feature}; takes class labels")
    return index_classes(table.unique(column), f"data.label_column: {column!r} of {origin}")


def _root_cause(error: BaseException) -> str:
    """The innermost error's message: the loader's wrappers say only that something failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
