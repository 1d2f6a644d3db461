"""What the loss is meant to reach, as data, and which of it a measurement misses."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import NamedTuple

from .interleaved import Spread
from .measure import Result, Row, Share
from .modes import DEFAULT, EXACT, STREAMING


class Target(NamedTuple):
    """A number that a mode must reach.

    Attributes:
        mode: the row's name.
        quantity: a field of `Row`, or "comparison_over_decoder" for `Share.over_decoder`.
        limit: the largest value allowed, or with `at_least` the smallest.
        at_least: which of the two.
    """

    mode: str
    quantity: str
    limit: float
    at_least: bool = False


TARGETS = (
    Target(EXACT, "time_over_floor", 1.10),
    Target(EXACT, "kept_over_floor", 0.35),
    Target(EXACT, "flops_over_floor", 1.0),  # no convolution is computed again
    Target(EXACT, "gradient_error", 1e-4),
    Target(EXACT, "comparison_over_decoder", 0.05),
    Target(DEFAULT, "speedup", 2.5, at_least=True),
    Target(DEFAULT, "kept_over_floor", 0.20),
    Target(DEFAULT, "gradient_cosine", 0.999, at_least=True),
    Target(DEFAULT, "loss_error", 0.01),
    Target(DEFAULT, "comparison_over_decoder", 0.05),
    Target(STREAMING, "time_over_floor", 1.15),
    Target(STREAMING, "kept_over_sample", 1.01),  # but for a few numbers a sample
    Target(STREAMING, "difference_to_exact", 1e-6),
)


class Verdict(NamedTuple):
    """A target on one case, with what was measured: None where the mode was not."""

    case: str
    target: Target
    measured: float | None

    @property
    def reached(self) -> bool:
        """Whether it was measured and reached."""
        if self.measured is None:
            return False
        return bool((operator.ge if self.target.at_least else operator.le)(self.measured, self.target.limit))

    def __str__(self) -> str:
        sign = "≥" if self.target.at_least else "≤"
        measured = "not measured" if self.measured is None else f"{self.measured:.4g}"
        quantity = self.target.quantity.replace("_", " ")
        return f"{self.case}: {self.target.mode}: {quantity} {sign} {self.target.limit:g}, is {measured}"


def verdicts(results: Sequence[Result], targets: Sequence[Target] = TARGETS) -> list[Verdict]:
    """Every target on every case."""
    return [Verdict(str(result.case), target, _measured(result, target)) for result in results for target in targets]


def _measured(result: Result, target: Target) -> float | None:
    source: Row | Share | None
    if target.quantity == "comparison_over_decoder":
        source = next((share for share in result.shares if share.mode == target.mode), None)
        value = None if source is None else source.over_decoder
    else:
        source = next((row for row in result.rows if row.mode == target.mode), None)
        value = None if source is None else getattr(source, target.quantity)
    return value.median if isinstance(value, Spread) else value
