"""A feature extractor of one's own: the small scene classifier that judges runs on scenes-128.

Use it by `lpl evaluate RUN extractor=examples/scenes_judge.py:judge`, or in a recipe or a study by
`evaluation.extractor=examples/scenes_judge.py:judge`, with the environment variable LPL_JUDGE naming the folder that
holds the classifier's model.safetensors. Any function that returns an nn.Module, which maps images (B, 3, R, R) in
[-1, 1] to features (B, D), will do in its place.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

RESOLUTION = 128  # pixels a side that the classifier was trained on
WIDTHS = (3, 24, 48, 48, 96, 96, 192, 192, 256, 256)  # channels before the first unit and after each
STRIDES = (1, 2, 1, 2, 1, 2, 1, 2, 1)
CLASSES = 6
FEATURES = 11  # layers up to the flattened average pool


class SceneFeatures(nn.Module):
    """The classifier without its last layer: (B, 3, R, R) in [-1, 1] to 256 features."""

    def __init__(self, classifier: nn.Sequential) -> None:
        super().__init__()
        self.layers = classifier[:FEATURES]

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 256); images of another size are resized first."""
        if images.shape[-2:] != (RESOLUTION, RESOLUTION):
            images = F.interpolate(images, (RESOLUTION, RESOLUTION), mode="bicubic", antialias=True)
        return self.layers(images)


def scene_classifier() -> nn.Sequential:
    """The classifier with random weights: nine units of convolution, BatchNorm and ReLU, a pool and a linear layer."""
    units = [
        nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
        for inputs, outputs, stride in zip(WIDTHS[:-1], WIDTHS[1:], STRIDES, strict=True)
    ]
    return nn.Sequential(*units, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], CLASSES))


def judge() -> nn.Module:
    """The extractor, with the weights from the folder named by LPL_JUDGE."""
    folder = os.environ.get("LPL_JUDGE")
    if not folder:
        raise RuntimeError("LPL_JUDGE: set this environment variable to the folder that holds model.safetensors")
    weights = Path(folder) / "model.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(f"LPL_JUDGE={folder}: there is no model.safetensors in it")
    classifier = scene_classifier()
    classifier.load_state_dict(load_file(weights))
    return SceneFeatures(classifier)
