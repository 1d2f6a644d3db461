"""The variance-matched weight, against numpy's variance of the pooled samples."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lpl.losses.matching import RunningVariance, VarianceMatchedWeight


def _losses(batches, size=16, seed=0):
    generator = np.random.default_rng(seed)
    diffusion = generator.gamma(2.0, 0.5, (batches, size))
    perceptual = generator.gamma(1.0, 3.0, (batches, size)) * (generator.random((batches, size)) < 0.4)  # the gate
    return diffusion, perceptual


def test_weighted_perceptual_variance_is_the_fraction_of_the_diffusion_variance():
    diffusion, perceptual = _losses(batches=6)
    weight = VarianceMatchedWeight(fraction=0.1, batches=6)
    for errors, distances in zip(diffusion, perceptual, strict=True):
        assert weight.value == 0.0
        weight.update(torch.tensor(errors), torch.tensor(distances))
    assert np.var(weight.value * perceptual, ddof=1) == pytest.approx(0.1 * np.var(diffusion, ddof=1), rel=1e-12)


def test_weight_stays_fixed_after_the_last_batch_measured():
    weight = VarianceMatchedWeight(fraction=0.5, batches=2)
    diffusion, perceptual = map(torch.tensor, _losses(batches=3))
    weight.update(diffusion[0], perceptual[0])
    weight.update(diffusion[1], perceptual[1])
    value = weight.value
    weight.update(diffusion[2], 100 * perceptual[2])
    assert weight.fixed
    assert weight.value == value > 0


def test_batches_may_come_pooled():
    diffusion, perceptual = map(torch.tensor, _losses(batches=4))
    single, pooled = (VarianceMatchedWeight(0.1, batches=4) for _ in range(2))
    for errors, distances in zip(diffusion, perceptual, strict=True):
        single.update(errors, distances)
    pooled.update(diffusion.flatten(), perceptual.flatten(), batches=4)
    assert pooled.value == pytest.approx(single.value, rel=1e-12)


def test_state_survives_json_and_measuring_continues_where_it_stopped():
    diffusion, perceptual = map(torch.tensor, _losses(batches=5))
    whole, first = VarianceMatchedWeight(0.1, 5), VarianceMatchedWeight(0.1, 5)
    for errors, distances in zip(diffusion, perceptual, strict=True):
        whole.update(errors, distances)
    for errors, distances in zip(diffusion[:2], perceptual[:2], strict=True):
        first.update(errors, distances)
    second = VarianceMatchedWeight(0.1, 5)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for errors, distances in zip(diffusion[2:], perceptual[2:], strict=True):
        second.update(errors, distances)
    assert second.value == whole.value  # bit for bit
    assert second.state_dict() == whole.state_dict()


def test_running_variance_keeps_its_digits_far_from_zero():
    values = np.random.default_rng(1).normal(1e6, 1e-2, 3000)
    running = RunningVariance()
    for part in np.split(values, 30):
        running.update(torch.tensor(part))
    assert running.variance == pytest.approx(np.var(values, ddof=1), rel=1e-4)


def test_a_gate_that_nothing_passes_is_explained():
    weight = VarianceMatchedWeight(0.1, batches=1)
    with pytest.raises(ValueError, match="raise sigma_threshold so that samples pass the gate"):
        weight.update(torch.rand(4), torch.zeros(4))


def test_a_diffusion_loss_that_does_not_vary_is_explained():
    weight = VarianceMatchedWeight(0.1, batches=1)
    with pytest.raises(ValueError, match="the ℓ2 loss was 1 for all 4 samples of 1 batches"):
        weight.update(torch.ones(4), torch.rand(4))


@pytest.mark.parametrize(
    ("diffusion", "perceptual", "message"),
    [
        (torch.rand(4), torch.rand(3), r"both of shape \(N,\), got \(4,\) and \(3,\)"),
        (torch.rand(2, 2), torch.rand(2, 2), r"got \(2, 2\)"),
        (torch.tensor([1.0, float("nan")]), torch.rand(2), "diffusion: a weight can't be matched"),
        (torch.rand(2), torch.tensor([1.0, float("inf")]), "perceptual: a weight can't be matched"),
    ],
)
def test_unusable_losses_are_refused(diffusion, perceptual, message):
    with pytest.raises(ValueError, match=message):
        VarianceMatchedWeight(0.1, batches=2).update(diffusion, perceptual)


@pytest.mark.parametrize(("argument", "value"), [("fraction", 0.0), ("batches", 0)])
def test_impossible_settings_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"{argument}: got {value}"):
        VarianceMatchedWeight(**{argument: value})
