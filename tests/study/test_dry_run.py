"""What `lpl study --dry-run` says that a study needs."""

from __future__ import annotations

from small_studies import STUDY, StudyFolder


def labels(output: str) -> list[str]:
    """The first column of a table's rows."""
    cells = [line.split("│")[1].strip() for line in output.splitlines() if line.startswith("│")]
    return [cell for cell in cells if cell]  # a row may take several lines


def test_a_run_that_two_arms_share_is_listed_once_and_nothing_is_made(studies: StudyFolder) -> None:
    velocity = {
        "throughout": {"diffusion": {"path": "ddpm", "prediction_type": "v_prediction"}, "sampling": {"method": "ddim"}}
    }
    arms = {"flow": {}, "v": velocity, "v-lpl": {**velocity, **STUDY["arms"]["lpl"]}}
    result = studies.run(studies.write(arms=arms), "--dry-run")
    assert result.exit_code == 0, result.output
    assert labels(result.output) == [
        "small-pretraining",
        "small-flow",
        "small-pretraining-v",
        "small-v",
        "small-v-lpl",
    ]
    assert "to be done" in result.output
    assert studies.runs() == []


def test_a_run_whose_steps_are_to_be_measured_is_listed_although_a_guess_makes_it_another_s_equal(
    studies: StudyFolder,
) -> None:
    arms = {**STUDY["arms"], "l2-equal-time": {"same_time_as": "lpl", "equal_time": "ratio"}}
    result = studies.run(studies.write(arms=arms), "--dry-run")
    assert result.exit_code == 0, result.output
    assert labels(result.output) == ["small-pretraining", "small-l2", "small-lpl", "small-l2-equal-time"]
    assert "to be measured" in result.output
    assert result.output.count("known once measured") == 1  # and not what there is of the run that it is mistaken for


def test_an_autoencoder_that_is_missing_is_said_in_every_run_s_row(studies: StudyFolder) -> None:
    result = studies.run(studies.write(), "--dry-run", f"autoencoder.path={studies.path / 'nowhere'}")
    assert result.exit_code == 0, result.output
    assert len(labels(result.output)) == 4
    assert result.output.count("can't begin here") == 4


def test_what_cannot_have_been_measured_without_the_data_is_to_be_measured(studies: StudyFolder) -> None:
    arms = {"lpl": STUDY["arms"]["lpl"], "l2": {"same_time_as": "lpl", "equal_time": "ratio", "largest_batch": True}}
    result = studies.run(studies.write(arms=arms), "--dry-run", "data.source=nowhere/images", "data.format=folder")
    assert result.exit_code == 0, result.output
    assert labels(result.output) == ["small-pretraining", "small-lpl", "small-l2"]
    assert "to be measured" in result.output


def test_what_is_counted_without_being_trained_is_listed(studies: StudyFolder) -> None:
    result = studies.run(studies.write(train=False, columns=["flops"]), "--dry-run")
    assert result.exit_code == 0, result.output
    assert labels(result.output)[:3] == ["small-pretraining", "small-l2", "small-lpl"]
    assert "none, it is counted from its recipe" in result.output
