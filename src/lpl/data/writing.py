"""The files of a latent cache while it is built."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np


class CacheWriter:
    """Appends batches to the arrays of a cache and keeps their statistics.

    Args:
        folder: where the arrays go.
        entry_shape: (flips, C, h, w) of one entry.

    Attributes:
        count: entries so far.
        deterministic: whether every standard deviation so far is zero.
    """

    def __init__(self, folder: Path, entry_shape: tuple[int, int, int, int]) -> None:
        self.folder = folder
        self.count = 0
        self.deterministic = True
        self._labels: list[int] = []
        self._files = {name: GrowingArray(folder / f"{name}.npy", entry_shape) for name in ("mean", "std")}
        self._values_per_channel = math.prod(entry_shape) // entry_shape[1]
        self._sum = np.zeros(entry_shape[1])
        self._sum_of_squares = np.zeros(entry_shape[1])

    @property
    def channel_mean(self) -> np.ndarray:
        """E[z] of each channel, float64 of shape (C,)."""
        return self._sum / (self.count * self._values_per_channel)

    @property
    def channel_std(self) -> np.ndarray:
        """√(E[mean² + std²] − E[z]²) of each channel, for z a sample of the posterior; float64 of shape (C,)."""
        variance = self._sum_of_squares / (self.count * self._values_per_channel) - self.channel_mean**2
        return np.sqrt(np.maximum(variance, 0))  # rounding may leave a constant channel slightly below 0

    def append(self, mean: np.ndarray, std: np.ndarray, labels: list[int]) -> None:
        """Adds entries: float16 arrays of shape (B, flips, C, h, w), and B labels."""
        self._files["mean"].append(mean)
        self._files["std"].append(std)
        self._labels += labels
        self.count += len(labels)
        self.deterministic = self.deterministic and not std.any()
        wide = mean.astype(np.float64)
        self._sum += wide.sum(axis=(0, 1, 3, 4))
        self._sum_of_squares += (wide**2 + std.astype(np.float64) ** 2).sum(axis=(0, 1, 3, 4))

    def close(self) -> np.ndarray:
        """Completes the files, without the standard deviations if all are zero; returns the labels, int64 (N,)."""
        for file in self._files.values():
            file.close()
        if self.deterministic:
            (self.folder / "std.npy").unlink()
        labels = np.array(self._labels, dtype=np.int64)
        np.save(self.folder / "labels.npy", labels)
        return labels


class GrowingArray:
    """A float16 .npy file that grows along its first axis; numpy's header leaves room for the final length."""

    def __init__(self, path: Path, entry_shape: tuple[int, ...]) -> None:
        self._file = path.open("wb")
        self._entry_shape = entry_shape
        self._count = 0
        self._write_header()

    def append(self, entries: np.ndarray) -> None:
        """Adds entries along the first axis."""
        self._file.write(np.ascontiguousarray(entries, dtype="<f2").data)
        self._count += len(entries)

    def close(self) -> None:
        """Writes the length into the header, and everything to the disk: the folder's name vouches for its content."""
        self._file.seek(0)
        self._write_header()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def _write_header(self) -> None:
        header = {"descr": "<f2", "fortran_order": False, "shape": (self._count, *self._entry_shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
