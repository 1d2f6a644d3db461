"""Precision, recall, density and coverage against scikit-learn's nearest neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors

from lpl.evaluation import NeighbourScores, neighbour_scores
from lpl.evaluation.checks import TooFewSamplesError
from lpl.evaluation.neighbours import neighbour_radii


def draw(count: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sklearn_radii(features: np.ndarray, neighbours: int) -> np.ndarray:
    finder = NearestNeighbors(n_neighbors=neighbours, algorithm="kd_tree").fit(features)
    return finder.kneighbors()[0][:, -1]  # without an argument: each point's neighbours but itself


def sklearn_scores(samples: np.ndarray, reference: np.ndarray, neighbours: int) -> NeighbourScores:
    distances = pairwise_distances(samples, reference)
    in_reference = distances <= sklearn_radii(reference, neighbours)[None]
    in_samples = distances <= sklearn_radii(samples, neighbours)[:, None]
    return NeighbourScores(
        precision=in_reference.any(axis=1).mean(),
        recall=in_samples.any(axis=0).mean(),
        density=in_reference.sum(axis=1).mean() / neighbours,
        coverage=in_reference.any(axis=0).mean(),
    )


@pytest.mark.parametrize(("neighbours", "scale"), [(1, 1.0), (5, 0.6), (10, 2.0)])
@pytest.mark.parametrize("block_elements", [1, 500, 2**23])
def test_scores_equal_sklearns_whatever_the_block(neighbours: int, scale: float, block_elements: int) -> None:
    samples, reference = draw(80, 0, scale), draw(130, 1)
    expected = sklearn_scores(samples.numpy(), reference.numpy(), neighbours)
    assert vars(neighbour_scores(samples, reference, neighbours, block_elements)) == pytest.approx(vars(expected))


def test_radii_equal_sklearns_with_copies_among_the_points() -> None:
    points = torch.cat([draw(40, 0), draw(40, 0)[:10]])
    expected = sklearn_radii(points.numpy(), 2)
    np.testing.assert_allclose(neighbour_radii(points, 2, block_elements=333).numpy(), expected, atol=1e-7)


def test_equal_sets_score_full_marks_and_a_far_off_one_none() -> None:
    points = draw(90, 0)
    same = neighbour_scores(points, points.clone(), neighbours=3)
    # Each point lies in its own ball and in those that reach to it exactly: k + 1 on average.
    assert vars(same) == pytest.approx({"precision": 1, "recall": 1, "density": 4 / 3, "coverage": 1})
    assert vars(neighbour_scores(points + 100, points)) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_collapse_keeps_precision_and_loses_coverage() -> None:
    reference = draw(300, 0)
    collapsed = reference[:1] + 1e-3 * draw(300, 1)
    scores = neighbour_scores(collapsed, reference)
    assert scores.precision == 1
    assert scores.recall < 0.05
    assert scores.coverage < 0.1


def test_a_common_offset_changes_nothing() -> None:
    samples, reference = draw(60, 0), draw(70, 1)
    assert neighbour_scores(samples + 1e6, reference + 1e6) == neighbour_scores(samples, reference)


def test_bad_input_is_named() -> None:
    with pytest.raises(TooFewSamplesError, match="5 samples don't have neighbours=5 others"):
        neighbour_scores(draw(5, 0), draw(30, 1))
    with pytest.raises(ValueError, match="neighbours=0: must be at least 1"):
        neighbour_scores(draw(30, 0), draw(30, 1), neighbours=0)
