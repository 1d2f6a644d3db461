from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from lpl import LatentPerceptualLoss
from lpl.analysis import AnalysisError
from lpl.analysis.agreement import gradient_agreement
from lpl.losses.estimators import EveryKth, RandomWindows
from lpl.losses.estimators.base import Estimator
from lpl.losses.perceptual import PerceptualTerms

SHAPE = (2, 3, 8, 8)


class HalfSquare(nn.Module):
    """½‖ẑ0 − z0‖², whose gradient is the error."""

    sigma_threshold = None

    def forward(self, prediction, target, sigma=None, return_terms=False):
        loss = (prediction - target).square().sum() / 2
        return PerceptualTerms(loss, {}, {}, len(loss.shape), loss.detach()) if return_terms else loss


class Noisy(Estimator):
    """A gradient with a known bias, in a known direction, and noise of a known strength at every step."""

    def __init__(self, loss: nn.Module, bias: torch.Tensor, strength: float) -> None:
        super().__init__(loss)
        self.bias = bias
        self.strength = strength

    def estimate(self, prediction, target, sigma):
        noise = self.strength * torch.randn(SHAPE, generator=self.generator(), dtype=torch.float64)
        loss = self.loss(prediction, target) + ((self.bias + noise) * prediction).sum()
        return PerceptualTerms(loss, {}, {}, 0, loss.detach())


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, None]:
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
    return pair[0], pair[1], None


def test_figures_of_a_known_bias_and_variance(batch) -> None:
    gradient = batch[0] - batch[1]
    norm, dimension = gradient.norm().item(), gradient.numel()
    across = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    across -= (across * gradient).sum() / norm**2 * gradient
    bias = 0.5 * norm * across / across.norm()
    strength = 0.4 * norm / dimension**0.5
    found = gradient_agreement(HalfSquare(), Noisy(HalfSquare(), bias, strength), batch, draws=200, timed=1)
    assert found.draws == 200
    assert found.bias == pytest.approx(0.5, rel=0.02)
    assert found.variance == pytest.approx(0.4**2, rel=0.05)
    assert found.bias_resolution == pytest.approx(0.4 / 200**0.5, rel=0.05)
    assert found.relative_error == pytest.approx((0.5**2 + 0.4**2) ** 0.5, rel=0.02)
    assert found.cosine == pytest.approx(1 / (1 + 0.5**2 + 0.4**2) ** 0.5, rel=0.02)
    assert found.cosine_of_mean == pytest.approx(1 / (1 + 0.5**2) ** 0.5, rel=0.01)


def test_without_a_bias_none_is_found(batch) -> None:
    found = gradient_agreement(HalfSquare(), Noisy(HalfSquare(), torch.zeros(SHAPE), 1.0), batch, draws=300, timed=1)
    assert found.bias < 2 * found.bias_resolution
    assert found.cosine_of_mean > 0.99


def test_steps_without_a_gradient(batch) -> None:
    """Three draws in four are zero, the fourth is four times the gradient."""
    found = gradient_agreement(HalfSquare(), EveryKth(HalfSquare(), k=4), batch, draws=8, timed=1)
    assert found.cosine == pytest.approx(0.25)
    assert found.bias == 0
    assert found.loss == pytest.approx(1)
    assert found.relative_error == pytest.approx(3**0.5)
    assert found.variance == pytest.approx(3 * 8 / 7)


def test_time_and_memory_of_a_window() -> None:
    exact = LatentPerceptualLoss(zoo.make("tiny"), normalization="none", outliers="none")
    latents = torch.randn(2, 1, 4, 32, 32, generator=torch.Generator().manual_seed(2))
    windows = RandomWindows(exact, window=8, margin=0)
    found = gradient_agreement(exact, windows, (*latents, torch.ones(1)), draws=2, timed=2, counted=2)
    assert found.kept_ratio == pytest.approx(1 / 16, rel=0.1)
    assert 0 < found.time_ratio < 0.6
    assert found.exact_bytes > 0


def test_another_decoders_loss_is_taken_once() -> None:
    exact, other = (LatentPerceptualLoss(zoo.make("tiny", seed)) for seed in (0, 1))
    latents = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    found = gradient_agreement(exact, other, (*latents, torch.ones(1)), draws=50, timed=1)
    assert found.draws == 1
    assert found.variance == 0
    assert found.bias == pytest.approx(found.relative_error)
    same = gradient_agreement(exact, exact, (*latents, torch.ones(1)), timed=1)
    assert same.cosine == pytest.approx(1)
    assert same.bias == pytest.approx(0, abs=1e-6)


def test_refuses_what_it_cannot_measure(batch) -> None:
    with pytest.raises(AnalysisError, match="draws: got 1, takes at least 2"):
        gradient_agreement(HalfSquare(), EveryKth(HalfSquare(), k=2), batch, draws=1)
    with pytest.raises(AnalysisError, match="batch: the exact loss has no gradient there"):
        gradient_agreement(HalfSquare(), HalfSquare(), (batch[0], batch[0], None))
