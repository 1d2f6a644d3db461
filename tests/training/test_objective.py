"""L_tot against the equations written out, for every path; matching, gradients, and what is logged."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from lpl import DDPM, FlowOT, LatentPerceptualLoss
from lpl.autoencoders import load_autoencoder
from lpl.config import ObjectiveConfig, PerceptualConfig
from lpl.losses.distance import SquaredDistance
from lpl.training.objective import NonFiniteLoss, Objective, TrainingBatch
from lpl.training.terms import PERCEPTUAL_TERMS, TermValues

PATHS = {
    "epsilon": DDPM("epsilon"),
    "v_prediction": DDPM("v_prediction"),
    "sample": DDPM("sample"),
    "flow": FlowOT(),
}


class Output(nn.Module):
    """A denoiser whose output is its parameter, so that gradients at the output are the parameter's."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self, latents, conditioning, labels):
        return self.values * 1.0


@pytest.fixture(scope="module")
def autoencoder(tiny_autoencoder):
    return load_autoencoder(tiny_autoencoder)


def _case(path, size=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clean, noise, output = (torch.randn(size, 4, 8, 8, generator=generator) for _ in range(3))
    times = torch.linspace(0.05, 0.95, size)
    timesteps = times if isinstance(path, FlowOT) else (times * 999).long()
    return TrainingBatch(clean, noise, timesteps, torch.zeros(size, dtype=torch.long)), Output(output)


def _written_out(name, path, batch, output):
    """Per-sample ℓ2, ẑ0 and σ from DESIGN's table, in float64."""
    a, b = (value.double().reshape(-1, 1, 1, 1) for value in path.coefficients(batch.timesteps))
    clean, noise, output = batch.clean.double(), batch.noise.double(), output.detach().double()
    noisy = a * clean + b * noise
    target, predicted = {
        "epsilon": (noise, (noisy - b * output) / a),
        "v_prediction": (a * noise - b * clean, a * noisy - b * output),
        "sample": (clean, output),
        "flow": (noise - clean, noisy - b * output),
    }[name]
    return (output - target).square().mean((1, 2, 3)), predicted, (b / a).flatten()


@pytest.mark.parametrize("name", PATHS)
def test_total_is_diffusion_plus_weighted_perceptual(name, autoencoder):
    path = PATHS[name]
    batch, denoiser = _case(path)
    objective = Objective(path, autoencoder, ObjectiveConfig(perceptual=PerceptualConfig(weight=0.7)))
    loss, terms = objective(denoiser, batch)
    errors, predicted, sigma = _written_out(name, path, batch, denoiser.values)
    perceptual = LatentPerceptualLoss(autoencoder.model)(predicted.float(), batch.clean, sigma.float())
    assert terms["loss/diffusion"].item() == pytest.approx(errors.mean().item(), rel=1e-5)
    assert terms["loss/perceptual"].item() == pytest.approx(perceptual.item(), rel=1e-4)
    assert loss.item() == pytest.approx(errors.mean().item() + 0.7 * perceptual.item(), rel=1e-4)
    assert terms["passed"] == pytest.approx(np.mean(sigma.numpy() <= 3.0))
    blocks = [value.item() for key, value in terms.items() if key.startswith("loss/perceptual/")]
    assert len(blocks) == 3
    assert math.fsum(blocks) == pytest.approx(terms["loss/perceptual"].item(), rel=1e-5)


@pytest.mark.parametrize("name", PATHS)
def test_min_snr_weighs_each_sample(name):
    path = PATHS[name]
    batch, denoiser = _case(path)
    loss, terms = Objective(path, None, ObjectiveConfig(weighting="min_snr", min_snr_gamma=2.0))(denoiser, batch)
    _, predicted, sigma = _written_out(name, path, batch, denoiser.values)
    # whatever is predicted, min-SNR-γ is min(SNR, γ) on the error of ẑ0
    latent_errors = (predicted - batch.clean).square().mean((1, 2, 3))
    expected = (torch.clamp(1 / sigma**2, max=2.0) * latent_errors).mean().item()
    assert loss.item() == pytest.approx(expected, rel=2e-3)
    assert terms["loss/diffusion_weighted"].item() == loss.item()


def test_gated_weighting_is_equation_15():
    path = PATHS["flow"]
    batch, denoiser = _case(path)
    config = ObjectiveConfig(weighting="gated", gate_gain=0.25, gate_sigma_threshold=1.5)
    loss, terms = Objective(path, None, config)(denoiser, batch)
    errors, _, sigma = _written_out("flow", path, batch, denoiser.values)
    assert loss.item() == pytest.approx((errors * (1 + 0.25 * (sigma <= 1.5))).mean().item(), rel=1e-5)
    assert terms["loss/diffusion"].item() == pytest.approx(errors.mean().item(), rel=1e-5)


def test_plain_diffusion_has_no_perceptual_terms():
    batch, denoiser = _case(PATHS["flow"])
    loss, terms = Objective(PATHS["flow"], None, ObjectiveConfig())(denoiser, batch, gradient_ratio=True)
    assert set(terms) == {"loss", "loss/diffusion"}
    assert terms["loss"].item() == loss.item() == terms["loss/diffusion"].item()


def test_gradient_ratio_is_that_of_the_two_gradients_at_the_output(autoencoder):
    path, weight = PATHS["flow"], 2.5
    batch, denoiser = _case(path)
    objective = Objective(path, autoencoder, ObjectiveConfig(perceptual=PerceptualConfig(weight=weight)))
    loss, terms = objective(denoiser, batch, gradient_ratio=True)
    loss.backward()
    target = batch.noise - batch.clean
    diffusion_gradient = 2 * (denoiser.values.detach() - target) / target.numel()
    perceptual_gradient = denoiser.values.grad - diffusion_gradient
    expected = perceptual_gradient.norm() / diffusion_gradient.norm()
    assert terms["gradient_ratio"].item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("micro_batch", [None, 1])
def test_measuring_the_gradient_ratio_changes_neither_loss_nor_gradient(autoencoder, micro_batch):
    path, config = PATHS["flow"], ObjectiveConfig(perceptual=PerceptualConfig(weight=2.5, micro_batch=micro_batch))
    losses, gradients = [], []
    for measured in (False, True):
        batch, denoiser = _case(path)
        loss, _ = Objective(path, autoencoder, config)(denoiser, batch, gradient_ratio=measured)
        (loss / 4).backward()
        losses.append(loss.item())
        gradients.append(denoiser.values.grad)
    assert losses[0] == losses[1]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-6, atol=1e-9)


def test_measuring_the_gradient_ratio_goes_through_the_decoder_once(autoencoder, monkeypatch):
    path, config = PATHS["flow"], ObjectiveConfig(perceptual=PerceptualConfig(weight=2.5))
    batch, denoiser = _case(path)
    calls = []
    backward = SquaredDistance.backward
    monkeypatch.setattr(SquaredDistance, "backward", lambda *given: calls.append(1) or backward(*given))
    objective = Objective(path, autoencoder, config)
    loss, _ = objective(denoiser, batch, gradient_ratio=True)
    loss.backward()
    assert len(calls) == len(objective.term.term.loss.features.blocks)


def test_matched_weight_scales_the_variance_over_samples_and_processes(autoencoder):
    path = PATHS["flow"]
    config = ObjectiveConfig(perceptual=PerceptualConfig(weight="matched", variance_fraction=0.3, matching_batches=4))
    processes = [Objective(path, autoencoder, config) for _ in range(2)]
    diffusion, perceptual = [], []
    compare = LatentPerceptualLoss(autoencoder.model)
    for step in range(2):  # two batches a step, one in each process
        for rank, objective in enumerate(processes):
            batch, denoiser = _case(path, seed=10 * step + rank)
            loss, terms = objective(denoiser, batch, gradient_ratio=True)
            assert loss.item() == terms["loss/diffusion"].item()  # nothing unmeasured is added
            assert terms["gradient_ratio"] == 0
            errors, predicted, sigma = _written_out("flow", path, batch, denoiser.values)
            diffusion += errors.tolist()
            perceptual += compare(predicted.float(), batch.clean, sigma.float(), return_terms=True).per_sample.tolist()
        kept = [torch.stack(objective.term._unmatched[0], dim=1) for objective in processes]
        for objective in processes:
            objective.end_step(lambda _: torch.cat(kept))  # noqa: B023 - called at once
    assert processes[0].weight == processes[1].weight
    assert 0 in perceptual  # samples beyond the gate count
    assert np.var(processes[0].weight * np.array(perceptual)) == pytest.approx(0.3 * np.var(diffusion), rel=1e-3)
    batch, denoiser = _case(path)
    loss, terms = processes[0](denoiser, batch)
    expected = terms["loss/diffusion"] + processes[0].weight * terms["loss/perceptual"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_matched_weight_survives_a_checkpoint(autoencoder):
    config = ObjectiveConfig(perceptual=PerceptualConfig(weight="matched", matching_batches=2))
    first = Objective(PATHS["flow"], autoencoder, config)
    for seed in range(2):
        first(*reversed(_case(PATHS["flow"], seed=seed)))
        first.end_step(lambda values: values)
    second = Objective(PATHS["flow"], autoencoder, config)
    second.load_state_dict(first.state_dict())
    assert second.weight == first.weight > 0


def test_output_that_is_not_finite_is_named():
    class Picky:
        def __init__(self, config, parts):
            pass

        def __call__(self, prediction):
            raise ValueError("prediction: holds NaN")

    class PickyConfig(PerceptualConfig):
        pass

    batch, denoiser = _case(PATHS["flow"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PERCEPTUAL_TERMS, PickyConfig, Picky)
        objective = Objective(PATHS["flow"], None, ObjectiveConfig(perceptual=PickyConfig()))
        with pytest.raises(ValueError, match="holds NaN"):  # a caller's mistake stays one
            objective(denoiser, batch)
        with torch.no_grad():
            denoiser.values[0, 0, 0, 0] = math.nan
        with pytest.raises(NonFiniteLoss, match="loss/diffusion is NaN"):
            objective(denoiser, batch)


def test_a_further_term_is_a_class_and_a_line():
    class LatentDistance:
        def __init__(self, config, parts):
            self.power = config.power

        def __call__(self, prediction):
            values = (prediction.predicted - prediction.clean).abs().pow(self.power).mean((1, 2, 3))
            return TermValues(values.mean(), values.detach(), {"share": 0.5})

    class LatentDistanceConfig(PerceptualConfig):
        power: float = 1.0

    path = PATHS["flow"]
    batch, denoiser = _case(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PERCEPTUAL_TERMS, LatentDistanceConfig, LatentDistance)
        config = ObjectiveConfig(perceptual=LatentDistanceConfig(power=3.0, weight=2.0))
        loss, terms = Objective(path, None, config)(denoiser, batch)
    errors, predicted, _ = _written_out("flow", path, batch, denoiser.values)
    distance = (predicted - batch.clean).abs().pow(3).mean().item()
    assert loss.item() == pytest.approx(errors.mean().item() + 2 * distance, rel=1e-5)
    assert terms["share"] == 0.5


def test_perceptual_term_without_a_decoder_is_refused():
    with pytest.raises(ValueError, match="autoencoder: got None"):
        Objective(PATHS["flow"], None, ObjectiveConfig(perceptual=PerceptualConfig()))
