"""Chooses each arm's place in its sweep, by measurements that no figure is made of."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import LplError
from .columns import Evidence
from .config import SelectConfig
from .recipes import Values
from .statistics import Summary


class SelectionError(LplError):
    """No point of a sweep can be chosen; the message says why."""


def choose(select: SelectConfig, evidence: Sequence[Evidence]) -> dict[str, Values]:
    """For each arm the point of its sweep that is best in the mean over seeds.

    Args:
        select: by which measure, and in which direction.
        evidence: of the selection's points.

    Raises:
        SelectionError: an arm has no point with that measure.
    """
    found: dict[str, dict[Values, list[float]]] = {}
    for entry in evidence:
        points = found.setdefault(entry.point.arm, {})
        results = (entry.measurement or {}).get("entry", {}).get("results", {})
        if select.by in results:
            points.setdefault(entry.point.values, []).append(float(results[select.by]))
    for arm, points in found.items():
        if not points:
            raise SelectionError(f"select.by: {select.by} was measured at no point of {arm}; is an extractor missing?")
    sign = 1 if select.better == "lower" else -1
    return {
        arm: min(points, key=lambda values, points=points: sign * Summary(tuple(points[values])).mean)  # type: ignore[misc]
        for arm, points in found.items()
    }
