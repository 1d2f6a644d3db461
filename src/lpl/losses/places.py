"""Positions of feature maps by number, for what concerns few of many."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .maps import Piece
from .moments import in_memory_order

WORD = 8  # bytes that are looked at at once


def places_of(flags: Tensor) -> Tensor:
    """Where bytes (N,) of zero and one are one, ascending: (K,), int64. Fast where they seldom are."""
    if len(flags) % WORD or len(flags) == 0:
        return flags.view(torch.bool).nonzero().flatten()
    words = flags.view(torch.int64).nonzero().flatten()
    word, byte = flags.view(-1, WORD)[words].nonzero(as_tuple=True)
    return words[word] * WORD + byte


def in_a_row(features: Tensor) -> Tensor:
    """All values of features (B, C, H, W) in the order that they lie in memory: a view where they have no gaps."""
    return in_memory_order(features)[0].flatten()


@dataclass(frozen=True)
class MemoryOrder:
    """The order that the values of features (B, C, H, W) are numbered in: that in which they lie in memory.

    Attributes:
        shape: (B, C, H, W).
        channels_last: whether the order is (B, H, W, C), and not (B, C, H, W).
    """

    shape: torch.Size
    channels_last: bool

    @classmethod
    def of(cls, features: Tensor) -> MemoryOrder:
        """That of features in any layout; those that have gaps are numbered as if they had none."""
        return cls(features.shape, in_memory_order(features)[1] == 2)

    @property
    def line(self) -> int:
        """Number of values from a row to the next."""
        return self.shape[3] * self._step

    @property
    def _step(self) -> int:
        return self.shape[1] if self.channels_last else 1

    @property
    def _axes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width, and how far apart neighbours along each are."""
        return (self.shape[2], self.line), (self.shape[3], self._step)

    def maps(self, places: Tensor) -> Tensor:
        """Of which map each place (N,) is: c of sample b has the number b·C + c."""
        channels, positions = self.shape[1], math.prod(self.shape[2:])
        if not self.channels_last:
            return places // positions
        return places // (positions * channels) * channels + places % channels

    def counts(self, places: Tensor) -> Tensor:
        """How many places (N,) each map has: (B, C), int64."""
        samples, channels = self.shape[:2]
        return torch.bincount(self.maps(places), minlength=samples * channels).view(samples, channels)

    def numbers(self, samples: Tensor, channels: Tensor, positions: Tensor) -> Tensor:
        """Those of positions y·W + x of some samples' channels, each (N,)."""
        if self.channels_last:
            return (samples * math.prod(self.shape[2:]) + positions) * self.shape[1] + channels
        return (samples * self.shape[1] + channels) * math.prod(self.shape[2:]) + positions

    def index(self, places: Tensor) -> tuple[Tensor, ...]:
        """Sample, channel, row and column of each place (N,)."""
        maps, ((height, line), (width, step)) = self.maps(places), self._axes
        return maps // self.shape[1], maps % self.shape[1], places // line % height, places // step % width

    def first(self, piece: Piece) -> int:
        """The number of the first value that one of the features' `pieces` holds."""
        sample, channel, row = (part.start or 0 for part in piece)
        if self.channels_last:
            return (sample * self.shape[2] + row) * self.line
        return (sample * self.shape[1] + channel) * math.prod(self.shape[2:])

    def holds(self, features: Tensor) -> bool:
        """Whether features, or one of their `pieces`, lie in memory one after the other in this order."""
        if not self.channels_last:
            return features.shape[2] == self.shape[2] and features.is_contiguous()
        return features.shape[1] == self.shape[1] and features.is_contiguous(memory_format=torch.channels_last)

    def around(self, places: Tensor, window: int, rows_alone: bool = False) -> Tensor:
        """All within a window around each place, as far as it lies within the map; ascending, each once."""
        for size, stride in self._axes[: 1 if rows_alone else 2]:
            near, inside = _neighbours(places, size, stride, window)
            places = near[inside].unique()
        return places

    def windows(self, places: Tensor, window: int) -> Tensor:
        """The window around each place (N,): (N, window, window); the place itself where that leaves the map."""
        (near_rows, row_inside), (near_columns, column_inside) = (
            _neighbours(places, *axis, window) for axis in self._axes
        )
        numbers = near_rows[:, :, None] + near_columns[:, None, :] - places[:, None, None]
        inside = row_inside[:, :, None] & column_inside[:, None, :]
        return torch.where(inside, numbers, places[:, None, None])


def _neighbours(places: Tensor, size: int, stride: int, window: int) -> tuple[Tensor, Tensor]:
    """The places of a window around each along one axis, (N, window), and whether they lie within the map."""
    reach = torch.arange(-(window // 2), window // 2 + 1, device=places.device)
    moved = (places // stride % size)[:, None] + reach
    return places[:, None] + stride * reach, (moved >= 0) & (moved < size)
