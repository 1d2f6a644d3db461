from __future__ import annotations

import numpy as np
import pytest
import torch

import zoo
from lpl.analysis import AnalysisError, metric_at, study_taylor
from lpl.analysis.jacobian import LocalMetric
from lpl.analysis.local import crossing, linearisation_error, study_predictions
from lpl.autoencoders import Autoencoder


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    return Autoencoder(zoo.make("stable_diffusion"))


def test_metric_of_a_tiny_decoder(autoencoder) -> None:
    latent = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    double = zoo.make("stable_diffusion").double()
    moves = 1e-6 * torch.eye(16, dtype=torch.float64).reshape(16, 4, 2, 2)
    with torch.no_grad():
        pair = [double.decode((latent + sign * moves) / 0.18215).sample.flatten(1) for sign in (1, -1)]
    jacobian = ((pair[0] - pair[1]) / 2e-6).T
    values = torch.linalg.eigvalsh(jacobian.T @ jacobian)
    found = metric_at(autoencoder, latent, steps=40, probes=24)
    assert found.largest == pytest.approx(float(values[-1]), rel=1e-3)
    assert found.smallest == pytest.approx(float(values[0]), rel=0.05, abs=1e-5 * float(values[-1]))
    assert found.condition == pytest.approx(found.largest / found.smallest)
    assert found.mean_eigenvalue == pytest.approx(float(values.mean()), rel=0.3)
    assert found.effective_rank == pytest.approx(float(values.sum() ** 2 / values.square().sum()), rel=0.6)
    assert found.bound_over_mean == pytest.approx(found.mean_eigenvalue / found.smallest)
    moved = (found.largest_step - found.reference).square().sum()
    assert moved > (found.smallest_step - found.reference).square().sum()


def test_the_linear_approximation_of_a_quadratic_map() -> None:
    """For F(z) = z + z²/2 at 0: J = I, so the error is ‖e²/2‖ over ‖e + e²/2‖."""
    metric = LocalMetric(lambda z: z + z.square() / 2, torch.zeros(1, 3))
    for sigma in (0.1, 1.0):
        change = sigma * torch.tensor([[1.0, -2.0, 0.5]])
        e = change.numpy()[0]
        expected = np.linalg.norm(e**2 / 2) / np.linalg.norm(e + e**2 / 2)
        assert linearisation_error(metric, change, metric.push(change)) == pytest.approx(expected, rel=1e-5)


class Shrink:
    """A predictor whose error is known: ẑ0 = z0 − σ z0/10."""

    name = "shrink"

    def __call__(self, clean, noise, sigma, indices):
        assert noise.shape == clean.shape
        return clean * (1 - sigma / 10)


def test_predictions_are_judged_by_their_own_errors(autoencoder) -> None:
    latents = torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    study = study_predictions(autoencoder, latents, Shrink(), sigmas=(0.1, 1.0, 5.0))
    rms = latents.square().mean().sqrt().item()
    assert study.latent_errors == pytest.approx([0.01 * rms, 0.1 * rms, 0.5 * rms], rel=1e-5)
    assert study.predictor == "shrink"
    double = zoo.make("stable_diffusion").double()
    clean, step = latents[1:].double(), 1e-5

    def decode(share: float) -> torch.Tensor:
        return double.decode((1 - share) * clean / 0.18215).sample

    with torch.no_grad():
        linear = (decode(step) - decode(-step)) / (2 * step) * 0.5  # central difference along −z0
        actual = decode(0.5) - decode(0.0)
    assert study.errors[1, 2] == pytest.approx(((actual - linear).norm() / actual.norm()).item(), rel=1e-3)


def test_the_error_grows_and_its_crossings_are_found(autoencoder) -> None:
    latents = torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    study = study_taylor(autoencoder, latents, sigmas=(0.001, 0.1, 1.0, 3.0), draws=1)
    assert study.latent_errors.tolist() == [0.001, 0.1, 1.0, 3.0]
    mean = study.errors.mean(axis=0)
    assert study.errors.shape == (2, 4)
    assert mean[0] < mean[1] < mean[2]
    for tolerance, sigma in study.crossings.items():
        if sigma is not None and sigma > 0.001:
            assert np.interp(np.log(sigma), np.log(study.sigmas), mean) == pytest.approx(tolerance, rel=1e-6)


def test_crossings_are_interpolated_on_a_logarithmic_scale() -> None:
    errors = np.array([0.0, 0.2, 0.4])
    assert crossing((0.1, 1.0, 10.0), errors, 0.1) == pytest.approx(10**-0.5)
    assert crossing((0.1, 1.0, 10.0), errors, 0.3) == pytest.approx(10**0.5)
    assert crossing((0.1, 1.0, 10.0), errors, 0.5) is None
    assert crossing((0.1, 1.0, 10.0), errors + 1, 0.5) == 0.1


def test_impossible_settings_are_named(autoencoder) -> None:
    latent = torch.zeros(1, 4, 2, 2)
    with pytest.raises(AnalysisError, match="steps: got 1, takes 2 or more"):
        metric_at(autoencoder, latent, steps=1)
    with pytest.raises(AnalysisError, match="probes: got 0"):
        metric_at(autoencoder, latent, probes=0)
    with pytest.raises(AnalysisError, match=r"sigmas: got \[0.5, 0.1\], takes positive numbers in ascending order"):
        study_taylor(autoencoder, latent, sigmas=(0.5, 0.1))
