from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import torch

from lpl.losses.estimators.sampling import draw, inclusion_probabilities, systematic_sample


def outcomes(inclusion: torch.Tensor) -> list[tuple[tuple[int, ...], float]]:
    """Every systematic sample and its probability, from the starting points at which the sample changes."""
    changes = sorted({0.0, 1.0, *(float(end % 1) for end in inclusion.cumsum(0))})
    pairs = [(low, high) for low, high in itertools.pairwise(changes) if high - low > 1e-12]
    return [(tuple(systematic_sample(inclusion, (low + high) / 2).tolist()), high - low) for low, high in pairs]


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (5, 1, 1, 3), (0.1, 0.2, 9, 9), (3, 1e-3, 2, 1)])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_unit_is_drawn_with_its_probability(sizes: tuple[float, ...], count: int) -> None:
    inclusion = inclusion_probabilities(torch.tensor(sizes), count)
    seen = torch.zeros(4, dtype=torch.float64)
    for units, probability in outcomes(inclusion):
        assert len(units) == count
        seen[list(units)] += probability
    torch.testing.assert_close(seen, inclusion, rtol=0, atol=1e-12)


def exact_inclusion(sizes: list[int], count: int) -> list[Fraction]:
    """Capped proportions in rational numbers: the largest units are certain until the rest fit."""
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    result = [Fraction(0)] * len(sizes)
    for certain in range(count + 1):
        rest = order[certain:]
        shares = {i: Fraction((count - certain) * sizes[i], sum(sizes[j] for j in rest)) for i in rest}
        if all(share <= 1 for share in shares.values()):
            for i in order[:certain]:
                result[i] = Fraction(1)
            for i, share in shares.items():
                result[i] = share
            return result
    raise AssertionError


@pytest.mark.parametrize(("sizes", "count"), [([1, 2, 3, 4], 2), ([1, 1, 1, 97], 2), ([1, 2, 40, 50], 3), ([7], 1)])
def test_probabilities_are_proportional_where_they_may_be(sizes: list[int], count: int) -> None:
    actual = inclusion_probabilities(torch.tensor(sizes, dtype=torch.float32), count)
    assert actual.tolist() == pytest.approx([float(value) for value in exact_inclusion(sizes, count)], abs=1e-12)


def test_with_equal_probabilities_every_subset_is_equally_likely() -> None:
    inclusion = inclusion_probabilities(torch.ones(5), 2)
    counts = dict.fromkeys(itertools.combinations(range(5), 2), 0)
    draws = 4000
    generator = torch.Generator().manual_seed(0)
    for _ in range(draws):
        counts[tuple(draw(inclusion, generator).tolist())] += 1
    expected = draws / len(counts)
    statistic = sum((seen - expected) ** 2 / expected for seen in counts.values())
    assert statistic < 27.9  # the 99.9 % point of χ² with 9 degrees of freedom
