"""Sample folders, and transformers models of a few thousand random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

USER_MODULE = """
import torch
from torch import nn

class Colours(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
    def forward(self, images):
        return self.scale * nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)

def colours():
    return Colours()
"""


@pytest.fixture
def user_module(tmp_path: Path) -> str:
    """FILE.py:FUNCTION of an extractor with twelve features: twice the mean colours of four quarters."""
    file = tmp_path / "colours.py"
    file.write_text(USER_MODULE)
    return f"{file}:colours"


@pytest.fixture
def random_pixels() -> Callable[..., torch.Tensor]:
    """Draws uint8 images (N, 3, R, R), each with a base colour of its own."""

    def draw(count: int, side: int = 16, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        base = torch.randint(0, 200, (count, 3, 1, 1), generator=generator)
        return (base + torch.randint(0, 56, (count, 3, side, side), generator=generator)).to(torch.uint8)

    return draw


@pytest.fixture
def sample_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes images as `lpl sample` does, and returns the run's folder."""

    def write(pixels: torch.Tensor, name: str = "default") -> Path:
        folder = tmp_path / "run" / "samples" / name
        folder.mkdir(parents=True)
        for index, image in enumerate(pixels):
            Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(folder / f"{index:06d}.png")
        Image.new("RGB", (99, 44)).save(folder / "grid.png")
        labels = [index % 2 for index in range(len(pixels))]
        details = {"labels": labels, "seed": 7, "settings": {"steps": 5}, "checkpoint": "step-9", "classes": ["a", "b"]}
        (folder / "samples.json").write_text(json.dumps(details))
        return tmp_path / "run"

    return write
