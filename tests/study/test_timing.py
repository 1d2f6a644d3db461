"""Seconds per step of several recipes, measured in turn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_studies import StudyFolder

from lpl.config import RecipeError
from lpl.study import load_study, measured, timing
from lpl.study.identity import Training
from lpl.study.measured import MachineMeasurements
from lpl.study.recipes import study_recipe
from lpl.study.store import Store
from lpl.study.timing import StepTimes, measure_step_times, warm_up_steps
from lpl.training.terms.base import Terms
from lpl.training.trainer import compute_gradients


def test_ratios_are_taken_within_rounds() -> None:
    # The machine is ten times slower in the last round; the ratio is not moved by that.
    times = StepTimes(((1.0, 2.0), (1.1, 2.2), (10.0, 20.0)), (8, 4), {})
    assert times.ratio(1, 0) == pytest.approx(2.0)
    assert times.ratio(0, 1) == pytest.approx(0.5)
    assert times.images_per_second(0) == pytest.approx(8 / 1.1)


@pytest.mark.slow
def test_a_recipe_that_does_twice_as_much_takes_about_twice_as_long(studies: StudyFolder) -> None:
    study = load_study(
        studies.write(
            arms={
                "lpl": {"recipe": {"objective": {"perceptual": {"weight": "matched", "matching_batches": 2}}}},
                "twice": {"recipe": {"training": {"accumulation": 4}}},
                "once": {},
            },
            posttraining={"training": {"steps": 3}},
        )
    )
    trainings = [Training(arm, study_recipe(study, arm)) for arm in study.config.arms]
    machine = MachineMeasurements(Store(studies.store))
    record = machine.times(trainings)
    to_last = dict(zip(record["runs"], record["ratios"], strict=True))
    assert to_last["once"] == 1
    assert 2.0 < to_last["twice"] < 8.0  # four passes, and one optimiser step
    assert to_last["lpl"] > 1.2
    assert record["speeds"][1] == pytest.approx(record["speeds"][2] * 4 / to_last["twice"], rel=0.5)
    # Measured once: neither a seed nor a length makes another measurement.
    longer = [training.recipe.model_copy(update={"seed": 3}) for training in trainings]
    again = machine.times([Training("x", recipe) for recipe in longer])
    assert again == record


@pytest.mark.slow
def test_an_estimator_of_steps_is_timed_over_whole_periods(studies: StudyFolder, monkeypatch) -> None:
    """By a clock on which the perceptual term takes two seconds and everything else of a step one."""
    now = [0.0]

    def counted(*arguments: Any) -> list[Terms]:
        terms = compute_gradients(*arguments)
        now[0] += 3 if terms[0].get("loss/perceptual", 0.0) else 1
        return terms

    monkeypatch.setattr(timing, "compute_gradients", counted)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    perceptual = {"weight": 0.1, "sigma_threshold": None}
    every = {"recipe": {"objective": {"perceptual": {**perceptual, "estimator": {"every": 3}}}}}
    arms = {"l2": {}, "lpl": {"recipe": {"objective": {"perceptual": perceptual}}}, "every": every}
    study = load_study(studies.write(arms={name: {"start": "scratch", **arm} for name, arm in arms.items()}))
    times = measure_step_times([study_recipe(study, arm) for arm in arms], rounds=3, turn_seconds=6.0)
    assert times.about["steps_a_turn"] == [6, 2, 3]
    assert times.seconds == ((1.0, 3.0, pytest.approx(5 / 3)),) * 3


def test_recipes_of_different_precision_are_not_timed_together(studies: StudyFolder) -> None:
    study = load_study(studies.write())
    recipe = study_recipe(study, "l2", pretraining=True)
    other = recipe.model_copy(update={"training": recipe.training.model_copy(update={"precision": "bf16"})})
    with pytest.raises(RecipeError, match="the runs that are timed together differ in it"):
        measure_step_times([recipe, other])


def test_a_gpu_is_warmed_up_over_several_perceptual_steps() -> None:
    assert warm_up_steps(1, torch.device("cpu")) == 2
    assert warm_up_steps(4, torch.device("cpu")) == 4
    assert warm_up_steps(1, torch.device("cuda")) == 8
    assert warm_up_steps(4, torch.device("cuda")) == 32  # eight of them compute the term


def test_what_another_machine_measured_is_not_recalled(studies: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training("l2", study_recipe(load_study(studies.write(arms={"l2": {"start": "scratch"}})), "l2"))
    store = Store(studies.store)
    here = MachineMeasurements(store)
    store.remember("timings", here._times_key([training]), {"ratios": [2.0]})
    store.remember("batch-sizes", here._batch_key(training), {"batch_size": 8})
    assert here.recalled_times([training]) == {"ratios": [2.0]}
    assert here.recalled_batch_size(training) == 8
    monkeypatch.setattr(measured, "hardware", lambda device, processes: {"gpu": "another"})
    assert here.recalled_times([training]) is None
    assert here.recalled_batch_size(training) is None
