"""Each arm at its own best point of its sweep."""

from __future__ import annotations

import math
from pathlib import Path

from evidence import Results, made_up
from small_studies import STUDY, StudyFolder

from lpl.study import load_study
from lpl.study.planning import Point
from lpl.study.selection import Choice, choose

KEY = "sampling.guidance_scale"


def chosen(studies: StudyFolder, results: Results, folder: Path) -> Choice:
    arms = {"l2": {}, "lpl": STUDY["arms"]["lpl"], "as-long": {"same_time_as": "lpl"}}
    select = {"by": "sliced_wasserstein"}
    file = studies.write(arms=arms, sweep={KEY: [1.0, 2.0]}, select=select, seeds=[0, 1], show_pretraining=False)
    study = load_study(file)
    return choose(study.config, made_up(study, results, folder))


def scale(point: Point) -> float:
    return float(dict(point.values)[KEY])


def test_the_point_that_is_best_in_the_mean_is_chosen(studies: StudyFolder, tmp_path: Path) -> None:
    values = {1.0: (4.0, 4.0), 2.0: (1.0, 5.0)}
    found = chosen(studies, lambda point: {"sliced_wasserstein": values[scale(point)][point.seed]}, tmp_path)
    assert found.places == dict.fromkeys(("l2", "lpl", "as-long"), ((KEY, 2.0),))
    assert not found.failures


def test_a_point_that_lacks_a_seed_does_not_compete(studies: StudyFolder, tmp_path: Path) -> None:
    def results(point: Point) -> dict[str, float] | None:
        if (scale(point), point.seed) == (2.0, 1):
            return None
        return {"sliced_wasserstein": 1.0 if scale(point) == 2.0 else 3.0}

    assert chosen(studies, results, tmp_path).places["l2"] == ((KEY, 1.0),)


def test_an_arm_without_a_point_is_named_and_the_others_are_chosen(studies: StudyFolder, tmp_path: Path) -> None:
    def results(point: Point) -> dict[str, float] | None:
        return None if point.arm == "lpl" else {"sliced_wasserstein": math.nan if scale(point) == 1.0 else 3.0}

    found = chosen(studies, results, tmp_path)
    assert found.places["l2"] == ((KEY, 2.0),)
    assert "lpl" not in found.places
    assert "sliced_wasserstein was measured with every seed at no point" in found.failures["lpl"]
    assert found.failures["as-long"] == "takes as long as lpl, for which nothing is chosen"
