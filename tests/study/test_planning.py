"""Plans: which runs a study needs, and how they differ."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from small_studies import STUDY, StudyFolder

from lpl.config import RecipeError
from lpl.study import load_study
from lpl.study.config import PRETRAINING
from lpl.study.identity import Training
from lpl.study.planning import Point, plan, plan_selection, training_order

LPL = STUDY["arms"]["lpl"]


@dataclass
class Answers:
    """A machine on which a step of one objective takes `ratio` times as long as one of the other."""

    ratio: float = 2.5
    batch: int = 16
    asked: list[tuple[str, str]] = field(default_factory=list)

    def steps(self, other: Training, training: Training) -> int:
        self.asked.append((other.label, training.label))
        return round(self.ratio * other.recipe.training.steps)

    def batch_size(self, training: Training) -> int:
        return self.batch


def planned(studies: StudyFolder, *overrides: str, answers: Answers | None = None, **changes: Any) -> list[Point]:
    return plan(load_study(studies.write(**changes), overrides=overrides), answers or Answers())


def by_arm(points: list[Point]) -> dict[str, Point]:
    return {point.arm: point for point in points}


def test_arms_change_the_recipe_and_begin_from_one_pretraining(studies: StudyFolder) -> None:
    points = by_arm(planned(studies, "training.batch_size=5"))
    assert list(points) == ["l2", "lpl", "l2-equal-time", PRETRAINING]
    lpl, start = points["lpl"], points[PRETRAINING].training
    assert lpl.recipe.training.steps == 2
    assert lpl.recipe.training.batch_size == 5
    assert lpl.recipe.objective.perceptual is not None
    assert start.recipe.training.steps == 3
    assert all(point.training.start == start for name, point in points.items() if name != PRETRAINING)
    assert points["l2-equal-time"].training.same_time_as == lpl.training


def test_seeds_are_of_training_and_sampling_and_pair_the_arms(studies: StudyFolder) -> None:
    points = planned(studies, "sampling.seed=7", seeds=[0, 3], arms={"l2": {}, "lpl": LPL})
    assert [(point.arm, point.seed, point.recipe.seed, point.sampling.seed) for point in points[:4]] == [
        ("l2", 0, 0, 7),
        ("l2", 3, 3, 10),
        ("lpl", 0, 0, 7),
        ("lpl", 3, 3, 10),
    ]
    assert len({point.training.start for point in points[:4]}) == 1
    # The start is one run, sampled with the noise of either seed.
    assert [point.sampling.seed for point in points[4:]] == [7, 10]
    assert points[4].training == points[5].training


def test_pretraining_can_be_seeded_too(studies: StudyFolder) -> None:
    points = planned(studies, seeds=[0, 3], reseed_pretraining=True, arms={"l2": {}, "lpl": LPL})
    starts = {point.seed: point.training.start.recipe.seed for point in points if point.arm != PRETRAINING}
    assert starts == {0: 0, 3: 3}
    assert len(training_order(points)) == 6


def test_a_sweep_over_sampling_needs_one_training(studies: StudyFolder) -> None:
    points = planned(studies, sweep={"sampling.steps": [2, 3]}, arms={"l2": {}}, show_pretraining=False)
    assert [point.sampling.steps for point in points] == [2, 3]
    assert len({point.training.label for point in points}) == 1


def test_a_sweep_over_the_recipe_trains_each_point(studies: StudyFolder) -> None:
    arms = {"l2": {}, "lpl": {**LPL, "sweep": {"objective.perceptual.blocks": [["mid_block"], ["up_blocks.0"]]}}}
    points = planned(studies, sweep={"sampling": {"steps": [2, 3]}}, arms=arms, show_pretraining=False)
    assert [point.values for point in points] == [
        (("sampling.steps", 2),),
        (("sampling.steps", 3),),
        (("objective.perceptual.blocks", ("mid_block",)),),
        (("objective.perceptual.blocks", ("up_blocks.0",)),),
    ]
    assert points[2].recipe.objective.perceptual.blocks == ("mid_block",)
    assert [point.training.label for point in points[2:]] == [
        "small-lpl-blocks=mid_block",
        "small-lpl-blocks=up_blocks.0",
    ]


def test_equal_time_by_a_measured_ratio_sets_the_steps(studies: StudyFolder) -> None:
    answers = Answers()
    arms = {"lpl": LPL, "l2": {"same_time_as": "lpl", "equal_time": "ratio"}}
    points = by_arm(planned(studies, answers=answers, arms=arms))
    assert points["l2"].recipe.training.steps == 5
    assert points["l2"].training.same_time_as is None
    assert answers.asked == [("small-lpl", "small-l2")]


def test_the_largest_batch_scales_the_learning_rate(studies: StudyFolder) -> None:
    points = by_arm(planned(studies, arms={"l2": {"largest_batch": True}}))
    training = points["l2"].recipe.training
    assert training.batch_size == 16
    assert training.learning_rate == pytest.approx(3e-4 * 16 / 4)


def test_iterations_are_measured_from_the_start_on_with_raw_weights_before_the_average(studies: StudyFolder) -> None:
    posttraining = {"training": {"steps": 5, "ema_start": 3}}
    points = planned(studies, iterations=2, posttraining=posttraining, arms={"l2": {}})
    assert [(point.iteration, point.step, point.sampling.weights) for point in points] == [
        (0, None, "ema"),
        (2, 2, "raw"),
        (4, 4, "ema"),
        (5, 5, "ema"),
    ]
    assert points[0].training == points[1].training.start
    assert points[1].recipe.training.keep_every == 2


def test_training_from_scratch_begins_from_nothing(studies: StudyFolder) -> None:
    points = planned(studies, arms={"l2": {"start": "scratch"}})
    assert [point.arm for point in points] == ["l2"]
    assert points[0].training.start is None


def test_an_arm_with_another_paradigm_has_a_pretraining_of_its_own(studies: StudyFolder) -> None:
    ddpm = {"diffusion": {"path": "ddpm"}, "sampling": {"method": "ddim"}}
    points = by_arm(planned(studies, arms={"flow": {}, "ddpm": {"throughout": ddpm}}))
    assert list(points) == ["flow", "ddpm"]  # they began from different runs, so no row stands for both
    assert points["ddpm"].training.start.recipe.diffusion.path == "ddpm"
    assert points["flow"].training.start.recipe.diffusion.path == "flow_ot"


def test_settings_of_perceptual_terms_reach_only_the_arms_that_have_one(studies: StudyFolder) -> None:
    arms = {"l2": {}, "lpl": {"recipe": {"objective": {"perceptual": {"normalization": "none"}}}}}
    changes = {"arms": arms, "perceptual": {"weight": 0.2}, "lpl": {"normalization": "unit", "outliers": "none"}}
    points = by_arm(planned(studies, "objective.perceptual.weight=0.7", **changes))
    assert points["l2"].recipe.objective.perceptual is None
    perceptual = points["lpl"].recipe.objective.perceptual
    assert (perceptual.weight, perceptual.normalization, perceptual.outliers) == (0.7, "none", "none")
    with pytest.raises(RecipeError, match="no arm of study has a perceptual term"):
        planned(studies, "objective.perceptual.weight=0.7", arms={"l2": {}})


def test_choosing_looks_at_other_samples_than_the_figures_do(studies: StudyFolder) -> None:
    select = {"by": "sliced_wasserstein", "evaluation": {"reference": "holdout"}}
    file = studies.write(sweep={"sampling.guidance_scale": [1.0, 2.0]}, select=select, seeds=[0, 1], arms={"l2": {}})
    study = load_study(file)
    candidates = plan_selection(study, Answers())
    chosen = (("sampling.guidance_scale", 2.0),)
    shown = [point for point in plan(study, Answers(), {"l2": chosen}) if point.arm == "l2"]
    assert [point.values for point in shown] == [chosen, chosen]
    assert not {point.sampling.seed for point in candidates} & {point.sampling.seed for point in shown}
    assert {point.evaluation.reference for point in candidates} == {"holdout"}
    assert {point.evaluation.reference for point in shown} == {"train"}
    assert len(candidates) == 4


def test_a_weight_that_would_be_matched_to_the_end_is_refused(studies: StudyFolder) -> None:
    arms = {"lpl": {"recipe": {"objective": {"perceptual": {"weight": "matched", "matching_batches": 2}}}}}
    with pytest.raises(RecipeError, match="matching_batches=2 is not less than the 2 batches of training"):
        planned(studies, arms=arms)
    gate = {"weighting": "gated", "gate_gain": "measured", "gate_perceptual": {"matching_batches": 3}}
    with pytest.raises(RecipeError, match="gate_perceptual.matching_batches=3 is not less than the 2 batches"):
        planned(studies, arms={"gated": {"recipe": {"objective": gate}}})


def test_runs_come_after_those_they_depend_on(studies: StudyFolder) -> None:
    order = [training.label for training in training_order(planned(studies))]
    assert order == ["small-pretraining", "small-l2", "small-lpl", "small-l2-equal-time"]


def test_a_mistake_in_the_last_arm_stops_the_study_before_it_starts(studies: StudyFolder) -> None:
    arms = {**STUDY["arms"], "last": {"recipe": {"training": {"stps": 1}}}}
    result = studies.run(studies.write(arms=arms))
    assert result.exit_code == 1
    assert "training.stps: no such key; did you mean training.steps?" in result.output
    assert not studies.store.exists()


OWN_LOSS = {"kind": "custom", "term": "examples/custom_loss.py:FrequencyWeightedLoss", "settings": {"power": 2.0}}


def test_a_loss_of_ones_own_is_planned_as_any_other(studies: StudyFolder) -> None:
    arms = {"l2": {}, "mine": {"recipe": {"objective": {"perceptual": OWN_LOSS}}}}
    points = planned(studies, arms=arms)
    assert [training.label for training in training_order(points)] == ["small-pretraining", "small-l2", "small-mine"]
    assert by_arm(points)["mine"].recipe.objective.perceptual.settings == {"power": 2.0}


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        (["training.initial_checkpoint=elsewhere/run"], {}),
        ([], {"pretraining": {"training": {"initial_checkpoint": "elsewhere/run"}}}),
        ([], {"arms": {"l2": {"start": "scratch", "recipe": {"training": {"initial_checkpoint": "elsewhere/run"}}}}}),
        ([], {"arms": {"l2": {}}, "sweep": {"training.initial_checkpoint": ["elsewhere/run"]}}),
    ],
)
def test_a_start_that_would_not_count_in_a_run_s_key_is_refused(
    studies: StudyFolder, overrides: list[str], changes: dict[str, Any]
) -> None:
    with pytest.raises(RecipeError, match=r"initial_checkpoint=elsewhere/run: .* name the checkpoint as `pretrained`"):
        planned(studies, *overrides, **changes)


@pytest.mark.parametrize("on_the_command_line", [False, True])
def test_a_sweep_over_a_perceptual_term_leaves_arms_without_one_as_they_are(
    studies: StudyFolder, on_the_command_line: bool
) -> None:
    sweep: dict[str, Any] = {"sampling.guidance_scale": [1.0, 2.0]}
    overrides = ["sweep.objective.perceptual.weight=[0.1,1.0]"] if on_the_command_line else []
    sweep |= {} if overrides else {"objective.perceptual.weight": [0.1, 1.0]}
    points = planned(studies, *overrides, arms={"l2": {}, "lpl": LPL}, sweep=sweep, show_pretraining=False)
    assert [(point.arm, dict(point.values)) for point in points[:2]] == [
        ("l2", {"sampling.guidance_scale": 1.0}),
        ("l2", {"sampling.guidance_scale": 2.0}),
    ]
    assert all(point.recipe.objective.perceptual is None for point in points if point.arm == "l2")
    weights = [point.recipe.objective.perceptual.weight for point in points if point.arm == "lpl"]
    assert sorted(weights) == [0.1, 0.1, 1.0, 1.0]


def test_an_arm_s_own_sweep_over_a_term_that_it_has_not_is_refused(studies: StudyFolder) -> None:
    with pytest.raises(RecipeError, match=r"arms\.l2\.sweep\.objective\.perceptual\.weight: the arm has no such term"):
        planned(studies, arms={"l2": {"sweep": {"objective.perceptual.weight": [0.1]}}, "lpl": LPL})
    with pytest.raises(RecipeError, match="no arm of study has a perceptual term"):
        planned(studies, arms={"l2": {}}, sweep={"objective.perceptual.weight": [0.1]})


def test_a_whole_perceptual_section_reaches_only_the_arms_that_have_one(studies: StudyFolder) -> None:
    points = by_arm(planned(studies, "objective.perceptual={weight: 0.1}", arms={"l2": {}, "lpl": LPL}))
    assert points["l2"].recipe.objective.perceptual is None
    assert points[PRETRAINING].recipe.objective.perceptual is None
    assert points["lpl"].recipe.objective.perceptual.weight == 0.1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name=mine", "--output names its folder"),
        ("output=elsewhere", "--output names its folder, --store the store"),
        ("objective={perceptual: {weight: 0.1}}", "would make the arms' objectives one and the same"),
    ],
)
def test_settings_that_a_study_has_no_use_for_are_refused(studies: StudyFolder, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        planned(studies, override)


@pytest.mark.parametrize(
    ("overrides", "changes", "message"),
    [
        ([], {"posttraining": {"training": None}}, "posttraining: training: got nothing, takes settings"),
        ([], {"pretraining": {"training": 3}}, "pretraining: training: got 3, takes settings"),
        ([], {"arms": {"l2": {"recipe": {"training": None}}}}, r"arms\.l2\.recipe: training: got nothing"),
        (["training=3"], {}, "training: got 3, takes settings"),
    ],
)
def test_a_section_that_is_left_empty_is_refused_rather_than_replaced_by_defaults(
    studies: StudyFolder, overrides: list[str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        planned(studies, *overrides, **changes)


def test_values_that_differ_have_names_that_differ(studies: StudyFolder) -> None:
    rates = [1.0000001e-3, 1.0000002e-3, 0.5]
    points = planned(studies, arms={"l2": {"sweep": {"training.learning_rate": rates}}}, show_pretraining=False)
    assert [point.training.label for point in points] == [
        "small-l2-learning_rate=0.0010000001",
        "small-l2-learning_rate=0.0010000002",
        "small-l2-learning_rate=0.5",
    ]


@pytest.mark.parametrize(
    ("other", "own"),
    [
        ({"recipe": {"training": {"time_budget": 5}}}, {}),
        ({}, {"recipe": {"training": {"time_budget": 5}}}),
        ({"same_time_as": "l2"}, {}),
    ],
)
def test_equal_time_by_a_ratio_needs_steps_that_are_known_beforehand(
    studies: StudyFolder, other: dict[str, Any], own: dict[str, Any]
) -> None:
    arms = {"l2": {}, "other": other, "own": {**own, "same_time_as": "other", "equal_time": "ratio"}}
    with pytest.raises(RecipeError, match=r"arms\.own\.equal_time=ratio: .* and the clock ends small-o"):
        planned(studies, arms=arms)


def test_iterations_do_not_go_with_a_time_budget(studies: StudyFolder) -> None:
    with pytest.raises(RecipeError, match=r"training\.time_budget=5 may end before"):
        planned(studies, iterations=1, posttraining={"training": {"steps": 9, "time_budget": 5}}, arms={"l2": {}})


def test_whether_a_weight_is_matched_in_time_is_asked_of_the_measured_steps(studies: StudyFolder) -> None:
    matched = {"objective": {"perceptual": {"weight": "matched", "matching_batches": 8}}}
    arms = {"l2": {}, "lpl": {"recipe": matched, "same_time_as": "l2", "equal_time": "ratio"}}
    with pytest.raises(RecipeError, match="matching_batches=8 is not less than the 5 batches of training"):
        planned(studies, arms=arms, posttraining={"training": {"steps": 10}}, answers=Answers(ratio=0.5))


def test_choosing_by_features_needs_an_extractor(studies: StudyFolder) -> None:
    changes = {"sweep": {"sampling.guidance_scale": [1.0, 2.0]}, "arms": {"l2": {}}}
    study = load_study(studies.write(select={"by": "kernel_distance"}, **changes))
    with pytest.raises(RecipeError, match="select.by=kernel_distance needs features, and there is no extractor"):
        plan_selection(study, Answers())
    study = load_study(studies.write(select={"by": "kernel_distance", "evaluation": {"extractor": "x"}}, **changes))
    assert len(plan_selection(study, Answers())) == 2


def test_an_arm_for_which_nothing_was_chosen_is_left_out_with_those_that_take_as_long(studies: StudyFolder) -> None:
    sweep = {"sampling.guidance_scale": [1.0, 2.0]}
    arms = {"l2": {}, "lpl": LPL, "as-long": {"same_time_as": "l2"}}
    study = load_study(studies.write(arms=arms, sweep=sweep, select={"by": "sliced_wasserstein"}))
    chosen = (("sampling.guidance_scale", 2.0),)
    shown = plan(study, Answers(), {"lpl": chosen, "as-long": chosen})
    assert [(point.arm, point.values) for point in shown] == [("lpl", chosen), (PRETRAINING, ())]
    assert plan(study, Answers(), {}) == []
