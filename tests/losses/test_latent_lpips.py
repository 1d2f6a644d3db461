"""LatentLPIPS against the equation in NumPy, finite differences, and E-LatentLPIPS's own computation."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lpl.losses import LatentLPIPS, LatentVGG


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    model = LatentVGG(4, 3, width=4)
    for _ in range(3):
        model.train()(torch.randn(16, 4, 8, 8))
    return model.eval()


@pytest.fixture(scope="module")
def latents():
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(4, 4, 8, 8, generator=generator)
    return target + 0.3 * torch.randn(target.shape, generator=generator), target, torch.tensor([0.5, 9.0, 2.0, 3.0])


def equation(predictions, targets, weights=None):
    """Each sample's distance with loops over layers and positions, in float64."""
    totals = np.zeros(len(targets[0]))
    for layer, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        height, width = target.shape[-2:]
        for sample in range(len(target)):
            for row in range(height):
                for column in range(width):
                    a, b = (f[sample, :, row, column].double().numpy() for f in (prediction, target))
                    squares = (a / np.sqrt((a**2).sum() + 1e-6) - b / np.sqrt((b**2).sum() + 1e-6)) ** 2
                    if weights is not None:
                        squares = squares * weights[layer]
                    totals[sample] += squares.sum() / (height * width)
    return totals


@torch.no_grad()
def test_equals_the_equation_with_and_without_the_gate(classifier, latents):
    prediction, target, sigma = latents
    expected = equation(classifier.features(prediction), classifier.features(target))
    open_terms = LatentLPIPS(classifier)(prediction, target, return_terms=True)
    np.testing.assert_allclose(open_terms.per_sample.numpy(), expected, rtol=1e-4)
    assert open_terms.loss.item() == pytest.approx(expected.mean(), rel=1e-4)
    assert sum(value.item() for value in open_terms.layers.values()) == pytest.approx(expected.mean(), rel=1e-4)
    gated = LatentLPIPS(classifier, sigma_threshold=3.0)(prediction, target, sigma, return_terms=True)
    assert gated.passed == 3
    np.testing.assert_allclose(gated.per_sample.numpy(), expected * [1, 0, 1, 1], rtol=1e-4)
    assert gated.loss.item() == pytest.approx((expected * [1, 0, 1, 1]).sum() / 4, rel=1e-4)


def test_gradient_flows_to_the_prediction_alone_and_equals_finite_differences(classifier, latents):
    prediction, target, _ = (value.double() for value in latents)
    distance = LatentLPIPS(classifier, dtype=torch.float64)
    prediction, target = prediction.requires_grad_(), target.requires_grad_()
    distance(prediction, target).backward()
    assert target.grad is None
    direction = torch.randn(prediction.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        above, below = (distance(prediction + step * direction, target) for step in (1e-6, -1e-6))
    assert (prediction.grad * direction).sum().item() == pytest.approx((above - below).item() / 2e-6, rel=1e-4)


def test_latents_beyond_the_gate_never_enter_the_classifier(classifier, latents):
    prediction, target, sigma = latents
    prediction = prediction.clone()
    prediction[1] = float("nan")
    assert torch.isfinite(LatentLPIPS(classifier, sigma_threshold=3.0)(prediction, target, sigma))
    with pytest.raises(ValueError, match="prediction: holds NaN in 1 of the samples"):
        LatentLPIPS(classifier)(prediction, target)
    nothing = LatentLPIPS(classifier, sigma_threshold=0.1)(latents[0].requires_grad_(), target, sigma)
    nothing.backward()
    assert nothing == 0


def test_positions_without_any_feature_have_a_finite_gradient():
    class Dead(nn.Module):
        def forward(self, latents):
            return [torch.relu(latents), latents * 0]

    prediction = torch.full((2, 3, 4, 4), -1.0, requires_grad=True)
    LatentLPIPS(Dead())(prediction, torch.randn(2, 3, 4, 4)).backward()
    assert torch.isfinite(prediction.grad).all()


def test_training_mode_leaves_the_classifier_as_it_was_trained(classifier, latents):
    distance = LatentLPIPS(classifier)
    expected = distance(*latents[:2])
    assert torch.equal(nn.ModuleList([distance]).train()[0](*latents[:2]), expected)
    assert torch.equal(distance(latents[0][:1], latents[1][:1]), distance(latents[0][:1], latents[1][:1]))


def test_half_precision_is_close_and_summed_in_single(classifier, latents):
    exact = LatentLPIPS(classifier)(*latents[:2])
    rough = LatentLPIPS(classifier, dtype=torch.bfloat16)(*latents[:2])
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)


class StandIn(nn.Module):
    """The interface of elatentlpips.ELatentLPIPS, with its forward computation written out and random weights."""

    def __init__(self, pretrained=True, net="vgg16", use_dropout=True, verbose=True, encoder="sd3", augment="bg"):
        super().__init__()
        if augment is not None:
            raise AssertionError("augmentations change what is compared")
        torch.manual_seed(5)
        channels = {"sd15": 4, "sd3": 16}[encoder]
        self.net = Slices(channels)
        self.lins = nn.ModuleList(
            nn.Sequential(nn.Dropout(), nn.Conv2d(width, 1, 1, bias=False)) for width in self.net.widths
        )
        for layer in self.lins:
            layer[1].weight.data.abs_()
        self.eval()

    def distance(self, in0, in1):
        total = 0
        for layer, first, second in zip(self.lins, self.net(in0), self.net(in1), strict=True):
            first, second = (f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10) for f in (first, second))
            total = total + layer((first - second) ** 2).mean((2, 3))[:, 0]
        return total


class Slices(nn.Module):
    widths = (6, 8)

    def __init__(self, channels):
        super().__init__()
        self.slice1 = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(inplace=True))
        self.slice2 = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True))

    def forward(self, latents):
        first = self.slice1(latents)
        return first, self.slice2(first)


def test_published_weights_give_the_packages_own_distance(monkeypatch, latents):
    monkeypatch.setitem(sys.modules, "elatentlpips", types.SimpleNamespace(ELatentLPIPS=StandIn))
    ours = LatentLPIPS.published("sd15")(*latents[:2], return_terms=True).per_sample
    theirs = StandIn(encoder="sd15", augment=None).distance(*latents[:2])
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-3, atol=1e-6)


def test_published_weights_need_their_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "elatentlpips", None)
    with pytest.raises(ImportError, match=r"pip install \"latent-perceptual-loss\[elatentlpips\]\""):
        LatentLPIPS.published("flux")
    with pytest.raises(ValueError, match="encoder: got 'sd4', takes 'sd15', 'sd21', 'sdxl', 'sd3', 'flux'"):
        LatentLPIPS.published("sd4")


class Maps(nn.Module):
    """A classifier of two layers, which gives its maps in whatever way a test asks for."""

    def __init__(self, give: Callable[[list[torch.Tensor]], Any] = list) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1)])
        self.give = give

    def forward(self, latents: torch.Tensor) -> Any:
        first = self.layers[0](latents)
        return self.give([first, self.layers[1](first.relu())])


@pytest.mark.parametrize(
    ("give", "weights", "message"),
    [
        (lambda maps: maps[0], None, r"classifier: gave a tensor of shape \(1, 6, 8, 8\), takes a sequence"),
        (lambda maps: [maps[0].mean(dim=(-2, -1))], None, r"classifier: gave \[\(1, 6\)\], takes a sequence"),
        (list, [torch.ones(6)], "channel_weights: got those of 1 layers, the classifier has 2"),
        (list, [torch.ones(6), torch.ones(5), torch.ones(5)], "channel_weights: got those of 3 layers"),
        (list, [torch.ones(6), -torch.ones(5)], "channel_weights: those of layer 2 hold -1, takes none below 0"),
    ],
)
def test_what_is_no_classifier_or_none_of_its_weights_is_refused(give, weights, message):
    latent = torch.randn(1, 4, 8, 8)
    with pytest.raises(ValueError, match=message):
        LatentLPIPS(Maps(give), channel_weights=weights)(latent + 1, latent)


def test_maps_may_come_as_a_tuple():
    latent = torch.randn(1, 4, 8, 8)
    classifier = Maps(tuple)
    assert LatentLPIPS(classifier)(latent + 1, latent) > 0
