"""Stopping and resuming changes nothing: bit for bit, whatever stopped the run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from run_files import assert_same_result, wait_for_step

from lpl.training import train
from lpl.training.checkpoints import latest_checkpoint, read_state


@pytest.mark.usefixtures("one_thread")
def test_killed_at_random_moments_and_resumed_is_bitwise_the_run_that_never_stopped(tiny_recipe, start):
    settings = {
        "training__steps": 24,
        "training__checkpoint_every": 3,
        "training__log_every": 2,
        "training__accumulation": 2,
        "training__ema_start": 5,
        "training__schedule": "cosine",
        "objective__perceptual": {"weight": "matched", "matching_batches": 14, "sigma_threshold": 2.0},
    }
    whole = train(tiny_recipe("whole", **settings))
    recipe = tiny_recipe("killed", **settings)
    run = Path(recipe.output)
    chance = np.random.default_rng(0)
    resumed_from = []
    for _ in range(5):
        begun = read_state(found)["step"] if (found := latest_checkpoint(run / "checkpoints")) else 0
        resumed_from.append(begun)
        child = start(recipe)
        wait_for_step(run, begun + chance.integers(1, 7), child, session=len(resumed_from))
        child.join(chance.uniform(0, 0.08))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    train(recipe)
    assert len(set(resumed_from)) >= 3, resumed_from
    assert_same_result(run, whole)
    assert read_state(latest_checkpoint(run / "checkpoints"))["objective"]["value"] > 0


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_exits_and_loses_nothing(tiny_recipe, start, number):
    settings = {"training__steps": 20, "training__checkpoint_every": 1000, "training__log_every": 7}
    recipe = tiny_recipe("stopped", **settings)
    run = Path(recipe.output)
    child = start(recipe)
    wait_for_step(run, 1, child)
    os.kill(child.pid, number)
    child.join()
    assert child.exitcode == 128 + number
    info = json.loads((run / "run.json").read_text())
    assert (info["status"], info["ended_by"]) == ("interrupted", number.name)
    assert 0 < read_state(latest_checkpoint(run / "checkpoints"))["step"] == info["step"] < 20
    train(recipe)
    assert_same_result(run, train(tiny_recipe("whole", **settings)))
    assert len(json.loads((run / "run.json").read_text())["sessions"]) == 2


def test_a_longer_run_with_a_constant_rate_is_the_run_that_was_long_from_the_start(tiny_recipe):
    short = {"training__steps": 4, "training__log_every": 2}
    long = {**short, "training__steps": 8}
    train(tiny_recipe("extended", **short))
    extended = train(tiny_recipe("extended", **long, training__keep_checkpoints=5))
    assert_same_result(extended, train(tiny_recipe("whole", **long)))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tiny_recipe):
    settings = {"training__steps": 6, "training__checkpoint_every": 2}
    recipe = tiny_recipe("damaged", **{**settings, "training__steps": 4})
    run = train(recipe)
    (run / "checkpoints" / "step-00000004" / "model.safetensors").write_bytes(b"")
    train(tiny_recipe("damaged", **settings))
    assert_same_result(run, train(tiny_recipe("whole", **settings)))
