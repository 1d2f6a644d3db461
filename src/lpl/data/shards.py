"""WebDataset shards: tar files in which the members of one sample share a name and differ in extension."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from .images import (
    IMAGE_SUFFIXES,
    UNLABELLED,
    DataError,
    ImageSource,
    check_index,
    decode_image,
    digest,
    digest_files,
    index_classes,
)

READ_BYTES = 1 << 20
LABEL_MEMBERS = ("cls", "txt")  # where label_column="label" looks besides the JSON key of that name


@dataclass
class Sample:
    """One sample of a shard: for each extension, where its content lies, as (offset, length) in bytes."""

    shard: Path
    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)

    def read(self, extension: str) -> bytes:
        """The content of one member."""
        offset, length = self.members[extension]
        with self.shard.open("rb") as file:
            file.seek(offset)
            return file.read(length)


class ShardSource(ImageSource):
    """The samples of uncompressed tar shards, with random access to each.

    The shards are indexed once, by their headers; images are read where they lie.

    Args:
        shards: the tar files, in order.
        label_column: "label" takes a sample's `cls` member, else the key "label" of its `json` member, else its `txt`
            member; another name takes the member of that extension, else that key of the `json` member. None: no
            labels.
        key: the recipe's key that names the shards, for messages.

    Raises:
        DataError: a file is no uncompressed tar, no sample has an image, or a sample has no label.
    """

    def __init__(self, shards: Sequence[Path], label_column: str | None = "label", key: str = "data.source") -> None:
        self.shards = list(shards)
        samples = [sample for shard in self.shards for sample in index_shard(shard, key)]
        pairs = [(sample, extension) for sample in samples if (extension := _image_extension(sample)) is not None]
        if not pairs:
            raise DataError(f"{key}: no image in {_describe(self.shards)}; takes members such as 000000.jpg")
        self.samples = [sample for sample, _ in pairs]
        self._extensions = [extension for _, extension in pairs]
        self.classes, self.labels = list(UNLABELLED), [0] * len(self.samples)
        if label_column is not None:
            values = _numbers_if_all([_read_label(sample, label_column) for sample in self.samples])
            subject = f"data.label_column: {label_column!r} in {_describe(self.shards)}"
            self.classes, positions = index_classes(list(dict.fromkeys(values)), subject)
            self.labels = [positions[value] for value in values]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        name = self.name(index)
        return decode_image(self.samples[index].read(self._extensions[index]), name), self.labels[index]

    def name(self, index: int) -> str:
        """The shard and the member."""
        sample = self.samples[check_index(index, len(self))]
        return f"{sample.shard}/{sample.key}.{self._extensions[index]}"

    def fingerprint(self) -> str:
        """A hash of the labels, of the shards' names and sizes, and of samples of their content."""
        files = [shard.absolute() for shard in self.shards]
        folder = Path(os.path.commonpath([file.parent for file in files]))
        return digest(self.classes, self.labels, digest_files(files, folder))


def index_shard(shard: Path, key: str = "data.source") -> Iterator[Sample]:
    """The samples of one shard in their order; a sample's members follow each other.

    Raises:
        DataError: the file can't be read as an uncompressed tar, or is damaged or cut short.
    """
    sample = None
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                folder, _, file_name = member.name.rpartition("/")
                stem, dot, extension = file_name.partition(".")  # up to the first dot, by WebDataset's convention
                if not member.isfile() or not dot or not stem:
                    continue
                name = f"{folder}/{stem}" if folder else stem
                if sample is None or sample.key != name:
                    if sample is not None:
                        yield sample
                    sample = Sample(shard, name)
                sample.members[extension.lower()] = (member.offset_data, member.size)
            _refuse_cut(shard, archive.offset, key)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{key}: cannot read {shard} as an uncompressed tar file: {error}") from error
    if sample is not None:
        yield sample


def _refuse_cut(shard: Path, offset: int, key: str) -> None:
    """Raises where members end at `offset` without the zeros that end an archive.

    A header that is damaged or cut short ends `tarfile`'s list of members just like those do.
    """
    with shard.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
        ended = len(block) == tarfile.BLOCKSIZE and not block.strip(b"\0")
        while ended and (block := file.read(READ_BYTES)):
            ended = not block.strip(b"\0")
    if not ended:
        raise DataError(
            f"{key}: {shard} is damaged or cut short at byte {offset:,}: there is neither a member's header nor the "
            "archive's end, or something comes after that end; write the shard anew"
        )


def _image_extension(sample: Sample) -> str | None:
    """The sample's first member that is an image."""
    return next((extension for extension in sample.members if f".{extension}" in IMAGE_SUFFIXES), None)


def _read_label(sample: Sample, column: str) -> int | str:
    value = _find_label(sample, column)
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(
            f"data.label_column: sample {sample.key} of {sample.shard} has no label {column!r} (found {value!r}; its "
            f"members are {', '.join(sample.members)}); data.label_column=null uses the images without labels"
        )
    return value


def _numbers_if_all(labels: list[int | str]) -> list[int] | list[int | str]:
    """Labels written in digits as integers, where all are: members are text, and class 10 comes after class 9."""
    if all(str(label).isdecimal() for label in labels):
        return [int(label) for label in labels]
    return labels


def _find_label(sample: Sample, column: str) -> Any:
    first, *others = LABEL_MEMBERS if column == "label" else (column,)
    if first in sample.members:
        return sample.read(first).decode()
    if "json" in sample.members:
        try:
            record = json.loads(sample.read("json"))
        except ValueError as error:
            raise DataError(f"data.source: {sample.shard}/{sample.key}.json is not JSON: {error}") from error
        if isinstance(record, dict) and column in record:
            return record[column]
    return next((sample.read(extension).decode() for extension in others if extension in sample.members), None)


def _describe(shards: Sequence[Path]) -> str:
    return str(shards[0]) if len(shards) == 1 else f"{shards[0]} and {len(shards) - 1} more"
