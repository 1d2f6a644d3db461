"""What each training step is trained on: a pure function of the seed and the step.

A step takes `slots` = accumulation × processes forward passes. Slot k of step n draws everything random from one
generator seeded by (seed, n, k) and takes the k-th part of that step's samples, whichever process runs it and when. A
resumed run therefore continues exactly, and one process that accumulates twice sees what two processes see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ..data import LatentCache, batch_indices, seeded_generator
from ..diffusion.paths import DiffusionPath
from .terms import TrainingBatch

TERM_DRAWS = 1  # last word of the seed of what perceptual terms draw, which the draws below don't share

Item = TypeVar("Item")


class LabelDropper(Protocol):
    """What batches need of a denoiser."""

    def drop_labels(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Replaces some labels (B,) by the null label."""


@dataclass(frozen=True)
class BatchSource:
    """Makes the batches of every step, on the CPU.

    Attributes:
        cache: the latents.
        path: draws the timesteps.
        denoiser: drops labels.
        seed: the recipe's.
        batch_size: samples a forward pass.
        accumulation: forward passes a step and process.
        flip: whether half of the samples are mirrored.
        rank: this process, from 0.
        processes: how many there are.
        pin: put the batches into page-locked memory, from which a GPU copies while it computes.
    """

    cache: LatentCache
    path: DiffusionPath
    denoiser: LabelDropper
    seed: int
    batch_size: int
    accumulation: int = 1
    flip: bool = True
    rank: int = 0
    processes: int = 1
    pin: bool = False

    @property
    def slots(self) -> int:
        """Forward passes a step, over all processes."""
        return self.accumulation * self.processes

    def step(self, step: int) -> list[TrainingBatch]:
        """This process's batches of optimiser step `step` (1, 2, …), one a forward pass."""
        return [self.batch(step, number * self.processes + self.rank) for number in range(self.accumulation)]

    def batch(self, step: int, slot: int) -> TrainingBatch:
        """The batch of one of a step's slots (0 … slots − 1)."""
        position = (step - 1) * self.slots + slot
        indices = batch_indices(len(self.cache), self.batch_size, self.seed, position)
        generator = seeded_generator(self.seed, step, slot)
        # The order of these draws is part of what a seed means.
        flips = (torch.rand(self.batch_size, generator=generator) < 0.5) & self.flip
        clean = self.cache.latents(indices, flips, generator)
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = self.path.sample_timesteps(self.batch_size, generator)
        labels = self.denoiser.drop_labels(self.cache.labels[indices], generator)
        batch = TrainingBatch(clean, noise, timesteps, labels, seed=(self.seed, step, slot, TERM_DRAWS))
        return batch.pinned() if self.pin else batch


def prefetched(make: Callable[[int], Item], first: int, last: int) -> Iterator[tuple[int, Item]]:
    """Yields (n, make(n)) for n = first … last; make(n + 1) runs in a background thread while n is being used."""
    if first > last:
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        upcoming = pool.submit(make, first)
        for number in range(first, last + 1):
            item = upcoming.result()
            if number < last:
                upcoming = pool.submit(make, number + 1)
            yield number, item
