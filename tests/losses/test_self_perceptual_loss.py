"""The Self-Perceptual loss with hidden states that can be written down."""

from __future__ import annotations

import pytest
import torch

from lpl import DDPM, FlowOT
from lpl.losses import SelfPerceptualLoss


class Linear:
    """h(z, t, c) = scale_c · z · W over channels; remembers what it was called with."""

    def __init__(self):
        self.weight = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        self.calls = []

    def __call__(self, noisy, conditioning, labels):
        self.calls.append((noisy.detach(), conditioning, labels, torch.is_grad_enabled()))
        return torch.einsum("bchw,cd->bhwd", noisy, self.weight) * (1 + labels).reshape(-1, 1, 1, 1)


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(1)
    prediction, target, noise = (torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=generator) for _ in range(3))
    return prediction, target, noise, torch.tensor([0, 1, 2, 3])


def expected(prediction, target, labels, a, weight):
    """With one noise for both it cancels: mean of (c · a_t' (ẑ0 − z0) W)²."""
    difference = torch.einsum("bchw,cd->bhwd", prediction - target, weight)
    return ((1 + labels) * a).square() * difference.square().mean((1, 2, 3))


@pytest.mark.parametrize(("path", "times"), [(FlowOT(), [0.1, 0.4, 0.6, 0.9]), (DDPM(), [0, 300, 600, 999])])
def test_one_noise_for_both_cancels_in_a_linear_network(case, path, times):
    prediction, target, noise, labels = case
    hidden, times = Linear(), torch.tensor(times)
    loss = SelfPerceptualLoss(hidden, path)
    terms = loss(prediction, target, noise=noise, timesteps=times, labels=labels, return_terms=True)
    a, b = (value.double() for value in path.coefficients(times))
    values = expected(prediction, target, labels, a, hidden.weight)
    torch.testing.assert_close(terms.per_sample, values)
    assert terms.loss.item() == pytest.approx(values.mean().item())
    (noisy_target, conditioning, seen, with_gradient), second = hidden.calls
    torch.testing.assert_close(noisy_target, a.reshape(-1, 1, 1, 1) * target + b.reshape(-1, 1, 1, 1) * noise)
    assert torch.equal(conditioning, path.conditioning(times))
    assert torch.equal(conditioning, second[1])
    assert torch.equal(seen, labels)
    assert not with_gradient
    assert second[3]


def test_gradient_flows_to_the_prediction_alone(case):
    prediction, target, noise, labels = case
    hidden, times = Linear(), torch.tensor([0.1, 0.4, 0.6, 0.9])
    prediction, target = prediction.requires_grad_(), target.requires_grad_()
    SelfPerceptualLoss(hidden, FlowOT())(prediction, target, noise=noise, timesteps=times, labels=labels).backward()
    values = expected(prediction, target.detach(), labels, (1 - times).double(), hidden.weight)
    torch.testing.assert_close(prediction.grad, torch.autograd.grad(values.mean(), prediction)[0])
    assert target.grad is None


def test_samples_beyond_the_gate_are_left_out_with_their_conditions(case):
    prediction, target, noise, labels = case
    prediction[2] = float("nan")
    hidden, times, sigma = Linear(), torch.tensor([0.1, 0.4, 0.6, 0.9]), torch.tensor([1.0, 2.0, 8.0, 3.0])
    loss = SelfPerceptualLoss(hidden, FlowOT(), sigma_threshold=3.0)
    terms = loss(prediction, target, sigma, noise=noise, timesteps=times, labels=labels, return_terms=True)
    values = expected(prediction, target, labels, (1 - times).double(), hidden.weight)
    torch.testing.assert_close(terms.per_sample, torch.where(labels == 2, 0.0, values))
    assert terms.loss.item() == pytest.approx(values[labels != 2].sum().item() / 4)
    assert hidden.calls[0][2].tolist() == [0, 1, 3]


def test_times_and_noise_are_drawn_where_none_are_given(case):
    prediction, target, _, labels = case
    hidden = Linear()
    loss = SelfPerceptualLoss(hidden, FlowOT())
    for _ in range(2):
        loss(prediction, target, labels=labels)
    first, second = hidden.calls[0], hidden.calls[2]
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])
    assert len(set(first[1].tolist())) == 4


def test_an_impossible_threshold_is_refused():
    with pytest.raises(ValueError, match="sigma_threshold: got -1, takes a positive number, or None"):
        SelfPerceptualLoss(Linear(), FlowOT(), sigma_threshold=-1)
