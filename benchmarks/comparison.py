"""The part of the loss that is not the decoder: outlier masks, statistics and distances, with their gradient."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from lpl import LatentPerceptualLoss
from lpl.losses.outliers import find_outliers

from .modes import Inputs

DEEP = 2  # masked are blocks of at least half the image's resolution


class Comparison:
    """A `LatentPerceptualLoss` whose decoder is replaced by features computed beforehand.

    Args:
        autoencoder: whose features.
        inputs: of which latents.
        dtype: the decoder's; float32 is the autoencoder's own, contiguous.
    """

    def __init__(self, autoencoder: nn.Module, inputs: Inputs, dtype: torch.dtype) -> None:
        self.inputs = inputs
        self.loss = LatentPerceptualLoss(autoencoder, dtype=None if dtype == torch.float32 else dtype)
        self.loss.to(inputs.target.device)
        with torch.no_grad():
            self.target = self.loss.features(inputs.target)
            prediction = self.loss.features(inputs.prediction)
        self.prediction = {name: value.requires_grad_() for name, value in prediction.items()}
        recorded: Any = copy.copy(self.loss.features)
        recorded.forward = self._features
        self.loss.features = recorded

    def _features(self, latents: Tensor) -> dict[str, Tensor]:
        """The target's features are asked for without a gradient, the prediction's with one."""
        return dict(self.prediction if torch.is_grad_enabled() else self.target)

    def run(self) -> None:
        """The loss of the features, and its gradient with respect to the prediction's."""
        for value in self.prediction.values():
            value.grad = None
        self.loss(*self.inputs).backward()

    def masks(self) -> None:
        """The search for outliers alone."""
        full = max(value.shape[-1] for value in self.target.values())
        for value in self.target.values():
            if full / value.shape[-1] <= DEEP:
                find_outliers(value, full / value.shape[-1])
