from __future__ import annotations

import numpy as np
import pytest
import torch

import zoo
from lpl import LatentPerceptualLoss
from lpl.analysis import AnalysisError, fit_gaussian
from lpl.analysis.gradients import COMPARISONS, PRINTED, GradientStudy, study_gradients
from lpl.analysis.inputs import decoder_features
from lpl.analysis.mixture import (
    alignment,
    block_shares,
    contrast_pull,
    gradient_ratio,
    gradient_ratios,
    matched_weight,
    noise_mixture,
    typical_ratio,
    weights_of,
)
from lpl.autoencoders import Autoencoder
from lpl.config import ObjectiveConfig, PerceptualConfig
from lpl.diffusion import DDPM, FlowOT
from lpl.losses.matching import VarianceMatchedWeight
from lpl.training.objective import Objective, TrainingBatch

SIGMAS = (0.3, 1.0, 4.0)


class Shrunken:
    """ẑ0 = 0.8 z0 + 0.1 σ ε: known, cheap and wrong."""

    name = "shrunken"

    def __call__(self, clean, noise, sigma, indices):
        return 0.8 * clean + 0.1 * sigma * noise


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    return Autoencoder(zoo.make("stable_diffusion"))


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.fixture(scope="module")
def study(autoencoder, latents) -> GradientStudy:
    features = decoder_features(autoencoder, ["mid_block", "up_blocks.0", "up_blocks.3"])
    return study_gradients(features, Shrunken(), FlowOT(), latents, SIGMAS, batch_size=2)


class Recorder(Shrunken):
    """Remembers every prediction by noise and image."""

    def __init__(self) -> None:
        self.seen: dict[tuple[float, int], torch.Tensor] = {}

    def __call__(self, clean, noise, sigma, indices):
        predicted = super().__call__(clean, noise, sigma, indices)
        self.seen |= {(sigma, int(i)): value for i, value in zip(indices, predicted, strict=True)}
        return predicted


def test_losses_gradients_and_products_are_the_losses_own(autoencoder, latents) -> None:
    """One sample's loss and gradient by `LatentPerceptualLoss` and autograd, for a weighted pair of blocks."""
    recorder, blocks = Recorder(), ["mid_block", "up_blocks.1"]
    study = study_gradients(decoder_features(autoencoder, blocks), recorder, FlowOT(), latents, (0.3, 1.0))
    predicted = recorder.seen[1.0, 2][None].clone().requires_grad_()
    perceptual = LatentPerceptualLoss(autoencoder.model, blocks, sigma_threshold=None, variance_floor=1e-6)
    loss = perceptual(predicted, latents[2:3])
    (gradient,) = torch.autograd.grad(loss, predicted)
    weights = weights_of(study, blocks)
    assert weights.tolist() == [1.0, 0.25]
    assert float(study.loss[1, 2] @ weights) == pytest.approx(loss.item(), rel=1e-4)
    gram = study.gram[1, 2]
    assert float(weights @ gram[:2, :2] @ weights) == pytest.approx(gradient.square().sum().item(), rel=1e-3)
    error = predicted.detach() - latents[2:3]
    assert float(gram[:2, 2] @ weights) == pytest.approx((gradient * error).sum().item(), rel=1e-3)
    assert float(gram[2, 2]) == pytest.approx(error.square().sum().item(), rel=1e-5)
    centred = predicted.detach() - latents.mean(dim=(0, 2, 3))[:, None, None]
    assert float(gram[3, 3]) == pytest.approx(centred.square().sum().item(), rel=1e-5)
    cosine = torch.nn.functional.cosine_similarity(gradient.flatten(), error.flatten(), dim=0)
    one = GradientStudy(**(vars(study) | {"gram": study.gram[:, 2:], "loss": study.loss[:, 2:]}))
    assert alignment(one, weights)[1].item() == pytest.approx(cosine.item(), rel=1e-3)
    pull = -torch.nn.functional.cosine_similarity(gradient.flatten(), centred.flatten(), dim=0)
    assert contrast_pull(one, weights)[1].item() == pytest.approx(pull.item(), rel=1e-3)


def test_image_numbers_reach_the_predictor(autoencoder, latents) -> None:
    recorder = Recorder()
    features = decoder_features(autoencoder, ["mid_block"])
    study_gradients(features, recorder, FlowOT(), latents, (0.3,), image_numbers=torch.tensor([4, 8, 9]))
    assert sorted(recorder.seen) == [(0.3, 4), (0.3, 8), (0.3, 9)]


def test_reliability_of_latents_and_features(study, autoencoder, latents) -> None:
    centred = latents - latents.mean(dim=(0, 2, 3))[:, None, None]
    error = study.gram[:, :, -2, -2].mean(dim=1) / 64
    torch.testing.assert_close(study.reliability, 1 - error / centred.square().mean().double())
    assert (study.reliability.diff() < 0).all()
    recorder, features = Recorder(), decoder_features(autoencoder, ["mid_block"])
    one = study_gradients(features, recorder, FlowOT(), latents, (1.0,))
    with torch.no_grad():
        truth = features(latents)["mid_block"].double().numpy()
        guess = features(torch.stack([recorder.seen[1.0, i] for i in range(3)]))["mid_block"].double().numpy()
    expected = 1 - ((guess - truth) ** 2).mean(axis=(0, 2, 3)).sum() / truth.var(axis=(0, 2, 3)).sum()
    assert one.feature_reliability.item() == pytest.approx(expected, rel=1e-3)


def test_shares_add_up(study) -> None:
    mixture = noise_mixture(FlowOT(), study.sigmas, threshold=3.0)
    shares = block_shares(study, weights_of(study, study.blocks), mixture.passed)
    assert shares.sum().item() == pytest.approx(1.0)
    alone = block_shares(study, weights_of(study, ["up_blocks.0"]), mixture.passed)
    assert alone.tolist() == pytest.approx([0.0, 1.0, 0.0])


def test_concentration_is_the_share_of_the_top_tenth(autoencoder, latents, study) -> None:
    assert set(study.concentration) == set(study.by_comparison) == {entry.name for entry in (PRINTED, *COMPARISONS)}
    for values in study.concentration.values():
        assert ((values > 0.09) & (values <= 1)).all()
    torch.testing.assert_close(study.by_comparison[PRINTED.name], study.loss.mean(dim=1), rtol=1e-4, atol=1e-7)


def test_mixture_counts_times_as_training_draws_them() -> None:
    sigmas = torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)
    mixture = noise_mixture(FlowOT(), sigmas, threshold=3.0)
    normal = torch.distributions.Normal(0.0, 1.0)  # log σ of Flow-OT's logit-normal times
    borders = [float(normal.cdf(torch.tensor(x).log())) for x in (0.2**0.5, 5**0.5)]
    expected = [borders[0], borders[1] - borders[0], 1 - borders[1]]
    assert mixture.everywhere.tolist() == pytest.approx(expected, abs=4e-3)
    assert mixture.mass.sum().item() == pytest.approx(1.0)
    assert mixture.passed.sum().item() == pytest.approx(float(normal.cdf(torch.tensor(3.0).log())), abs=4e-3)
    assert noise_mixture(FlowOT(), sigmas, None).passed.sum().item() == pytest.approx(1.0)
    ddpm = noise_mixture(DDPM(), sigmas, threshold=3.0)
    drawn = DDPM().sigma(torch.arange(1000))
    assert ddpm.passed.sum().item() == pytest.approx((drawn <= 3).float().mean().item(), abs=4e-3)


@pytest.mark.parametrize("path", [FlowOT(), DDPM("v_prediction"), DDPM("epsilon")])
def test_ratio_is_the_one_that_training_logs(path, autoencoder, latents) -> None:
    """At one noise level: the objective's own gradient ratio, its denoiser made to predict what was studied."""
    sigma, blocks = 1.0, ["mid_block", "up_blocks.1"]
    recorder = Recorder()
    study = study_gradients(decoder_features(autoencoder, blocks), recorder, path, latents, (sigma,))
    from lpl.analysis.predictors import timestep_at

    times = timestep_at(path, sigma).expand(3)
    predicted = torch.stack([recorder.seen[sigma, i] for i in range(3)])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5))
    noisy = path.add_noise(latents, noise, times)
    zero, one = (path.predicted_latent(torch.full_like(noisy, v), noisy, times) for v in (0.0, 1.0))
    output = ((predicted - zero) / (one - zero)).detach().requires_grad_()  # ẑ0 is affine in the output
    config = ObjectiveConfig(
        perceptual=PerceptualConfig(weight=1.0, blocks=tuple(blocks), sigma_threshold=None, variance_floor=1e-6)
    )
    batch = TrainingBatch(latents, noise, times, torch.zeros(3, dtype=torch.long))
    _, terms = Objective(path, autoencoder, config)(lambda *_: output, batch, gradient_ratio=True)
    weights, mixture = weights_of(study, blocks), noise_mixture(path, study.sigmas, None)
    assert gradient_ratio(study, weights, mixture) == pytest.approx(float(terms["gradient_ratio"]), rel=1e-3)
    assert gradient_ratios(study, weights).item() == pytest.approx(float(terms["gradient_ratio"]), rel=1e-3)
    assert float(study.diffusion_loss.mean()) == pytest.approx(float(terms["loss/diffusion"]), rel=1e-3)


def test_matched_weight_is_that_of_the_samples_drawn(study) -> None:
    """The mixture's variance against `VarianceMatchedWeight` on samples drawn from it."""
    weights, mixture = weights_of(study, study.blocks), noise_mixture(FlowOT(), study.sigmas, 3.0)
    draw = np.random.default_rng(0)
    cells = draw.choice(6, size=60_000, p=mixture.mass.flatten().numpy() / float(mixture.mass.sum()))
    level, is_open, image = cells // 2, cells % 2, draw.integers(0, 3, size=60_000)
    diffusion = study.diffusion_loss.numpy()[level, image]
    perceptual = (study.loss @ weights).numpy()[level, image] * is_open
    matched = VarianceMatchedWeight(0.1, batches=1)
    matched.update(torch.tensor(diffusion), torch.tensor(perceptual))
    assert matched_weight(study, weights, mixture, 0.1) == pytest.approx(matched.value, rel=0.02)


def test_a_typical_ratio_ignores_a_few_magnified_samples(study) -> None:
    weights, mixture = weights_of(study, study.blocks), noise_mixture(FlowOT(), study.sigmas, None)
    gram = study.gram.clone()
    gram[2, 0, :3, :3] *= 1e8
    harmed = GradientStudy(**(vars(study) | {"gram": gram}))
    assert gradient_ratio(harmed, weights, mixture) > 10 * gradient_ratio(study, weights, mixture)
    assert typical_ratio(harmed, weights, mixture) < 3 * typical_ratio(study, weights, mixture)


def test_a_gaussian_may_predict(autoencoder, latents) -> None:
    found = study_gradients(
        decoder_features(autoencoder, ["mid_block"]), fit_gaussian(latents), DDPM(), latents, (0.2, 2.0)
    )
    assert found.reliability[0] > found.reliability[1]
    assert found.predictor.startswith("Gaussian")


def test_impossible_settings_are_named(autoencoder, latents) -> None:
    features = decoder_features(autoencoder)
    with pytest.raises(AnalysisError, match=r"sigmas: got \[0.0, 1.0\], takes positive"):
        study_gradients(features, Shrunken(), FlowOT(), latents, (0.0, 1.0))
