from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lpl.analysis import AnalysisError, DenoiserPredictor, fit_gaussian
from lpl.analysis.inputs import Pictures
from lpl.analysis.predictors import TrainedRun, output_slope, timestep_at
from lpl.config import Recipe
from lpl.diffusion import DDPM, FlowOT

SIDE = 6


def stationary(count: int, seed: int = 0) -> torch.Tensor:
    """Latents (count, 3, 6, 6) that are periodic, correlated over positions and across channels."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, SIDE, SIDE, generator=generator)
    smooth = noise + 0.9 * sum(noise.roll(shift, dims=axis) for axis in (2, 3) for shift in (-1, 1))
    mixed = torch.einsum("dc,bchw->bdhw", torch.tensor([[1.0, 0.4, 0], [0, 0.7, 0.2], [0.3, 0, 0.5]]), smooth)
    return mixed + torch.tensor([0.5, -1.0, 2.0])[:, None, None]


def dense_posterior(mean: np.ndarray, covariance: np.ndarray, observed: np.ndarray, sigma: float) -> np.ndarray:
    """E[z0 | z0 + σε] by the textbook formula."""
    gain = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(len(covariance)))
    return mean + (observed - mean) @ gain.T


@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_without_neighbours_it_is_gaussian_conditioning_by_position(sigma: float) -> None:
    latents = stationary(50)
    gaussian = fit_gaussian(latents, neighbours=False)
    observed = latents[:4] + sigma * torch.randn(4, 3, SIDE, SIDE)
    points = latents.permute(0, 2, 3, 1).reshape(-1, 3).double().numpy()
    expected = dense_posterior(
        points.mean(axis=0),
        np.cov(points.T, bias=True),
        observed.permute(0, 2, 3, 1).reshape(-1, 3).double().numpy(),
        sigma,
    )
    actual = gaussian.posterior_mean(observed, sigma).permute(0, 2, 3, 1).reshape(-1, 3)
    np.testing.assert_allclose(actual, expected, atol=2e-4)


def test_with_neighbours_it_comes_near_the_best_linear_predictor() -> None:
    """The stationary model, fitted to many samples, does about as well as the true covariance of all positions."""
    sigma, test = 1.5, stationary(400, seed=2)
    noisy = test + sigma * torch.randn(test.shape, generator=torch.Generator().manual_seed(3))
    many = stationary(4000, seed=1).flatten(1).double().numpy()
    best = dense_posterior(many.mean(0), np.cov(many.T), noisy.flatten(1).double().numpy(), sigma)
    errors = {
        "best": np.square(best - test.flatten(1).double().numpy()).mean(),
        "neighbours": (fit_gaussian(stationary(200)).posterior_mean(noisy, sigma) - test).square().mean().item(),
        "alone": (fit_gaussian(stationary(200), False).posterior_mean(noisy, sigma) - test).square().mean().item(),
    }
    assert errors["neighbours"] < 1.15 * errors["best"]
    assert errors["alone"] > 1.3 * errors["best"]


@pytest.mark.parametrize("neighbours", [True, False])
def test_explained_share_is_the_one_met(neighbours: bool) -> None:
    latents = stationary(400)
    gaussian = fit_gaussian(latents, neighbours)
    noisy = latents + 1.0 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(4))
    error = (gaussian.posterior_mean(noisy, 1.0) - latents).square().mean()
    variance = (latents - latents.mean(dim=(0, 2, 3))[:, None, None]).square().mean()
    assert gaussian.explained(1.0) == pytest.approx(1 - float(error / variance), abs=0.02)


def test_times_and_slopes_of_every_path() -> None:
    assert timestep_at(FlowOT(), 3.0).item() == 0.75
    assert output_slope(FlowOT(), 3.0) == pytest.approx(0.75)
    for prediction, slope in (
        ("epsilon", lambda a, b: b / a),
        ("v_prediction", lambda a, b: b),
        ("sample", lambda *_: 1),
    ):
        path = DDPM(prediction)
        time = timestep_at(path, 2.0)
        a, b = (float(value) for value in path.coefficients(time))
        assert b / a == pytest.approx(2.0, rel=0.01)
        assert output_slope(path, 2.0) == pytest.approx(slope(a, b), rel=1e-5)


class Exact(nn.Module):
    """A denoiser that remembers what it should say, and which labels it was asked for."""

    null_label = 7

    def __init__(self, target: torch.Tensor) -> None:
        super().__init__()
        self.target = target
        self.labels = torch.empty(0)

    def forward(self, latents: torch.Tensor, conditioning: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.labels = labels
        return self.target


@pytest.mark.parametrize("path", [FlowOT(), DDPM("epsilon"), DDPM("v_prediction"), DDPM("sample")])
def test_an_exact_denoiser_predicts_the_clean_latent(path) -> None:
    clean, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    time = timestep_at(path, 1.3).expand(2)
    denoiser = Exact(path.target(clean, noise, time))
    predictor = DenoiserPredictor(denoiser, path, torch.tensor([3, 4, 5]), "exact")
    predicted = predictor(clean, noise, 1.3, torch.tensor([2, 0]))
    torch.testing.assert_close(predicted, clean, atol=1e-4, rtol=1e-4)
    assert denoiser.labels.tolist() == [5, 3]


def pictures(classes: tuple[str, ...]) -> Pictures:
    return Pictures(torch.zeros(2, 3, 8, 8), ("a", "b"), "folder", "train", 2, "0", (1, 0), classes)


def test_classes_are_used_where_the_run_knows_them() -> None:
    run = TrainedRun(Exact(torch.zeros(1)), Recipe(), ("cat", "dog"), "run")
    assert run.predictor(pictures(("cat", "dog"))).labels.tolist() == [1, 0]
    other = run.predictor(pictures(("sea", "hill")))
    assert other.labels.tolist() == [7, 7]
    assert other.name == "run, without classes"


def test_a_denoiser_that_always_had_a_class_needs_one() -> None:
    run = TrainedRun(Exact(torch.zeros(1)), Recipe(denoiser={"label_dropout": 0.0}), ("cat",), "run")
    with pytest.raises(AnalysisError, match="knows the classes cat and was never trained without one"):
        run.predictor(pictures(("sea", "hill")))
