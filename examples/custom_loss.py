"""A perceptual loss of one's own: squared error in latent space, with fine detail weighted more than ℓ2 weights it.

One class, and one line in a recipe or in an arm of a study:

    objective: {perceptual: {kind: custom, term: "examples/custom_loss.py:FrequencyWeightedLoss", weight: matched}}

`settings: {power: 2}` would go to the class, and `sigma_threshold: 3` would gate it as it gates LPL. `parts` holds the
path, the autoencoder and the denoiser that training starts from, for losses that compare in one of these; `prediction`
holds ẑ0, z0, σ_t and the batch. The class returns one loss a sample, whose gradient flows to ẑ0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lpl.training import LatentPrediction, TermParts


class FrequencyWeightedLoss:
    """Mean over channels and frequencies k of w(k) |FFT(ẑ0 − z0)(k)|², with w ∝ |k|^power and a mean of 1.

    By Parseval's theorem, power 0 is the mean squared error of ẑ0; natural images have little energy at high
    frequencies, so ℓ2 hardly sees errors there, and a positive power makes up for that.
    """

    def __init__(self, parts: TermParts, power: float = 1.0) -> None:
        self.power = power

    def __call__(self, prediction: LatentPrediction) -> Tensor:
        error = prediction.predicted - prediction.clean
        energy = torch.fft.fft2(error, norm="ortho").abs().square()
        return (self.weights(error) * energy).mean(dim=(1, 2, 3))

    def weights(self, error: Tensor) -> Tensor:
        """w(k), (h, w); the constant part counts as the lowest frequency."""
        rows, columns = (torch.fft.fftfreq(side, device=error.device) for side in error.shape[-2:])
        lowest = 1 / max(error.shape[-2:])
        weights = torch.hypot(rows[:, None], columns[None, :]).clamp_min(lowest) ** self.power
        return weights / weights.mean()
