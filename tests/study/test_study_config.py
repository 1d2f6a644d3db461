"""What a study's file may say, and where it is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from small_studies import STUDY, StudyFolder

from lpl.config import RecipeError
from lpl.study import bundled_studies, load_study

ARM: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": {"a": {"same_time_as": "b"}, "b": ARM}}, "arms.a.same_time_as: b is not an arm listed before"),
        ({"arms": {"pretraining": ARM}}, "choose another"),
        ({"arms": {}}, "arms: got"),
        ({"arms": {"a": {"against": "b"}}}, "arms.a.against: b is not an arm"),
        ({"arms": {"a": {"start": "scratch", "pretrained": "x"}}}, "start=scratch begins from random weights"),
        ({"recipe": "none.yaml"}, "none.yaml: no such recipe file"),
        ({"arm": {}}, "arm: no such key; did you mean arms?"),
        ({"baseline": "b"}, "baseline: b is not an arm"),
        ({"seeds": []}, "seeds: got"),
        ({"arms": ["l2", "lpl"]}, "arms: got"),
        ({"arms": {"l2": None, "lpl": ARM}}, r"arms\.l2: is empty; write {} for an arm that changes nothing"),
        ({"arms": {"a": {"paper": {"fid": 4.88}}}}, r"arms\.a\.paper: fid is neither a measure nor a fact"),
        ({"paper": {"source": "x", "units": {"fid": "%"}}}, r"paper\.units: fid is neither"),
        ({"select": {"by": "steps"}, "sweep": {"sampling.steps": [1, 2]}}, "select.by: steps is a fact of a run"),
        ({"recipe": 5}, "recipe: got 5"),
        ({"sweep": {"sampling.steps": []}}, r"sweep\.sampling\.steps: got \[\]"),
        (
            {"arms": {"a": {"sweep": {"objective.perceptual.estimator": [{"every": 2}]}}}},
            r"objective\.perceptual\.estimator: takes numbers, words or lists, not sections",
        ),
        ({"scales": ["tiny"]}, "scales: got"),
        ({"seeds": [1, 1]}, "would count one run as two"),
        ({"select": {"by": "x"}}, "select: there is no sweep to choose from"),
        ({"reseed_pretraining": True, "pretrained": "x"}, "of one seed"),
        ({"columns": ["frechet"]}, "columns: frechet is neither a measure nor a fact of a run"),
        (
            {"sweep": {"training.steps": [1, 2]}, "arms": {"a": ARM, "b": {"same_time_as": "a"}}},
            "a is trained several times",
        ),
        (
            {"iterations": 1, "arms": {"a": ARM, "b": {"same_time_as": "a"}}},
            "iterations are known beforehand with equal_time=ratio alone",
        ),
    ],
)
def test_mistakes_in_a_study_are_named(studies: StudyFolder, change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_study(studies.write(**change))


def test_an_unknown_study_lists_those_that_there_are() -> None:
    with pytest.raises(RecipeError, match=r"tabel5: no such study; .* headline, .* table5"):
        load_study("tabel5")
    assert {"demo", "headline", "table5", "table9", "figure20"} <= set(bundled_studies())


def test_the_command_line_sets_keys_of_the_study_and_of_recipes(studies: StudyFolder) -> None:
    study = load_study(
        studies.write(),
        overrides=[
            "seeds=[4,5]",
            "sweep.sampling.steps=[1,2]",
            "arms.lpl.recipe.objective.perceptual.weight=3",
            "training.batch_size=9",
        ],
    )
    assert study.config.seeds == (4, 5)
    assert study.config.sweep == {"sampling.steps": [1, 2]}
    assert study.config.arms["lpl"].recipe["objective"]["perceptual"] == {"weight": 3}
    assert study.overrides == ("training.batch_size=9",)


def test_the_command_line_leaves_an_arm_out() -> None:
    assert list(load_study("headline", "cpu", ["arms.l2-equal-time=null"]).config.arms) == ["l2", "lpl"]
    with pytest.raises(RecipeError, match=r"arms\.l2-equaltime: null leaves an arm out; there is none of that name"):
        load_study("headline", "cpu", ["arms.l2-equaltime=null"])


def test_a_scale_lies_below_the_study_and_the_studys_changes_for_it_above(tmp_path: Path) -> None:
    (tmp_path / "scales").mkdir()
    (tmp_path / "scales" / "mine.yaml").write_text(
        yaml.safe_dump(
            {"recipe": "../recipe.yaml", "seeds": [0, 1], "posttraining": {"training": {"steps": 5, "batch_size": 3}}}
        )
    )
    (tmp_path / "recipe.yaml").write_text("name: base\n")
    values = {
        **STUDY,
        "posttraining": {"training": {"batch_size": 4}},
        "scales": {"mine": {"posttraining": {"training": {"warmup_steps": 1}}, "arms": {"l2-equal-time": None}}},
    }
    del values["recipe"]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    study = load_study(tmp_path / "study.yaml", "mine")
    assert study.config.posttraining == {"training": {"steps": 5, "batch_size": 4, "warmup_steps": 1}}
    assert study.config.seeds == (0, 1)
    assert list(study.config.arms) == ["l2", "lpl"]  # one that the scale leaves out
    assert study.base["name"] == "base"
    with pytest.raises(RecipeError, match="scale: got 'huge', takes cpu, mine, paper, small, tiny"):
        load_study(tmp_path / "study.yaml", "huge")


def test_a_study_with_a_recipe_of_its_own_has_no_scales(studies: StudyFolder) -> None:
    assert load_study(studies.write()).scale is None
    with pytest.raises(RecipeError, match="names a recipe of its own and has no changes for the scale small"):
        load_study(studies.write(), "small")


@pytest.mark.parametrize("override", ["sweep.sampling.steps=[1", "sweep.sampling.steps"])
def test_a_sweep_of_the_command_line_that_cannot_be_read_is_named(studies: StudyFolder, override: str) -> None:
    with pytest.raises(RecipeError, match=r"sweep\.sampling\.steps.*(not a YAML value|not of the form key=value)"):
        load_study(studies.write(), overrides=[override])
