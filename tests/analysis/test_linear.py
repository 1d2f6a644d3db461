from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lpl.analysis import AnalysisError, check_linear_decoder
from lpl.analysis.linear import (
    SHAPES,
    PosteriorPair,
    divergence_terms,
    exact_divergence,
    penalty_bound,
    pseudo_metric,
    quadratic_penalty,
)


def decoder(n: int, m: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, m))


def gaussian_divergence(mean: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """KL(N(0, first) ‖ N(mean, second)) by the textbook formula, in NumPy."""
    inverse = np.linalg.inv(second)
    log_ratio = np.linalg.slogdet(second)[1] - np.linalg.slogdet(first)[1]
    return 0.5 * (np.trace(inverse @ first) + mean @ inverse @ mean - len(mean) + log_ratio)


@pytest.mark.parametrize("shape", ["square", "wide"])
def test_equation_10_is_the_divergence_of_full_rank_gaussians(shape: str) -> None:
    n, m = SHAPES[shape]
    matrix, shift = decoder(n, m), np.random.default_rng(1).normal(size=m)
    covariance = matrix @ matrix.T
    expected = gaussian_divergence(-matrix @ shift, 0.5 * covariance, 0.8 * covariance)
    tensor = torch.tensor(matrix)
    quadratic = quadratic_penalty(tensor, torch.tensor(shift), 0.8).item()
    assert quadratic + divergence_terms(n, 0.5, 0.8)[0] == pytest.approx(expected, rel=1e-7)
    ours = exact_divergence(tensor, PosteriorPair(torch.tensor(shift), 0.5, 0.8)).item()
    assert ours == pytest.approx(expected, rel=1e-7)


def test_for_a_tall_decoder_the_exact_penalty_is_the_latent_loss() -> None:
    """An injective map leaves the divergence as it is, so it equals the latents' own."""
    matrix, shift = decoder(48, 16), np.random.default_rng(2).normal(size=16)
    expected = gaussian_divergence(-shift, 0.5 * np.eye(16), 0.8 * np.eye(16))
    pair = PosteriorPair(torch.tensor(shift), 0.5, 0.8)
    assert exact_divergence(torch.tensor(matrix), pair).item() == pytest.approx(expected, rel=1e-9)
    quadratic = quadratic_penalty(torch.tensor(matrix), torch.tensor(shift), 0.8).item()
    assert quadratic == pytest.approx(shift @ shift / 1.6, rel=1e-9)


def test_a_singular_covariance_takes_the_pseudo_inverse() -> None:
    matrix = decoder(12, 5)
    np.testing.assert_allclose(pseudo_metric(torch.tensor(matrix)), np.linalg.pinv(matrix @ matrix.T), atol=1e-8)


def test_a_decoder_of_lower_rank_works_on_its_range() -> None:
    matrix = torch.tensor(decoder(10, 3) @ decoder(3, 6, seed=4))
    shift = torch.randn(7, 6, dtype=torch.float64)
    pair = PosteriorPair(shift, 0.5, 0.8)
    expected = quadratic_penalty(matrix, shift, 0.8) + divergence_terms(3, 0.5, 0.8)[0]
    torch.testing.assert_close(exact_divergence(matrix, pair), expected, rtol=1e-6, atol=1e-6)


def test_the_printed_constant_is_another_divergence() -> None:
    right, printed = divergence_terms(4, 0.5, 0.8)
    assert right == pytest.approx(2 * (math.log(1.6) + 0.5 / 0.8 - 1))
    assert printed == pytest.approx(0.5 * math.log(1.6) + 2 * (1.6 - 1))
    assert divergence_terms(4, 0.7, 0.7) == (0.0, 0.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_bound_and_its_tightness(shape: str) -> None:
    check = check_linear_decoder(shape, shifts=200, samples=4000)
    assert check.rank == min(SHAPES[shape])
    assert (check.tightness >= 1 - 1e-9).all()
    assert check.tightest == pytest.approx(1.0, rel=1e-6)
    assert check.loosest == pytest.approx(check.condition**2, rel=1e-6)
    torch.testing.assert_close(check.divergence, check.closed_form, rtol=1e-6, atol=1e-6)
    assert abs(check.monte_carlo - float(check.divergence[0])) < 4 * check.monte_carlo_error


def test_bound_along_a_singular_vector() -> None:
    matrix = decoder(9, 4)
    _, values, right = np.linalg.svd(matrix, full_matrices=False)
    for value, direction in zip(values, right, strict=True):
        bound = penalty_bound(torch.tensor(matrix), torch.tensor(direction), 2.0).item()
        assert bound == pytest.approx(value**2 / values[-1] ** 2 / 4, rel=1e-9)


def test_impossible_requests_are_named() -> None:
    with pytest.raises(AnalysisError, match="shape: got 'round', takes tall, square, wide"):
        check_linear_decoder("round")
    with pytest.raises(AnalysisError, match="variances: got 0 and 1"):
        check_linear_decoder("tall", true_variance=0.0, model_variance=1.0)
