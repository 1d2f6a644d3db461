"""Small pictures that can be told apart, files of them in every format, and an autoencoder simple enough to predict."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor


def picture(number: int, size: tuple[int, int] = (24, 16)) -> Image.Image:
    """A random RGB picture that only its number decides."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The content of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_class_folders(root: Path, counts: dict[str, int]) -> Path:
    """One subfolder a class, with pictures 0, 1, … of each."""
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture(100 * label + number).save(root / name / f"{number:03}.png")
    return root


def image_set(labels: list[object], feature: object, label_name: str = "label") -> datasets.Dataset:
    """Pictures 0, 1, … with labels."""
    images = [{"bytes": encoded(picture(number)), "path": None} for number in range(len(labels))]
    features = datasets.Features({"image": datasets.Image(), label_name: feature})
    return datasets.Dataset.from_dict({"image": images, label_name: labels}, features=features)


def write_parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def write_shard(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def labelled_members(labels: list[object], first: int = 0) -> dict[str, bytes]:
    members = {}
    for number, label in enumerate(labels, first):
        members[f"{number:06}.png"] = encoded(picture(number))
        members[f"{number:06}.cls"] = str(label).encode()
    return members


class LinearAutoencoder:
    """Follows the interface of `lpl.autoencoders.Autoencoder`: averages 4×4 pixels, and says how sure it is.

    Three channels hold the averaged colours times `scale`, a fourth their mean; the standard deviation is
    0.1 + 0.05 |mean|, or zero.
    """

    def __init__(self, scale: float = 1.0, deterministic: bool = False) -> None:
        self.scale = scale
        self.deterministic = deterministic
        self.batches: list[int] = []

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def fingerprint(self) -> str:
        return f"linear-{self.scale}-{self.deterministic}"

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        if resolution % 4:
            raise ValueError(f"resolution: got {resolution}, takes a multiple of 4 pixels")
        return 4, resolution // 4, resolution // 4

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.batches.append(len(images))
        pooled = torch.nn.functional.avg_pool2d(images, 4)
        mean = self.scale * torch.cat([pooled, pooled.mean(1, keepdim=True)], dim=1)
        std = torch.zeros_like(mean) if self.deterministic else 0.1 + 0.05 * mean.abs()
        return mean, std
