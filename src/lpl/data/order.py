"""The order in which training sees the data: a function of the seed, so that a resumed run continues it exactly."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor


def seeded_generator(*words: int) -> torch.Generator:
    """A CPU generator whose stream depends on every word, with nearby words giving unrelated streams.

    Args:
        words: non-negative integers, such as a seed, a step and a rank.

    Raises:
        ValueError: a word is negative, or there is none.
    """
    if not words or min(words) < 0:
        raise ValueError(f"words: got {words}, takes one or more non-negative integers")
    # The count goes first: a sequence of words and the same one followed by zeros would otherwise coincide.
    seed = int(np.random.SeedSequence([len(words), *words]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(seed)


def epoch_order(length: int, seed: int, epoch: int) -> Tensor:
    """The order of one epoch: a permutation of 0 … length−1, int64 of shape (length,).

    Args:
        length: number of samples.
        seed: the run's.
        epoch: 0, 1, 2, …

    Raises:
        ValueError: the length is not positive, or the seed or the epoch is negative.
    """
    _require_positive(length=length)
    return _epoch_order(length, seed, epoch).clone()


def batch_indices(length: int, batch_size: int, seed: int, step: int, rank: int = 0, world_size: int = 1) -> Tensor:
    """The samples that one process trains on at one step, int64 of shape (batch_size,).

    Step by step, all ranks together run through the epochs' orders end to end: within an epoch every sample is taken
    exactly once, and a batch that reaches the end of one epoch goes on with the next.

    Args:
        length: number of samples.
        batch_size: samples a process and step.
        seed: the run's.
        step: 0, 1, 2, …; where gradients are accumulated, forward passes count as steps.
        rank: this process, from 0.
        world_size: number of processes.

    Raises:
        ValueError: an argument is out of range.
    """
    _require_positive(length=length, batch_size=batch_size, world_size=world_size)
    if step < 0 or not 0 <= rank < world_size:
        raise ValueError(f"step, rank: got {step}, {rank}; take step >= 0 and rank from 0 to {world_size - 1}")
    first = (step * world_size + rank) * batch_size
    positions = torch.arange(first, first + batch_size)
    epochs = positions // length
    parts = [
        _epoch_order(length, seed, epoch)[positions[epochs == epoch] % length]
        for epoch in range(first // length, (first + batch_size - 1) // length + 1)
    ]
    return torch.cat(parts)


@functools.lru_cache(maxsize=4)  # a permutation of a million samples takes longer than a small training step
def _epoch_order(length: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(length, generator=seeded_generator(seed, epoch))


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}: got {value}, takes a positive integer")
