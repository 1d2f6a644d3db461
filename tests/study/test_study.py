"""Whole studies, from photographs to a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from evidence import NothingMeasured
from small_studies import STUDY, StudyFolder

from lpl.study import load_study, scheduling, study
from lpl.study.columns import Evidence
from lpl.study.identity import Training
from lpl.study.planning import plan
from lpl.study.running import Job, carry_out


def written(folder: Path, pattern: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob(pattern)}


@pytest.mark.slow
def test_a_whole_study_from_photographs_to_a_report(studies: StudyFolder) -> None:
    file = studies.write()
    result = studies.run(file)
    assert result.exit_code == 0, result.output
    output = studies.path / "out" / "study"
    for name in ("pretraining", "l2", "lpl", "l2-equal-time"):
        run = output / name
        assert json.loads((run / "run.json").read_text())["status"] == "complete"
        assert len(list((run / "samples" / "default").glob("0*.png"))) == 12
        assert "reconstruction" in json.loads((run / "metrics.json").read_text())["sets"]["default"]["baselines"]
    logged = [json.loads(line) for line in (output / "lpl" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged] == [1, 2]
    assert all(row["loss/perceptual"] >= 0 and "loss/perceptual/mid_block" in row for row in logged)
    budget = json.loads((output / "lpl" / "run.json").read_text())["seconds"]
    last = json.loads((output / "l2-equal-time" / "run.json").read_text())
    assert last["ended_by"] == "time_budget"
    assert last["seconds"] >= budget
    page = (output / "report.html").read_text()
    assert "A small study" in page
    assert "no two rows can be told apart" in page
    assert "Contrast ratio" in result.output
    numbers = json.loads((output / "results.json").read_text())
    assert [row["arm"] for row in numbers["rows"]] == ["l2", "lpl", "l2-equal-time", "pretraining"]
    assert numbers["rows"][1]["columns"]["steps"]["values"] == {"0": 2.0}
    assert (output / "table.md").read_text().startswith("|  | ")

    before = written(studies.store, "*/samples/*/0*.png")
    assert studies.run(file).exit_code == 0
    assert written(studies.store, "*/samples/*/0*.png") == before  # what is done is not done again
    changed = studies.run(file, "sampling.seed=5")
    assert changed.exit_code == 0, changed.output
    after = written(studies.store, "*/samples/*/0*.png")
    assert before.items() <= after.items()  # other samples are drawn beside those that are there
    assert len(after) == 2 * len(before)


@pytest.mark.slow
def test_studies_share_the_runs_that_both_need(studies: StudyFolder) -> None:
    first = studies.write("first", arms={"l2": {}})
    second = studies.write(
        "second", seeds=[0, 1], arms={"baseline": {}, "lpl": {"recipe": {"objective": {"perceptual": {"weight": 0.5}}}}}
    )
    assert studies.run(first).exit_code == 0
    before = written(studies.store, "*/checkpoints/*/model.safetensors")
    result = studies.run(second)
    assert result.exit_code == 0, result.output
    # The baseline of both is one run, and so is what they begin from.
    assert studies.runs() == ["small-baseline-seed1", "small-l2", "small-lpl", "small-lpl-seed1", "small-pretraining"]
    assert before.items() <= written(studies.store, "*/checkpoints/*/model.safetensors").items()
    output = studies.path / "out"
    assert (output / "second" / "baseline").resolve() == (output / "first" / "l2").resolve()
    rows = json.loads((output / "second" / "results.json").read_text())["rows"]
    values = rows[0]["columns"]["sliced_wasserstein"]["values"]
    assert list(values) == ["0", "1"]
    assert values["0"] != values["1"]
    assert rows[1]["columns"]["sliced_wasserstein"]["verdict"] in ("better", "worse", "undecided")
    assert "±" in rows[1]["columns"]["sliced_wasserstein"]["text"]


@pytest.mark.slow
def test_a_study_that_is_stopped_presents_what_it_has(studies: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def until_lpl(job: Job) -> None:
        if job.label == "small-lpl":
            raise KeyboardInterrupt
        carry_out(job)

    file = studies.write(show_pretraining=False)
    output = studies.path / "out" / "study"
    with monkeypatch.context() as patched:
        patched.setattr(scheduling, "carry_out", until_lpl)
        assert studies.run(file).exit_code != 0
    stopped = json.loads((output / "results.json").read_text())
    values = [row["columns"]["sliced_wasserstein"]["values"] for row in stopped["rows"]]
    assert [list(row) for row in values] == [["0"], [], []]
    assert list(stopped["failures"]) == ["small-lpl", "small-l2-equal-time"]
    said = "small-lpl and small-l2-equal-time are missing: the study was stopped; run it again to carry on"
    assert said in (output / "table.md").read_text()

    assert studies.run(file).exit_code == 0
    complete = json.loads((output / "results.json").read_text())
    assert complete["failures"] == {}
    assert complete["rows"][0]["columns"]["sliced_wasserstein"]["values"] == values[0]


@pytest.mark.slow
def test_a_study_that_is_stopped_at_once_presents_nothing(
    studies: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(job: Job) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scheduling, "carry_out", stop)
    assert studies.run(studies.write()).exit_code != 0
    assert not (studies.path / "out" / "study" / "table.md").exists()


@pytest.mark.slow
def test_one_arm_that_fails_does_not_stop_the_others(studies: StudyFolder) -> None:
    arms = {
        "l2": {},
        "broken": {"recipe": {"training": {"initial_weights": "ema"}}},
        "after-broken": {"recipe": {"training": {"steps": 9}}, "same_time_as": "broken"},
        "lpl": STUDY["arms"]["lpl"],
    }
    # Pre-training ends before its average begins, so that there is none to begin from.
    pretraining = {"training": {"ema_start": 3, "steps": 2}}
    file = studies.write(arms=arms, pretraining=pretraining, show_pretraining=False)
    result = studies.run(file, "sampling.weights=raw")
    assert result.exit_code == 1
    failures = json.loads((studies.path / "out" / "study" / "results.json").read_text())["failures"]
    assert list(failures) == ["small-broken", "small-after-broken"]
    assert "holds no averaged weights" in failures["small-broken"]
    assert "small-broken" in failures["small-after-broken"]
    assert failures["small-after-broken"].endswith("failed")
    assert "holds no averaged weights" in result.output
    rows = json.loads((studies.path / "out" / "study" / "results.json").read_text())["rows"]
    assert [row["arm"] for row in rows if row["runs"]] == ["l2", "lpl"]


class Timed:
    """A machine on which the nth run that is timed takes n images a second."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def times(self, trainings: Sequence[Training]) -> dict[str, Any]:
        self.asked += [training.label for training in trainings]
        return {"speeds": [float(number) for number in range(1, len(trainings) + 1)]}


def speeds(studies: StudyFolder, **changes: Any) -> tuple[list[str], list[float | None]]:
    """Which runs are timed, and the speed of each point."""
    loaded = load_study(studies.write(**changes))
    evidence = [Evidence(point) for point in plan(loaded, NothingMeasured())]
    machine, session = Timed(), SimpleNamespace(study=loaded, failures={})
    found = study._with_speeds(session, machine, evidence)  # type: ignore[arg-type]
    assert not session.failures
    return machine.asked, [entry.speed for entry in found]


def test_every_run_of_a_sweep_has_its_own_speed(studies: StudyFolder) -> None:
    lpl = {**STUDY["arms"]["lpl"], "sweep": {"objective.perceptual.blocks": [1, 2]}}
    sampled = {"sweep": {"sampling.steps": [2, 3]}}
    asked, found = speeds(studies, arms={"l2": sampled, "lpl": lpl}, seeds=[0, 1])
    assert asked == ["small-l2", "small-lpl-blocks=1", "small-lpl-blocks=2"]
    assert found == [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, None, None]  # each with two seeds, then where they began


def test_the_speed_over_iterations_is_the_arm_s_and_not_its_start_s(studies: StudyFolder) -> None:
    asked, found = speeds(studies, arms={"l2": {}, "lpl": STUDY["arms"]["lpl"]}, iterations=1)
    assert asked == ["small-l2", "small-lpl"]
    assert found == [None, 1.0, 1.0, None, 2.0, 2.0]


@pytest.mark.slow
def test_a_study_that_chooses_presents_what_it_has_where_an_arm_fails(
    studies: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def but_lpl(job: Job) -> None:
        if job.label == "small-lpl":
            raise RuntimeError("out of memory")
        carry_out(job)

    monkeypatch.setattr(scheduling, "carry_out", but_lpl)
    changes = {"sweep": {"sampling.guidance_scale": [1.0, 2.0]}, "select": {"by": "sliced_wasserstein"}}
    result = studies.run(studies.write(arms={"l2": {}, "lpl": STUDY["arms"]["lpl"]}, **changes))
    assert result.exit_code == 1
    content = json.loads((studies.path / "out" / "study" / "results.json").read_text())
    assert [row["arm"] for row in content["rows"]] == ["l2", "pretraining"]
    assert list(content["chosen"]) == ["l2"]
    assert "out of memory" in content["failures"]["small-lpl"]
    assert "out of memory" in result.output


@pytest.mark.slow
def test_a_loss_of_ones_own_is_studied_as_any_other(studies: StudyFolder) -> None:
    term = Path(__file__).parents[2] / "examples" / "custom_loss.py"
    perceptual = {"kind": "custom", "term": f"{term}:FrequencyWeightedLoss", "settings": {"power": 2.0}}
    arms = {"l2": {}, "mine": {"recipe": {"objective": {"perceptual": perceptual}}}}
    result = studies.run(studies.write(arms=arms, show_pretraining=False))
    assert result.exit_code == 0, result.output
    logged = (studies.path / "out" / "study" / "mine" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["loss/perceptual"] > 0 for line in logged)
