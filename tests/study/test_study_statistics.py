"""Statistics over seeds, against SciPy's and NumPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lpl.study.statistics import Difference, Summary, paired


def test_mean_and_sample_standard_deviation() -> None:
    values = (3.0, 4.5, 7.25)
    assert Summary(values).mean == pytest.approx(np.mean(values))
    assert Summary(values).deviation == pytest.approx(np.std(values, ddof=1))
    assert Summary((3.0,)).deviation is None


@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_interval_is_that_of_the_paired_t_test(count: int) -> None:
    generator = np.random.default_rng(count)
    ours, theirs = generator.normal(1.0, 1.0, count), generator.normal(0.0, 1.0, count)
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    found = Difference(tuple(ours - theirs)).interval
    assert found == pytest.approx((expected.low, expected.high))


def test_seeds_are_paired_by_their_number() -> None:
    difference = paired({0: 1.0, 2: 5.0, 3: 9.0}, {3: 8.0, 0: 3.0, 1: 7.0})
    assert difference is not None
    assert difference.values == (-2.0, 1.0)
    assert paired({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    ("values", "decision"),
    [
        ((-1.0,), "too few seeds"),
        ((-1.0, -1.1, -0.9), "lower"),
        ((1.0, 1.1, 0.9), "higher"),
        ((1.0, 1.1, -0.9), "undecided"),
        ((1.0, 5.0), "undecided"),  # both positive, and two seeds are few
        ((0.0, 0.0, 0.0), "undecided"),
        ((float("inf"), 1.0, 1.1), "undecided"),
        ((float("inf"), float("-inf"), float("nan")), "undecided"),
    ],
)
def test_rows_are_told_apart_only_where_the_interval_leaves_zero_out(values: tuple[float, ...], decision: str) -> None:
    assert Difference(values).decision == decision


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    draws = generator.normal(0.0, 1.0, (4000, 3))
    decided = [Difference(tuple(row)).decision != "undecided" for row in draws]
    assert np.mean(decided) == pytest.approx(0.05, abs=0.01)
