"""Parts of a block's feature maps: pieces to work on in turn, and some maps of all, taken out and put back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

FEW_VALUES = 1 << 20  # that a cache may hold

Piece = tuple[slice, slice, slice]
"""Samples, channels and rows: an index into maps, and without the rows into values (B, C)."""

WHOLE: Piece = (slice(None), slice(None), slice(None))


def pieces(maps: Tensor) -> list[Piece]:
    """Cuts maps (B, C, H, W) into pieces to work on in turn, so that what is in between stays in the cache.

    Large temporaries are dear on the CPU beyond that, since the operating system hands their pages out one by one.
    Pieces are samples, and parts of one sample where that holds too much: rows of channels-last maps, channels of
    others. Elsewhere than on the CPU, and when compiled, everything is one piece.
    """
    samples, channels, rows = maps.shape[:3]
    size = maps[:1].numel()
    every = slice(None)
    if not maps.is_cpu or torch.compiler.is_compiling():
        return [WHOLE]
    if size <= FEW_VALUES:
        return [(part, every, every) for part in _slices(samples, FEW_VALUES // max(size, 1))]
    number = -(-size // FEW_VALUES)
    alone = _slices(samples, 1)
    if maps.stride(1) == 1:
        return [(one, every, part) for one in alone for part in _slices(rows, rows // number)]
    return [(one, part, every) for one in alone for part in _slices(channels, channels // number)]


def _slices(length: int, step: int) -> list[slice]:
    step = max(step, 1)
    return [slice(start, start + step) for start in range(0, length, step)]


@dataclass(frozen=True)
class MapSelection:
    """K of the B·C maps of features (B, C, H, W).

    Attributes:
        samples: (K,), int64.
        channels: (K,), int64.
        sample: the one that all of them belong to, where the features are channels-last on the CPU; else None.
    """

    samples: Tensor
    channels: Tensor
    sample: int | None = None

    @property
    def index(self) -> tuple[Tensor, Tensor]:
        """`values[selection.index]` of values (B, C) are the K selected ones, in order."""
        return self.samples, self.channels

    def take(self, features: Tensor) -> Tensor:
        """The maps as (1, K, H, W), in the features' layout; a view where they are all of a sample's."""
        if self.sample is None:
            return features[self.index][None]
        if len(self.channels) == features.shape[1]:
            return features[self.sample : self.sample + 1]
        rows = features[self.sample].permute(1, 2, 0).view(-1, features.shape[1])
        channels = self.channels.expand(len(rows), -1)
        if rows.element_size() == 2 and not features.requires_grad:
            # Integers of the same size are moved twice as fast, but a view of another type passes no gradient on.
            taken = rows.view(torch.int16).gather(1, channels).view(features.dtype)
        else:
            taken = rows.gather(1, channels)
        return taken.view(1, *features.shape[-2:], -1).permute(0, 3, 1, 2)


def select_maps(features: Tensor, wanted: Tensor, exactly: bool = True) -> list[MapSelection]:
    """The maps for which `wanted`, boolean (B, C), holds: in one selection, or in one a sample.

    Of channels-last features on the CPU picking channels of one sample at a time is many times faster, and where not
    `exactly` the wanted maps have to be selected, nothing is picked where most are wanted.
    """
    return list(_selections(features, wanted, exactly))


def _selections(features: Tensor, wanted: Tensor, exactly: bool) -> Iterator[MapSelection]:
    samples, channels = torch.nonzero(wanted, as_tuple=True)
    if len(samples) == 0:
        return
    channels_last = features.is_contiguous(memory_format=torch.channels_last) and not features.is_contiguous()
    if not (features.is_cpu and channels_last):
        yield MapSelection(samples, channels)
        return
    numbers, counts = samples.unique_consecutive(return_counts=True)
    for number, part in zip(numbers.tolist(), channels.split(counts.tolist()), strict=True):
        if not exactly and 2 * len(part) > features.shape[1]:
            part = torch.arange(features.shape[1], device=part.device)
        yield MapSelection(torch.full_like(part, number), part, sample=number)
