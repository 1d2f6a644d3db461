"""Chooses each arm's place in its sweep, by measurements that no figure is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .columns import Evidence
from .config import SelectConfig, StudyConfig
from .recipes import Values
from .statistics import Summary

BySeed = dict[int, float | None]  # a measure of one point, None where it could not be made


@dataclass(frozen=True)
class Choice:
    """What was chosen, and what could not be.

    Attributes:
        places: the best point of each arm's sweep.
        failures: why an arm has none, by its name.
    """

    places: Mapping[str, Values]
    failures: Mapping[str, str]


def choose(config: StudyConfig, evidence: Sequence[Evidence]) -> Choice:
    """For each arm the point of its sweep that is best in the mean over seeds.

    A point that lacks a seed is not chosen: its mean would hold the luck of those it has. An arm without any complete
    point is left out of the table, and so is one that takes as long as it.

    Args:
        config: the study's, with by which measure to select, and in which direction.
        evidence: of the selection's points.
    """
    select = config.select
    assert select is not None
    found: dict[str, dict[Values, BySeed]] = {}
    for entry in evidence:
        point = entry.point
        found.setdefault(point.arm, {}).setdefault(point.values, {})[point.seed] = _measured(select, entry)
    places, failures = {}, {}
    for arm, points in found.items():
        best = _best(select, points)
        if best is None:
            failures[arm] = f"{select.by} was measured with every seed at no point of its sweep, so that none is chosen"
        else:
            places[arm] = best
    for arm, changes in config.arms.items():
        if changes.same_time_as in failures:
            failures[arm] = f"takes as long as {changes.same_time_as}, for which nothing is chosen"
    return Choice(places, failures)


def _measured(select: SelectConfig, entry: Evidence) -> float | None:
    value = (entry.measurement or {}).get("entry", {}).get("results", {}).get(select.by)
    return float(value) if value is not None and math.isfinite(value) else None


def _best(select: SelectConfig, points: Mapping[Values, BySeed]) -> Values | None:
    sign = 1 if select.better == "lower" else -1
    means = {}
    for values, by_seed in points.items():
        complete = [value for value in by_seed.values() if value is not None]
        if len(complete) == len(by_seed):
            means[values] = sign * Summary(tuple(complete)).mean
    return min(means, key=lambda values: means[values]) if means else None
