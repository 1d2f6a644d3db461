"""Kernel distance against a double loop and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.kid import KernelInceptionDistance

from lpl.evaluation import kernel_distance
from lpl.evaluation.checks import TooFewSamplesError
from lpl.evaluation.kernel import squared_mmd


def draw(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_estimate_equals_a_double_loop() -> None:
    first, second = draw(7, 0).numpy(), draw(9, 1, shift=0.3).numpy()

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (x @ y / 6 + 1) ** 3

    def within(points: np.ndarray) -> float:
        return float(np.mean([kernel(x, y) for i, x in enumerate(points) for j, y in enumerate(points) if i != j]))

    across = np.mean([kernel(x, y) for x in first for y in second])
    expected = within(first) + within(second) - 2 * across
    assert squared_mmd(torch.from_numpy(first), torch.from_numpy(second)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save")
def test_equals_torchmetrics_on_whole_sets() -> None:
    first, second = torch.rand(40, 3, 2, 2), torch.rand(40, 3, 2, 2) ** 2
    metric = KernelInceptionDistance(nn.Flatten(), subsets=2, subset_size=40, normalize=True)
    metric.update(first, real=False)
    metric.update(second, real=True)
    ours = kernel_distance(first.flatten(1), second.flatten(1), subsets=2, subset_size=40)
    assert ours.mean == pytest.approx(metric.compute()[0].item(), rel=1e-3)
    assert ours.std == pytest.approx(0, abs=1e-12)  # every subset is the whole


def test_equal_distributions_average_to_zero_and_others_do_not() -> None:
    estimates = [squared_mmd(draw(30, 2 * i), draw(30, 2 * i + 1)) for i in range(200)]
    assert abs(np.mean(estimates)) < 4 * np.std(estimates) / np.sqrt(200)
    assert squared_mmd(draw(30, 0), draw(30, 1, shift=1.0)) > 10 * np.std(estimates)


def test_subsets_spread_and_depend_on_the_seed_alone() -> None:
    first, second = draw(100, 0), draw(120, 1, shift=0.5)
    again = [kernel_distance(first, second, subsets=10, subset_size=30, seed=seed) for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2]
    assert again[0].std > 0
    assert again[0].mean == pytest.approx(squared_mmd(first, second), abs=3 * again[0].std)


def test_bad_subsets_are_refused() -> None:
    with pytest.raises(TooFewSamplesError, match="20 samples are fewer than a subset of kid_subset_size=30"):
        kernel_distance(draw(20, 0), draw(50, 1), subset_size=30)
    with pytest.raises(ValueError, match="subset_size=1 at least 2"):
        kernel_distance(draw(20, 0), draw(50, 1), subset_size=1)
