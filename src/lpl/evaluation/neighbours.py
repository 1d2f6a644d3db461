"""Precision, recall, density and coverage from distances to the k-th nearest neighbour in feature space.

Reference: Kynkäänniemi et al., *Improved Precision and Recall Metric*, NeurIPS 2019; Naeem et al., *Reliable Fidelity
and Diversity Metrics*, ICML 2020. A sample lies in a neighbour's ball if it is no farther than that ball's radius.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import TooFewSamplesError, check_feature_pair

BLOCK_ELEMENTS = 2**23  # distances held at a time, 64 MB in float64
TIE = 1 + 1e-9  # a distance computed twice, in blocks of different shapes, may differ in its last digits


@dataclass(frozen=True)
class NeighbourScores:
    """Fidelity and diversity.

    Attributes:
        precision: share of samples in the ball of some reference image, in [0, 1].
        recall: share of reference images in the ball of some sample, in [0, 1].
        density: reference balls a sample lies in, over k; near 1 for equal distributions, and unbounded.
        coverage: share of reference images whose ball holds a sample, in [0, 1].
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighbour_scores(
    samples: Tensor, reference: Tensor, neighbours: int = 5, block_elements: int = BLOCK_ELEMENTS
) -> NeighbourScores:
    """All four scores in one pass over the distances between the sets.

    Args:
        samples: float (N, D).
        reference: float (M, D).
        neighbours: k; a ball reaches to the k-th nearest neighbour within its own set, itself not counted.
        block_elements: distances held at a time, which bounds the memory.

    Returns:
        The scores.

    Raises:
        TooFewSamplesError: N or M is not above k.
        TypeError, ValueError: features of another kind, or of different dimensions; k below 1.
    """
    samples, reference = check_feature_pair(samples, reference)
    if neighbours < 1:
        raise ValueError(f"neighbours={neighbours}: must be at least 1")
    for name, features in (("samples", samples), ("reference images", reference)):
        if len(features) <= neighbours:
            raise TooFewSamplesError(f"{len(features)} {name} don't have neighbours={neighbours} others each")
    centre = reference.mean(dim=0)  # distances lose no digits to a common offset
    samples, reference = samples - centre, reference - centre
    return _scores(samples, reference, neighbours, block_elements)


def neighbour_radii(features: Tensor, neighbours: int, block_elements: int = BLOCK_ELEMENTS) -> Tensor:
    """Distance of every row of (N, D) to its k-th nearest other row: (N,)."""
    radii = []
    for start, distances in _distance_blocks(features, features, block_elements):
        rows = torch.arange(len(distances), device=features.device)
        distances[rows, start + rows] = torch.inf  # a point is not its own neighbour; a copy of it is
        radii.append(distances.kthvalue(neighbours, dim=1).values)
    return torch.cat(radii)


def _scores(samples: Tensor, reference: Tensor, neighbours: int, block_elements: int) -> NeighbourScores:
    reference_radii = TIE * neighbour_radii(reference, neighbours, block_elements)
    sample_radii = TIE * neighbour_radii(samples, neighbours, block_elements)
    recalled = torch.zeros(len(reference), dtype=torch.bool, device=reference.device)
    covered = torch.zeros_like(recalled)
    precise = balls = 0
    for start, distances in _distance_blocks(samples, reference, block_elements):
        inside = distances <= reference_radii
        precise += int(inside.any(dim=1).sum())
        balls += int(inside.sum())
        covered |= inside.any(dim=0)
        recalled |= (distances <= sample_radii[start : start + len(distances), None]).any(dim=0)
    return NeighbourScores(
        precision=precise / len(samples),
        recall=recalled.double().mean().item(),
        density=balls / (neighbours * len(samples)),
        coverage=covered.double().mean().item(),
    )


def _distance_blocks(rows: Tensor, columns: Tensor, elements: int) -> Iterator[tuple[int, Tensor]]:
    """Distances of a few rows at a time to all columns, with the number of the first row."""
    height = max(1, elements // len(columns))
    for start in range(0, len(rows), height):
        yield start, torch.cdist(rows[start : start + height], columns)
