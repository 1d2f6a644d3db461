from __future__ import annotations

import pytest
import torch

import zoo
from lpl import LatentPerceptualLoss
from lpl.analysis.distances import Comparison, block_distances, depth_weights, down_factors, masks_of
from lpl.autoencoders import DecoderFeatures
from lpl.losses import NORMALIZATIONS


@pytest.mark.parametrize("name", ["stable_diffusion", "taef2", "flux2"])
def test_the_parts_are_those_of_the_loss(name: str) -> None:
    """Blocks times depth weights add up to the loss, sample by sample, for every normalisation and mask."""
    model = zoo.make(name)
    features = DecoderFeatures(model)
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(2, features.scaling.channels or 32, 6, 6, generator=generator)
    prediction = target + 0.3 * torch.randn(target.shape, generator=generator)
    with torch.no_grad():
        ours, theirs = features(prediction), features(target)
    weights = torch.tensor(list(depth_weights(theirs).values()))
    for normalization, masked in [
        *((name, "all") for name in NORMALIZATIONS),
        ("prediction", "deep"),
        ("target", "none"),
    ]:
        masks = masks_of(theirs, down_factors(features, target, theirs), masked)
        loss = LatentPerceptualLoss(model, sigma_threshold=None, normalization=normalization, outliers=masked)
        terms = loss(prediction, target, return_terms=True)
        distances = block_distances(ours, theirs, masks, Comparison(normalization))
        torch.testing.assert_close(weights @ distances, terms.per_sample, rtol=1e-4, atol=1e-6)
        expected = torch.stack(list(terms.blocks.values()))
        torch.testing.assert_close(weights * distances.mean(dim=1), expected, rtol=1e-4, atol=1e-6)


def test_down_factors_are_those_of_the_decoder() -> None:
    model = zoo.make("stable_diffusion")
    features = DecoderFeatures(model, ["mid_block", "up_blocks.1"])
    latents = torch.zeros(1, 4, 4, 4)
    assert down_factors(features, latents, features(latents)) == {"mid_block": 8.0, "up_blocks.1": 2.0}


def test_the_variance_floor_is_the_losses() -> None:
    model = zoo.make("taef2")
    features = DecoderFeatures(model)
    target = torch.randn(2, 32, 5, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = features(0.5 * target), features(target)
    for floor in (1e-6, 0.5):
        terms = LatentPerceptualLoss(model, sigma_threshold=None, outliers="none", variance_floor=floor)(
            0.5 * target, target, return_terms=True
        )
        distances = block_distances(ours, theirs, dict.fromkeys(theirs), Comparison("prediction", floor))
        weights = torch.tensor(list(depth_weights(theirs).values()))
        torch.testing.assert_close(weights @ distances, terms.per_sample, rtol=1e-4, atol=1e-6)
