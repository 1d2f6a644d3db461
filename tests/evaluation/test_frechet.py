"""Fréchet distance against scipy's matrix root, torchmetrics and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from lpl.evaluation import frechet_distance
from lpl.evaluation.checks import TooFewSamplesError
from lpl.evaluation.frechet import Gaussian, few_samples_caution, fit_gaussian, gaussian_frechet_distance


def draw(count: int, dimensions: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    offset = torch.randn(dimensions, generator=generator, dtype=torch.float64)
    return torch.randn(count, dimensions, generator=generator, dtype=torch.float64) @ mixing + offset


def test_well_conditioned_gaussians_equal_scipys_root() -> None:
    first, second = draw(200, 12, seed=1), draw(300, 12, seed=2)
    covariances = [np.cov(x.numpy(), rowvar=False) for x in (first, second)]
    shift = (first.mean(dim=0) - second.mean(dim=0)).square().sum().item()
    root = linalg.sqrtm(covariances[0] @ covariances[1])
    expected = shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(root).real
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-9)


def test_equals_torchmetrics() -> None:
    first, second = torch.rand(60, 3, 2, 2), torch.rand(70, 3, 2, 2) ** 2
    metric = FrechetInceptionDistance(nn.Flatten(), normalize=True, input_img_size=(3, 2, 2)).set_dtype(torch.float64)
    metric.update(first, real=False)
    metric.update(second, real=True)
    assert frechet_distance(first.flatten(1), second.flatten(1)) == pytest.approx(metric.compute().item(), rel=1e-5)


@pytest.mark.parametrize("zeros", [0, 5])
def test_commuting_covariances_equal_the_closed_form_even_if_singular(zeros: int) -> None:
    spreads = torch.linspace(0.1, 3, 20).double(), torch.linspace(2, 0.5, 20).double()
    if zeros:
        spreads[0][:zeros] = 0
        spreads[1][-zeros:] = 0
    turn = torch.linalg.qr(draw(20, 20))[0]
    gaussians = [
        Gaussian(torch.full((20,), i / 2).double(), turn @ s.square().diag() @ turn.T) for i, s in enumerate(spreads)
    ]
    expected = 20 * 0.25 + (spreads[0] - spreads[1]).square().sum().item()
    assert gaussian_frechet_distance(*gaussians) == pytest.approx(expected, rel=1e-6)


def test_one_dimension_is_the_squared_wasserstein_distance_of_gaussians() -> None:
    first = Gaussian(torch.tensor([1.0]).double(), torch.tensor([[4.0]]).double())
    second = Gaussian(torch.tensor([-2.0]).double(), torch.tensor([[9.0]]).double())
    assert gaussian_frechet_distance(first, second) == pytest.approx(3**2 + 1)


def test_equal_and_nearly_constant_features_are_at_zero() -> None:
    features = draw(100, 8)
    features[:, 3] = 0.25
    assert frechet_distance(features, features.clone()) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(features, features + 2) == pytest.approx(8 * 4, rel=1e-9)


def test_a_large_offset_costs_no_digits() -> None:
    first, second = draw(100, 6, seed=1), draw(100, 6, seed=2)
    assert frechet_distance(first + 1e5, second + 1e5) == pytest.approx(frechet_distance(first, second), rel=1e-6)


def test_half_precision_features_are_measured_in_double() -> None:
    features = draw(50, 4)
    gaussian = fit_gaussian(features.half())
    np.testing.assert_allclose(gaussian.covariance.numpy(), np.cov(features.half().double().numpy(), rowvar=False))


def test_too_few_samples_are_refused_with_the_number_that_would_do() -> None:
    with pytest.raises(TooFewSamplesError, match=r"20 samples can't .* 20 features; at least 21 are needed"):
        frechet_distance(draw(20, 20), draw(50, 20))
    with pytest.raises(TooFewSamplesError, match="5 reference images"):
        frechet_distance(draw(50, 20), draw(5, 20))
    with pytest.raises(TooFewSamplesError, match="at least 2 samples, got 1"):
        fit_gaussian(draw(1, 3))


def test_small_sets_are_remarked_upon() -> None:
    assert "200 samples and 5000 reference images for 64 features" in str(few_samples_caution(200, 5000, 64))
    assert few_samples_caution(640, 5000, 64) is None


def test_bad_features_are_named() -> None:
    with pytest.raises(ValueError, match="samples have 3 features an image and the reference 4"):
        frechet_distance(draw(10, 3), draw(10, 4))
    with pytest.raises(ValueError, match=r"samples: expected shape \(N, D\), got \(10, 3, 1\)"):
        frechet_distance(draw(10, 3)[..., None], draw(10, 3))
    with pytest.raises(ValueError, match="reference: some features are NaN"):
        frechet_distance(draw(10, 3), draw(10, 3) * torch.nan)
    with pytest.raises(TypeError, match="samples: expected a float tensor .* got torch.int64"):
        frechet_distance(torch.ones(10, 3, dtype=torch.long), draw(10, 3))
