"""Points of a study with made-up results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lpl.study.columns import Evidence
from lpl.study.files import Study
from lpl.study.identity import Training
from lpl.study.planning import Point, plan

MEASURES = {
    "frechet_distance": {"label": "Fréchet distance", "better": "lower", "description": "Of features."},
    "precision": {"label": "precision", "better": "higher", "description": "Share."},
    "contrast_ratio": {"label": "contrast ratio", "better": "one", "description": "Over the reference's."},
}

Results = Callable[[Point], Mapping[str, float] | None]


class NothingMeasured:
    """For plans that depend on no measurement."""

    def steps(self, other: Training, training: Training) -> int:
        return other.recipe.training.steps

    def batch_size(self, training: Training) -> int:
        return training.recipe.training.batch_size


def made_up(study: Study, results: Results, folder: Path, **information: Any) -> list[Evidence]:
    """Every point of a study with `results(point)` as its measurement; None: its run failed."""
    found = []
    for number, point in enumerate(plan(study, NothingMeasured())):
        values = results(point)
        if values is None:
            found.append(Evidence(point))
            continue
        run = folder / str(number)
        run.mkdir(parents=True)
        content = {"step": point.recipe.training.steps, "seconds": 10.0, "status": "complete", **information}
        (run / "run.json").write_text(json.dumps(content))
        entry = {"results": dict(values)}
        found.append(Evidence(point, run, {"set": "default", "step": 2, "entry": entry, "measures": MEASURES}))
    return found
