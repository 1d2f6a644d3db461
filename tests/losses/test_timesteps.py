"""Min-SNR-γ and eq. (15), against the errors they are meant to equalise."""

from __future__ import annotations

import math

import pytest
import torch

from lpl.diffusion.paths import DDPM, FlowOT
from lpl.losses.timesteps import gated_weights, min_snr_weights


def _error_on_output_and_latent(path, timesteps):
    """‖output − target‖² and ‖ẑ0 − z0‖² of a wrong output, per sample, in float64 where the path allows."""
    generator = torch.Generator().manual_seed(0)
    clean, noise, mistake = (torch.randn(len(timesteps), 4, 3, 3, generator=generator) for _ in range(3))
    noisy = path.add_noise(clean, noise, timesteps)
    output = path.target(clean, noise, timesteps) + mistake
    latent = path.predicted_latent(output, noisy, timesteps)
    return mistake.double().square().mean((1, 2, 3)), (latent - clean).double().square().mean((1, 2, 3))


@pytest.mark.parametrize(
    ("path", "prediction"),
    [
        (DDPM("epsilon"), "epsilon"),
        (DDPM("v_prediction"), "v_prediction"),
        (DDPM("sample"), "sample"),
        (FlowOT(), "velocity"),
    ],
)
def test_min_snr_gives_every_prediction_type_the_same_loss_on_the_clean_latent(path, prediction):
    steps = [50, 200, 400, 600, 800]
    timesteps = torch.tensor(steps) if isinstance(path, DDPM) else torch.tensor(steps) / 1000
    sigma = path.sigma(timesteps)
    output_error, latent_error = _error_on_output_and_latent(path, timesteps)
    weighted = min_snr_weights(sigma, prediction, gamma=5.0).double() * output_error
    expected = torch.clamp(1 / sigma.double() ** 2, max=5.0) * latent_error
    torch.testing.assert_close(weighted, expected, rtol=2e-3, atol=0)  # ẑ0 itself is float32


@pytest.mark.parametrize(
    ("prediction", "formula"),
    [
        ("epsilon", lambda snr, gamma: min(snr, gamma) / snr),
        ("v_prediction", lambda snr, gamma: min(snr, gamma) / (snr + 1)),
        ("sample", lambda snr, gamma: min(snr, gamma)),
    ],
)
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_matches_the_published_formulas(prediction, formula, gamma):
    sigmas = [0.01, 0.3, 1 / math.sqrt(gamma), 1.0, 14.0]
    expected = torch.tensor([formula(1 / sigma**2, gamma) for sigma in sigmas])
    torch.testing.assert_close(min_snr_weights(torch.tensor(sigmas), prediction, gamma), expected)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "velocity"])
def test_min_snr_is_finite_at_both_ends_of_the_path(prediction):
    at_data, at_noise = min_snr_weights(torch.tensor([0.0, math.inf]), prediction, 5.0).tolist()
    assert at_data == (5.0 if prediction == "sample" else 0.0)
    assert at_noise == (1.0 if prediction == "epsilon" else 0.0)


def test_min_snr_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match=r"prediction: got 'eps'.*'v_prediction'"):
        min_snr_weights(torch.ones(2), "eps")
    with pytest.raises(ValueError, match="gamma: got 0"):
        min_snr_weights(torch.ones(2), "epsilon", gamma=0)


def test_gated_weights_follow_equation_15_with_the_threshold_included():
    sigma = torch.tensor([0.0, 2.9, 3.0, 3.1, math.inf])
    assert gated_weights(sigma, gain=0.5, sigma_threshold=3.0).tolist() == [1.5, 1.5, 1.5, 1.0, 1.0]


@pytest.mark.parametrize(("argument", "value"), [("gain", -0.1), ("sigma_threshold", 0.0)])
def test_gated_weights_name_the_bad_argument(argument, value):
    with pytest.raises(ValueError, match=f"{argument}: got {value}"):
        gated_weights(torch.ones(2), **{argument: value})
