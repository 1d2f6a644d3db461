"""Folders of runs in every state that a person may look at them in, written by hand as the trainer would."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

NOW = 1_800_000_000.0  # seconds since 1970 at which everything here is looked at


def row_of(step, perceptual=True, pace=2.0):
    diffusion, term = 1 / (1 + step / 50), 3.0 + np.sin(step)
    row = {"step": step, "seconds": pace * step, "images_per_second": 32 / pace, "learning_rate": 1e-4}
    if not perceptual:
        return {**row, "loss": diffusion, "loss/diffusion": diffusion}
    blocks = {"loss/perceptual/mid_block": 0.75 * term, "loss/perceptual/up_blocks.0": 0.25 * term}
    balance = {"gradient_ratio": 0.3, "passed": 0.75, "perceptual_weight": 0.1, "gradient_norm": 1.5}
    return {
        **row,
        "loss": diffusion + 0.1 * term,
        "loss/diffusion": diffusion,
        "loss/perceptual": term,
        **blocks,
        **balance,
    }


def append_rows(run, rows):
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def write_run(folder, steps=100, perceptual=True, name=None, training=None, age=1.0, **information):
    """A run that logged steps 2, 4, … and wrote last `age` seconds before NOW."""
    folder.mkdir(parents=True)
    training = {"steps": 400, **(training or {})}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": name or folder.name, "training": training}))
    content = {"status": "running", "steps": training["steps"], "parameters": 7_808_480, "step": 0, **information}
    (folder / "run.json").write_text(json.dumps(content))
    append_rows(folder, [row_of(step, perceptual) for step in range(2, steps + 1, 2)])
    set_age(folder, age)
    return folder


def set_age(folder, age):
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (NOW - age, NOW - age))


def write_checkpoint(run, step, age):
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    os.utime(folder, (NOW - age, NOW - age))


def write_pictures(folder, colours, side=8, age=5.0):
    """Images of one colour each."""
    folder.mkdir(parents=True)
    for index, colour in enumerate(colours):
        Image.new("RGB", (side, side), colour).save(folder / f"{index:06d}.png")
    os.utime(folder, (NOW - age, NOW - age))
    return Path(folder)
