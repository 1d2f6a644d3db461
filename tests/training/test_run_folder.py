"""Which recipes may carry on a run, who may, and what becomes of its files where something went wrong."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
from pathlib import Path

import filelock
import pytest
from run_files import rows_of, wait_for_step

from lpl.training import CheckpointError, ResumeError, train
from lpl.training.run_folder import held, write_text

LPL = {"weight": 0.3, "sigma_threshold": 2.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training.learning_rate": 2e-3}, r"training\.learning_rate was 0\.001 and is now 0\.002"),
        ({"objective.perceptual": LPL}, r"objective\.perceptual was None and is now \{'weight': 0\.3"),
        ({"seed": 1, "data.flip": False}, r"seed was 0 and is now 1; data\.flip was True and is now False;"),
        ({"training.steps": 3}, r"is at step 4 already, beyond training\.steps=3"),
        ({"training.accumulation": 2}, r"a step took 1 forward passes .* now takes 2"),
    ],
)
def test_resuming_with_another_recipe_is_refused_by_key(tiny_recipe, settings, message):
    train(tiny_recipe())
    changed = {key.replace(".", "__"): value for key, value in {"training.steps": 6, **settings}.items()}
    with pytest.raises(ResumeError, match=message):
        train(tiny_recipe(**changed))


def test_a_cosine_run_can_not_be_extended(tiny_recipe):
    train(tiny_recipe(training__schedule="cosine"))
    with pytest.raises(ResumeError, match=r"training\.steps was 4 and is now 6 \(it may change with"):
        train(tiny_recipe(training__schedule="cosine", training__steps=6))


def test_resuming_on_other_images_is_refused(tiny_recipe, tiny_images, tmp_path):
    images = tmp_path / "images"
    (images / "blue").mkdir(parents=True)
    (images / "red").mkdir()
    for path in tiny_images.rglob("*.png"):
        (images / path.relative_to(tiny_images)).write_bytes(path.read_bytes())
    train(tiny_recipe(data__source=str(images)))
    next(images.rglob("*.png")).unlink()
    with pytest.raises(ResumeError, match="was trained on other latents: source changed"):
        train(tiny_recipe(data__source=str(images), training__steps=6))


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_whose_checkpoints_can_not_be_read_is_left_as_it_is(tiny_recipe, resume):
    run = train(tiny_recipe())
    states = sorted(run.glob("checkpoints/*/state.json"))
    assert len(states) == 2
    for path in states:
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    before = rows_of(run)
    with pytest.raises(CheckpointError, match=r"none of the checkpoints there can be used: .*format 1.* delete this"):
        train(tiny_recipe(training__steps=6), resume=resume)
    assert rows_of(run) == before
    assert sorted(run.glob("checkpoints/*/state.json")) == states


def test_a_second_process_on_the_same_run_is_refused_at_once(tiny_recipe, start):
    recipe = tiny_recipe(training__steps=100_000, training__log_every=1)
    run = Path(recipe.output)
    child = start(recipe)
    wait_for_step(run, 1, child)
    with pytest.raises(ResumeError, match="another process is training this run"):
        train(recipe)
    os.kill(child.pid, signal.SIGTERM)
    child.join()
    assert child.exitcode == 128 + signal.SIGTERM
    step = json.loads((run / "run.json").read_text())["step"]
    assert len(json.loads((run / "run.json").read_text())["sessions"]) == 1
    train(tiny_recipe(training__steps=step + 1, training__log_every=1))  # nothing is left of the lock
    assert [row["step"] for row in rows_of(run)] == list(range(1, step + 2))


@pytest.mark.parametrize("error", [OSError(errno.ENOTSUP, "not supported"), NotImplementedError("no flock")])
def test_where_files_can_not_be_locked_there_is_a_warning(tmp_path, monkeypatch, caplog, error):
    def unsupported(*_, **__):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", unsupported)
    with caplog.at_level(logging.WARNING), held(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    assert "can't be locked" in caplog.text


def test_only_a_folder_of_which_nothing_came_is_removed(tmp_path):
    for name in ("made", "there", "used"):
        (tmp_path / "there").mkdir(exist_ok=True)
        with held(tmp_path / name):
            if name == "used":
                (tmp_path / name / "recipe.yaml").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there", "used"]


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """A name that comes first would be that of an empty file after a power cut."""
    synced = set()
    sync, replace = os.fsync, os.replace

    def noted_sync(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def noted_replace(source, target):
        assert os.stat(source).st_ino in synced
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_text(tmp_path / "run.json", "{}")
    assert (tmp_path / "run.json").read_text() == "{}"
    assert tmp_path.stat().st_ino in synced


def test_a_damaged_run_json_is_named_and_written_anew(tiny_recipe, caplog):
    run = train(tiny_recipe(training__steps=2))
    (run / "run.json").write_text("")
    with caplog.at_level(logging.WARNING):
        train(tiny_recipe())
    assert f"{run / 'run.json'}: is damaged" in caplog.text
    whole = json.loads((run / "run.json").read_text())
    assert (whole["status"], whole["step"], whole["images"]) == ("complete", 4, 16)
    (run / "run.json").write_text("")
    train(tiny_recipe())
    info = json.loads((run / "run.json").read_text())
    for key in ("name", "status", "step", "images"):
        assert info[key] == whole[key]
    assert 0 < info["seconds"] <= whole["seconds"]
