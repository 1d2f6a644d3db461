"""Reading what a run left behind, and training in a child process."""

from __future__ import annotations

import json
import os
import time

import torch
from safetensors.torch import load_file

from lpl.config import Recipe
from lpl.denoisers.mmdit import PRESETS, Preset
from lpl.training import train
from lpl.training.checkpoints import latest_checkpoint


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def terms_of(run):
    """Logged rows without what depends on the clock."""
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "images_per_second")}
        for row in rows_of(run)
    ]


def tensors_of(run, name="model"):
    return load_file(latest_checkpoint(run / "checkpoints") / f"{name}.safetensors")


def assert_same_result(first, second):
    """Bit for bit: weights, average, optimiser and every logged term."""
    for name in ("model", "ema", "optimizer"):
        ours, theirs = tensors_of(first, name), tensors_of(second, name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items()), name
    assert terms_of(first) == terms_of(second)


def train_in_child(values, environment):
    os.environ.update(environment)
    torch.set_num_threads(1)
    PRESETS["T"] = Preset(width=32, depth=2, heads=2)
    train(Recipe.model_validate(values))


def wait_for_step(run, step, child, session=1):
    """Until that session has logged this step or a later one, so that what follows falls on training."""
    info, metrics = run / "run.json", run / "metrics.jsonl"
    while child.is_alive():
        begun = info.is_file() and len(json.loads(info.read_text())["sessions"]) >= session
        if begun and metrics.is_file() and _last_step(metrics) >= step:
            return
        time.sleep(0.005)


def _last_step(path):
    lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
    return json.loads(lines[-1])["step"] if lines else 0
