from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from lpl.analysis.statistics import bootstrap, discordant_shares, rank_correlations, share_interval


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    first = draw.normal(size=(5, 12))
    second = first + draw.normal(size=first.shape)
    second[:, 3] = second[:, 7]  # a tie
    return first, second


def test_rank_correlation_is_spearmans(pair) -> None:
    expected = [spearmanr(a, b).statistic for a, b in zip(*pair, strict=True)]
    np.testing.assert_allclose(rank_correlations(*pair), expected, rtol=1e-12)


def test_a_constant_row_has_no_rank_correlation(pair) -> None:
    first, second = pair[0].copy(), pair[1]
    first[2] = 1.0
    assert np.isnan(rank_correlations(first, second)).tolist() == [False, False, True, False, False]


def test_discordant_share_agrees_with_kendalls_tau(pair) -> None:
    first = pair[0]
    second = first + np.random.default_rng(1).normal(size=first.shape)  # no ties: share = (1 − τ)/2
    expected = [(1 - kendalltau(a, b).statistic) / 2 for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(discordant_shares(first, second), expected, rtol=1e-12)


def test_discordant_share_leaves_ties_out() -> None:
    share = discordant_shares(np.array([[1.0, 1.0, 2.0]]), np.array([[5.0, 4.0, 3.0]]))
    assert share.tolist() == [1.0]  # the tied pair says nothing, the other two disagree


def test_bootstrap_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(2).normal(3.0, 2.0, size=400)
    interval = bootstrap(values, resamples=4000)
    reach = 1.96 * values.std(ddof=1) / 20
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - reach, abs=0.15 * reach)
    assert interval.high == pytest.approx(values.mean() + reach, abs=0.15 * reach)


def test_bootstrap_leaves_missing_values_out() -> None:
    assert bootstrap(np.array([1.0, np.nan, 3.0])).mean == 2.0
    assert np.isnan(bootstrap(np.array([np.nan])).mean)


def test_one_image_has_no_interval() -> None:
    found = bootstrap(np.array([np.nan, 0.5]))
    assert found.mean == 0.5
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def test_wilsons_interval() -> None:
    """Its closed form: (p̂ + z²/2n ± z √(p̂q̂/n + z²/4n²)) / (1 + z²/n)."""
    found = share_interval(np.arange(10) < 3)
    square = 1.959964**2
    centre, reach = 0.3 + square / 20, (square * (0.21 / 10 + square / 400)) ** 0.5
    assert found.mean == 0.3
    assert (found.low, found.high) == pytest.approx(
        ((centre - reach) / (1 + square / 10), (centre + reach) / (1 + square / 10)), abs=1e-5
    )
