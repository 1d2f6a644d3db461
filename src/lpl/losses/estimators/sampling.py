"""Draws without replacement whose inclusion probabilities are known exactly.

Reference: Horvitz & Thompson, *A Generalization of Sampling Without Replacement from a Finite Universe*, 1952; Madow,
*On the Theory of Systematic Sampling, II*, 1949.
"""

from __future__ import annotations

import torch
from torch import Tensor


def inclusion_probabilities(sizes: Tensor, count: int) -> Tensor:
    """π_i in proportion to the sizes, none above 1, that sum to the number drawn.

    Args:
        sizes: (N,), positive; of any floating type.
        count: how many are drawn, 1 … N.

    Returns:
        float64 (N,), on the CPU. What would exceed 1 is 1 (drawn for certain), and the others share the rest.
    """
    sizes = sizes.detach().double().cpu()
    certain = torch.zeros(len(sizes), dtype=torch.bool)
    while True:
        left = count - int(certain.sum())
        shared = left * sizes / sizes[~certain].sum()
        exceeding = (shared > 1) & ~certain
        if not exceeding.any():
            return torch.where(certain, 1.0, shared)
        certain |= exceeding


def systematic_sample(inclusion: Tensor, start: float) -> Tensor:
    """Lays the π_i end to end on a line and draws the units on whose stretch one of the ticks start + 0, 1, … falls.

    Args:
        inclusion: π_i, float64 (N,), each at most 1, of a whole sum.
        start: uniform in [0, 1); with it each unit is drawn with probability π_i exactly.

    Returns:
        Indices, ascending, as many as Σ π_i.
    """
    ends = inclusion.cumsum(0)
    ends[-1] = ends[-1].round()  # whole but for rounding, which must not lose the last tick
    ticks = torch.ceil(ends - start)  # ticks below each end
    before = torch.cat([ticks.new_zeros(1), ticks[:-1]])
    return (ticks > before).nonzero().flatten()


def draw(inclusion: Tensor, generator: torch.Generator) -> Tensor:
    """A systematic sample of the units in random order: with equal π_i, every subset is equally likely."""
    order = torch.randperm(len(inclusion), generator=generator)
    start = torch.rand((), generator=generator, dtype=torch.float64).item()
    return order[systematic_sample(inclusion[order], start)].sort().values
