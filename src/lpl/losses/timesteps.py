"""Weights on the diffusion loss that depend on the noise level alone.

Everything is written in σ = b_t / a_t, the noise-to-signal ratio, so SNR = 1/σ²; the forms below stay finite from σ = 0
(data) to σ = ∞ (noise).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample", "velocity"]


def min_snr_weights(sigma: Tensor, prediction: Prediction, gamma: float = 5.0) -> Tensor:
    """Min-SNR-γ: the weight under which every prediction type sees min(SNR, γ) · ‖ẑ0 − z0‖².

    A squared error on the denoiser's output is one on ẑ0 times a factor; dividing min(SNR, γ) by it gives the weight:

    | prediction | error on the output / error on ẑ0 | weight | in σ |
    | --- | --- | --- | --- |
    | `sample` (z0) | 1 | min(SNR, γ) | min(1/σ², γ) |
    | `epsilon` | a²/b² = SNR | min(SNR, γ)/SNR | min(1, γσ²) |
    | `v_prediction` | 1/b² = SNR + 1, for a² + b² = 1 | min(SNR, γ)/(SNR + 1) | min(1, γσ²)/(1 + σ²) |
    | `velocity` (flow) | 1/t², as ẑ0 = z_t − t v̂ | t² min(SNR, γ) | min(1, γσ²)/(1 + σ)² |

    The first three are Hang et al.'s. The straight path z_t = (1 − t) z0 + t ε follows the same rule: σ = t/(1 − t)
    gives t = σ/(1 + σ), hence the last column.

    Args:
        sigma: σ_t of each sample, shape (B,), in [0, ∞].
        prediction: what the denoiser outputs.
        gamma: γ > 0, the largest weight that ẑ0's error may get; the authors take 5.

    Returns:
        float32 of shape (B,), in [0, max(1, γ)].

    Raises:
        ValueError: for an unknown prediction type or a γ that is not positive.

    Reference:
        Hang et al., *Efficient Diffusion Training via Min-SNR Weighting Strategy*, ICCV 2023, section 3.4.
    """
    if gamma <= 0:
        raise ValueError(f"gamma: got {gamma}, takes a positive number")
    sigma = sigma.float()
    if prediction == "sample":
        return (1 / sigma.square()).clamp(max=gamma)
    clipped = (gamma * sigma.square()).clamp(max=1.0)  # min(SNR, γ)/SNR
    if prediction == "epsilon":
        return clipped
    if prediction == "v_prediction":
        return clipped / (1 + sigma.square())
    if prediction == "velocity":
        return clipped / (1 + sigma).square()
    raise ValueError(
        f"prediction: got {prediction!r}, takes 'epsilon', 'v_prediction', 'sample' or 'velocity' (flow matching)"
    )


def gated_weights(sigma: Tensor, gain: float = 1.0, sigma_threshold: float = 3.0) -> Tensor:
    """w(σ_t) = 1 + gain · 1(σ_t ≤ τ_σ): more weight to the times that the perceptual loss acts on (eq. 15).

    The paper's gain is w_LPL · Var(L_LPL)/Var(ℓ2), which gives those times the share of the loss that they would have
    with the perceptual term; it serves as a control for the claim that the benefit is not one of reweighting.

    Args:
        sigma: σ_t of each sample, shape (B,), in [0, ∞].
        gain: what is added below the threshold, ≥ 0.
        sigma_threshold: τ_σ > 0.

    Returns:
        float32 of shape (B,), each 1 or 1 + gain.

    Raises:
        ValueError: for a negative gain or a threshold that is not positive.

    Reference:
        Berrada et al., *Boosting Latent Diffusion with Perceptual Objectives*, ICLR 2025, eq. (15).
    """
    if gain < 0:
        raise ValueError(f"gain: got {gain}, takes a number that is not negative")
    if sigma_threshold <= 0:
        raise ValueError(f"sigma_threshold: got {sigma_threshold}, takes a positive number")
    return torch.where(sigma <= sigma_threshold, 1.0 + gain, 1.0).float()
