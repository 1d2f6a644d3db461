"""The classifier of latents: VGG16's convolutions, and the frozen trunk that LatentLPIPS runs."""

from __future__ import annotations

import copy

import pytest
import torch

from lpl.losses import LatentVGG
from lpl.losses.latent_vgg import FrozenTrunk


def _trained(**arguments):
    """A small one whose BatchNorms have seen data."""
    torch.manual_seed(0)
    model = LatentVGG(3, 5, width=4, **arguments)
    for _ in range(3):
        model.train()(1 + 2 * torch.randn(8, 3, 8, 8))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, mean=1, std=0.3)
            torch.nn.init.normal_(module.bias, std=0.3)
    return model


def test_convolutions_are_those_of_vgg16_with_batchnorm():
    with torch.device("meta"):
        model, latents = LatentVGG(latent_channels=3, num_classes=10, width=64), torch.zeros(2, 3, 64, 64)
    # torchvision's vgg16_bn has 14,723,136 weights before its classifier, the 4,224 biases of its convolutions included
    assert sum(value.numel() for value in model.stages.parameters()) == 14_723_136 - 4_224
    features = model.features(latents)
    assert [tuple(value.shape[1:]) for value in features] == [
        (64, 64, 64),
        (128, 64, 64),
        (256, 64, 64),
        (512, 64, 64),
        (512, 32, 32),  # E-LatentLPIPS leaves out the first three poolings
    ]


def test_poolings_come_before_the_last_stages():
    sides = [value.shape[-1] for value in LatentVGG(4, 2, width=2, poolings=3).features(torch.zeros(1, 4, 16, 16))]
    assert sides == [16, 16, 8, 4, 2]
    with pytest.raises(ValueError, match="3 of them take latents of 8x8 or more, got 4x8"):
        LatentVGG(4, 2, width=2, poolings=3)(torch.zeros(1, 4, 4, 8))
    with pytest.raises(ValueError, match="poolings: got 5, takes 0 to 4"):
        LatentVGG(4, 2, poolings=5)


def test_the_frozen_trunk_is_the_network_in_evaluation_mode():
    model = _trained().double()
    before = copy.deepcopy(model.state_dict())
    trunk = FrozenTrunk(model).train()
    latents = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    features = trunk(latents)
    reference = model.eval().features(latents)
    for ours, theirs in zip(features, reference, strict=True):
        torch.testing.assert_close(ours, theirs)
    (ours,) = torch.autograd.grad(sum(value.square().sum() for value in features), latents)
    (theirs,) = torch.autograd.grad(sum(value.square().sum() for value in reference), latents)
    torch.testing.assert_close(ours, theirs)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in trunk.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
