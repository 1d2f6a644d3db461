"""Means over seeds, and whether two rows can be told apart."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Literal

from scipy.stats import t as student

Decision = Literal["lower", "higher", "undecided", "too few seeds"]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """Values of one quantity over seeds.

    Attributes:
        values: one a seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Their sample standard deviation (n − 1), None with one value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Difference:
    """Paired differences of two rows over the seeds they share.

    Attributes:
        values: one a seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean difference."""
        return statistics.fmean(self.values)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Student's 95 % interval of the mean difference, t · s/√n around it; None with one seed.

        It takes differences over seeds for normal. Where all are equal it has no width: the seeds then say nothing of
        the spread, as with a quantity that does not depend on them. Where one has no bound, as where a ratio that is
        judged by its logarithm is 0, neither has the interval.
        """
        count = len(self.values)
        if count < 2:
            return None
        if not all(map(math.isfinite, self.values)):
            return -math.inf, math.inf
        half = float(student.ppf((1 + CONFIDENCE) / 2, count - 1)) * statistics.stdev(self.values) / math.sqrt(count)
        return self.mean - half, self.mean + half

    @property
    def decision(self) -> Decision:
        """Which side of zero the interval lies on; undecided where it holds zero."""
        interval = self.interval
        if interval is None:
            return "too few seeds"
        low, high = interval
        return "lower" if high < 0 else "higher" if low > 0 else "undecided"

    @property
    def agreeing(self) -> int:
        """How many seeds agree with the sign of the mean."""
        return sum(value * self.mean > 0 for value in self.values)


def paired(ours: dict[int, float], theirs: dict[int, float]) -> Difference | None:
    """Differences ours − theirs over the seeds that both have, None where they share none."""
    shared = [seed for seed in ours if seed in theirs]
    return Difference(tuple(ours[seed] - theirs[seed] for seed in shared)) if shared else None
