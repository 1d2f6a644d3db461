"""What the evaluation's measures are, by the names that studies give them; "a/b" goes by what "a" is.

The evaluation is imported where it is asked, so that a study's file is read without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any


def labels() -> Mapping[str, Any]:
    """What the evaluation says of each number it gives, as metrics.json has it."""
    from ..evaluation.measures import all_labels

    return {name: asdict(label) for name, label in all_labels().items()}


def is_measure(name: str) -> bool:
    """Whether the evaluation gives a number of that name."""
    return name.partition("/")[0] in labels()


def needs_features(name: str) -> bool:
    """Whether a measure is of features, and so is missing where there is no extractor."""
    from ..evaluation.measures import MEASURES

    return any(measure.on_features and name.partition("/")[0] in measure.labels for measure in MEASURES)
