"""Several processes at a time, failures, and stopping."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from small_studies import STUDY, StudyFolder

from lpl.config import RecipeError
from lpl.study import load_study, scheduling
from lpl.study.recipes import study_recipe
from lpl.study.running import Job, Measurement, job_from_json, job_to_json
from lpl.study.scheduling import device_slots, processor_slots, run_in_processes, run_in_turn


def test_a_job_survives_being_written_down(studies: StudyFolder, tmp_path: Path) -> None:
    recipe = study_recipe(load_study(studies.write()), "lpl")
    wanted = Measurement(3, recipe.sampling, recipe.evaluation, "contents", "autoencoder")
    folder = tmp_path / "run"
    job = Job("run", recipe, folder, tmp_path / "lock", tmp_path / "time", (wanted,), (tmp_path / "start",))
    assert job_from_json(job_to_json(job)) == job
    assert job_from_json(job_to_json(Job("encoding", recipe))) == Job("encoding", recipe)


def test_a_gpu_has_one_process_and_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for visible, expected in ((None, ["0", "3", "0"]), ("7,6,5,GPU-4", ["7", "GPU-4", "7"])):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        slots = device_slots(["0", "3", "0"])
        assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots] == expected
        assert [slot.name for slot in slots] == ["GPU 0", "GPU 3", "GPU 0"]
    with pytest.raises(RecipeError, match="--devices: got '4', takes 0, 1, 2, 3"):
        device_slots(["4"])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(scheduling, "available_cores", lambda: 6)
    assert [slot.environment["OMP_NUM_THREADS"] for slot in processor_slots(4)] == ["1"] * 4
    assert [slot.environment["OMP_NUM_THREADS"] for slot in processor_slots(2)] == ["3"] * 2
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # asked for
    assert [slot.environment["OMP_NUM_THREADS"] for slot in processor_slots(1)] == ["2"]


@pytest.mark.parametrize("trained", [False, True])
def test_a_run_waits_for_training_but_not_for_measurements(
    studies: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: bool
) -> None:
    class Started:
        def __init__(self, job: Job, slot: object, folder: Path, to_file: bool) -> None:
            self.job = job
            self.description = folder / job.label

    monkeypatch.setattr(scheduling, "_Process", Started)
    recipe = study_recipe(load_study(studies.write()), "lpl")
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    (first / "run.json").write_text(json.dumps({"status": "complete" if trained else "training"}))
    wanted = (Measurement(3, recipe.sampling, recipe.evaluation, "contents", "autoencoder"),)
    waiting = [
        Job("first", recipe, first, tmp_path / "a.lock", measurements=wanted),
        Job("second", recipe, second, tmp_path / "b.lock", after=(first,)),
    ]
    running: dict = {}
    scheduling._start_ready(waiting, processor_slots(2), running, tmp_path, Console(quiet=True))
    assert [process.job.label for process in running.values()] == (["first", "second"] if trained else ["first"])


@pytest.mark.parametrize("processes", [0, 2])
def test_what_depends_on_a_failure_is_not_started(studies: StudyFolder, tmp_path: Path, processes: int) -> None:
    recipe = study_recipe(load_study(studies.write()), "lpl", pretraining=True)
    missing = recipe.model_copy(update={"autoencoder": recipe.autoencoder.model_copy(update={"path": "no/such/vae"})})
    first, second = tmp_path / "first", tmp_path / "second"
    jobs = [
        Job("first", missing.model_copy(update={"output": str(first)}), first, tmp_path / "a.lock"),
        Job("second", recipe, second, tmp_path / "b.lock", after=(first,)),
    ]
    console = Console(quiet=True)
    if processes:
        outcome = run_in_processes(jobs, processor_slots(processes), tmp_path / "logs", console)
    else:
        outcome = run_in_turn(jobs, console)
    assert list(outcome.failures) == ["first", "second"]
    assert "no/such/vae" in outcome.failures["first"]
    assert outcome.failures["second"] == "not started, because first failed"
    assert not second.exists()


@pytest.mark.slow
def test_arms_run_in_processes_of_their_own(studies: StudyFolder) -> None:
    result = studies.run(studies.write(arms={"l2": {}, "lpl": STUDY["arms"]["lpl"]}), "--jobs", "2")
    assert result.exit_code == 0, result.output
    output = studies.path / "out" / "study"
    rows = json.loads((output / "results.json").read_text())["rows"]
    assert [row["arm"] for row in rows if row["columns"]["sliced_wasserstein"]["values"]] == [
        "l2",
        "lpl",
        "pretraining",
    ]
    assert "encoding 1: started on process 1" in result.output
    assert "4 of 4 jobs done" in result.output
    (log,) = (output / "logs").glob("small-lpl-*.log")
    assert "step 2" in log.read_text()


@pytest.mark.slow
def test_arms_whose_names_differ_in_punctuation_alone_both_run(studies: StudyFolder) -> None:
    arms = {"lpl": STUDY["arms"]["lpl"], "lpl+": {"recipe": {"objective": {"perceptual": {"weight": 0.7}}}}}
    result = studies.run(studies.write(arms=arms, show_pretraining=False), "--jobs", "2")
    assert result.exit_code == 0, result.output
    output = studies.path / "out" / "study"
    runs = [row["runs"]["0"] for row in json.loads((output / "results.json").read_text())["rows"]]
    linked = {str(path.resolve()) for path in output.iterdir() if path.is_symlink()}
    assert len(set(runs)) == 2
    assert {str(Path(run).resolve()) for run in runs} <= linked


@pytest.mark.slow
def test_stopping_a_study_saves_what_its_processes_train(studies: StudyFolder, tmp_path: Path) -> None:
    recipe = study_recipe(load_study(studies.write()), "l2", pretraining=True)
    run = tmp_path / "run"
    long = recipe.training.model_copy(update={"steps": 100_000})
    recipe = recipe.model_copy(update={"training": long, "output": str(run)})

    def interrupt() -> None:
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").is_file() and time.monotonic() < deadline:
            time.sleep(0.1)
        if (run / "metrics.jsonl").is_file():
            os.kill(os.getpid(), signal.SIGTERM)  # unlike SIGINT never ignored in the background

    handler = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=interrupt).start()
    job = Job("run", recipe, run, tmp_path / "lock")
    with pytest.raises(KeyboardInterrupt):
        run_in_processes([job], processor_slots(1), tmp_path / "logs", Console(quiet=True))
    assert signal.getsignal(signal.SIGTERM) == handler
    information = json.loads((run / "run.json").read_text())
    assert (information["status"], information["ended_by"]) == ("interrupted", "SIGTERM")
    step = information["step"]
    assert 0 < step < 100_000
    assert (run / "checkpoints" / f"step-{step:08d}" / "state.json").is_file()


def test_a_failed_measurement_of_a_trained_run_does_not_stop_what_begins_from_it(
    studies: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = study_recipe(load_study(studies.write()), "lpl")
    first, second = tmp_path / "first", tmp_path / "second"
    jobs = [
        Job("first", recipe, first, tmp_path / "a.lock"),
        Job("second", recipe, second, tmp_path / "b.lock", after=(first,)),
    ]
    begun = []

    def trained_only(job: Job) -> None:
        begun.append(job.label)
        assert job.folder is not None
        job.folder.mkdir()
        (job.folder / "run.json").write_text(json.dumps({"status": "complete", "step": 2}))
        if job.label == "first":
            raise RuntimeError("no network for the extractor")

    monkeypatch.setattr(scheduling, "carry_out", trained_only)
    outcome = run_in_turn(jobs, Console(quiet=True))
    assert begun == ["first", "second"]
    assert list(outcome.failures) == ["first"]


def test_a_process_that_ends_without_having_done_its_job_has_failed(
    studies: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def idle(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        started.append(Path(command[-1]).name)
        return popen([command[0], "-c", ""])

    popen = subprocess.Popen
    monkeypatch.setattr(scheduling.subprocess, "Popen", idle)
    recipe = study_recipe(load_study(studies.write()), "lpl")
    # Labels that differ in punctuation alone, and folders with keys.
    jobs = [
        Job("lpl", recipe, tmp_path / "lpl-1", tmp_path / "a.lock"),
        Job("lpl+", recipe, tmp_path / "lpl-2", tmp_path / "b.lock"),
        Job("encoding 1", recipe),
    ]
    outcome = run_in_processes(jobs, processor_slots(2), tmp_path / "logs", Console(quiet=True))
    assert set(started) == {"lpl-1.json", "lpl-2.json", "encoding-1.json"}
    assert set(outcome.failures) == {"lpl", "lpl+"}
    assert "without having done everything" in outcome.failures["lpl+"]
