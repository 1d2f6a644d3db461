from __future__ import annotations

import pytest
import torch

from benchmarks.decoders import make_autoencoder
from benchmarks.modes import Inputs, differentiated
from benchmarks.plain import PlainLatentPerceptualLoss, decoder_features, outlier_mask
from lpl import LatentPerceptualLoss
from lpl.losses import NORMALIZATIONS


def inputs(channels: int, side: int) -> Inputs:
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(3, channels, side, side, generator=generator, dtype=torch.float64)
    target[:, :, 4, 4] *= 30  # stands out, so that something is masked
    prediction = target + 0.3 * torch.randn(target.shape, generator=generator, dtype=torch.float64)
    return Inputs(prediction, target, torch.tensor([0.5, 7.0, 3.0]))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(("decoder", "channels"), [("tiny", 4), ("taef2", 32)])
def test_equals_the_packages_loss_in_float64(decoder: str, channels: int, normalization: str) -> None:
    model = make_autoencoder(decoder).double()
    if decoder == "tiny":
        model.register_to_config(scaling_factor=0.25)  # which float32 holds exactly
    values = inputs(channels, 8)
    ours = differentiated(LatentPerceptualLoss(model, normalization=normalization), values)
    plain = differentiated(PlainLatentPerceptualLoss(model, normalization), values)
    assert ours.loss is not None
    assert plain.loss is not None
    assert plain.loss.item() == pytest.approx(ours.loss.item(), rel=1e-10)
    assert (plain.gradient - ours.gradient).norm() <= 1e-10 * ours.gradient.norm()
    assert not plain.gradient[1].any()  # σ above τ_σ
    assert plain.gradient[0].any()


def test_something_is_masked_where_the_two_are_compared() -> None:
    stages = PlainLatentPerceptualLoss(make_autoencoder("tiny").double()).stages
    with torch.no_grad():
        *_, finest = decoder_features(stages, inputs(4, 8).target)
    assert 0 < (outlier_mask(finest, 1.0) == 0).double().mean() < 0.1


def test_refuses_a_decoder_it_can_not_call() -> None:
    with pytest.raises(ValueError, match="Linear, takes AutoencoderKL or TAEF2"):
        PlainLatentPerceptualLoss(torch.nn.Linear(2, 2))


def test_the_same_seed_gives_the_same_weights_and_leaves_the_generator_alone() -> None:
    state = torch.get_rng_state()
    first, second, third = make_autoencoder("tiny"), make_autoencoder("tiny"), make_autoencoder("tiny", seed=1)
    assert torch.equal(state, torch.get_rng_state())
    for a, b, c in zip(first.parameters(), second.parameters(), third.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.numel() == 1 or not a.any() or a.eq(1).all() or not torch.equal(a, c)


def test_names_the_decoders_there_are() -> None:
    with pytest.raises(ValueError, match="got 'nothing', takes sd, sdxl"):
        make_autoencoder("nothing")
