"""Samplers against diffusers' DDIM scheduler and against Gaussian data, where the best denoiser is known."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from lpl.diffusion.paths import DDPM, DiffusionPath, FlowOT
from lpl.diffusion.samplers import ddim_timesteps, initial_noise, sample_generators, sample_latents

MEAN, SCALE = 0.7, 0.4  # data N(MEAN, SCALE²), in each latent pixel on its own
SHAPE = (2, 4, 4)


def labels_for(noise: Tensor) -> Tensor:
    return torch.zeros(len(noise), dtype=torch.long)


def gaussian_velocity(latents: Tensor, conditioning: Tensor, _labels: Tensor) -> Tensor:
    """E[ε − z0 | z_t] for Gaussian data, by the regression of one Gaussian on another."""
    t = (conditioning.to(latents.dtype) / 1000).reshape(-1, 1, 1, 1)
    variance = (1 - t) ** 2 * SCALE**2 + t**2
    return -MEAN + (t - (1 - t) * SCALE**2) / variance * (latents - (1 - t) * MEAN)


def gaussian_output(path: DDPM, scale: float = SCALE):
    """The best denoiser for Gaussian data under a DDPM path, in the terms of its prediction type."""

    def predict(latents: Tensor, conditioning: Tensor, _labels: Tensor) -> Tensor:
        alpha = path.alphas_cumprod[conditioning.round().long()].to(latents.dtype).reshape(-1, 1, 1, 1)
        a, b = alpha.sqrt(), (1 - alpha).sqrt()
        excess = (latents - a * MEAN) / (alpha * scale**2 + 1 - alpha)
        clean, noise = MEAN + a * scale**2 * excess, b * excess
        return {"epsilon": noise, "sample": clean, "v_prediction": a * noise - b * clean}[path.prediction_type]

    return predict


def wavy(latents: Tensor, conditioning: Tensor, labels: Tensor) -> Tensor:
    """A nonlinear denoiser without meaning, whose output depends on everything it is given."""
    return torch.tanh(latents + (conditioning / 300).sin()[:, None, None, None] + 0.3 * labels[:, None, None, None])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(("steps", "eta"), [(10, 0.0), (50, 0.0), (10, 0.6), (20, 1.0)])
def test_ddim_is_diffusers_ddim(prediction_type, steps, eta):
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        timestep_spacing="trailing",
        prediction_type=prediction_type,
    )
    scheduler.set_timesteps(steps)
    noise, labels = initial_noise(0, range(3), SHAPE), torch.tensor([0, 1, 2])
    generators = sample_generators(0, range(3))
    expected = noise
    for timestep in scheduler.timesteps:
        output = wavy(expected, timestep.float().expand(3), labels)
        fresh = torch.stack([torch.randn(SHAPE, generator=generator) for generator in generators])
        expected = scheduler.step(output, timestep, expected, eta=eta, variance_noise=fresh).prev_sample
    path = DDPM(prediction_type)
    result = sample_latents(path, wavy, noise, labels, "ddim", steps, eta, generators=sample_generators(0, range(3)))
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 7, 50, 333, 999, 1000])
def test_ddim_steps_are_diffusers_trailing_steps(steps):
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    timesteps = ddim_timesteps(1000, steps)
    assert timesteps.tolist() == scheduler.timesteps.tolist()
    assert timesteps[0] == 999
    assert (timesteps.diff() < 0).all()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_ddim_carries_noise_to_gaussian_data(prediction_type):
    path = DDPM(prediction_type)
    noise = initial_noise(3, range(4), SHAPE).double()
    alpha = path.alphas_cumprod[-1]
    exact = MEAN + SCALE * (noise - alpha.sqrt() * MEAN) / (alpha * SCALE**2 + 1 - alpha).sqrt()
    errors = []
    for steps in (25, 100, 1000):
        result = sample_latents(path, gaussian_output(path), noise, labels_for(noise), "ddim", steps)
        errors.append((result - exact).abs().max().item())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.01


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_gives_the_right_mean_and_variance_whatever_eta(eta):
    path = DDPM("epsilon")
    count = 64
    noise = initial_noise(0, range(count), (4, 8, 8))
    generators = sample_generators(0, range(count))
    result = sample_latents(
        path, gaussian_output(path), noise, labels_for(noise), "ddim", 200, eta, generators=generators
    )
    error = SCALE / math.sqrt(result.numel())
    assert abs(result.mean().item() - MEAN) < 5 * error + 0.01  # 0.01: the discretisation, and ᾱ_T > 0
    assert abs(result.std().item() - SCALE) < 5 * error + 0.01


@pytest.mark.parametrize(
    ("method", "order", "steps"), [("euler", 1, (64, 128)), ("heun", 2, (32, 64)), ("rk4", 4, (32, 64))]
)
def test_ode_converges_to_the_exact_flow_with_its_order(method, order, steps):
    noise = initial_noise(0, range(4), SHAPE).double()
    exact = MEAN + SCALE * noise
    errors = [
        (sample_latents(FlowOT(), gaussian_velocity, noise, labels_for(noise), method, count) - exact).abs().max()
        for count in steps
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35)
    assert errors[1] < 0.02


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_dopri5_keeps_to_its_tolerance(tolerance):
    noise = initial_noise(0, range(4), SHAPE).double()
    result = sample_latents(FlowOT(), gaussian_velocity, noise, labels_for(noise), method="dopri5", tolerance=tolerance)
    assert (result - (MEAN + SCALE * noise)).abs().max() < 20 * tolerance


@pytest.mark.parametrize(("method", "calls"), [("euler", 10), ("heun", 20), ("rk4", 40)])
def test_an_ode_step_costs_the_stated_calls_within_the_trained_times(method, calls):
    seen = []

    def predict(latents: Tensor, conditioning: Tensor, labels: Tensor) -> Tensor:
        seen.append(conditioning.clone())
        return gaussian_velocity(latents, conditioning, labels)

    noise = initial_noise(0, range(3), SHAPE)
    sample_latents(FlowOT(), predict, noise, labels_for(noise), method, steps=10)
    times = torch.stack(seen)
    assert times.shape == (calls, 3)
    assert times.min() >= 0
    assert times.max() == 1000
    assert (times == times[:, :1]).all()


@pytest.mark.parametrize("field", [gaussian_velocity, lambda latents, *_: 1e-4 * latents])
def test_dopri5_never_asks_for_times_outside_the_trained_ones(field):
    seen = []

    def predict(latents: Tensor, conditioning: Tensor, labels: Tensor) -> Tensor:
        seen.append(conditioning)
        return field(latents, conditioning, labels)

    noise = initial_noise(0, range(2), SHAPE)
    sample_latents(FlowOT(), predict, noise, labels_for(noise), "dopri5")
    assert {tuple(value.shape) for value in seen} == {(1,)}
    times = torch.cat(seen)
    assert times.min() >= 0
    assert times.min() < 1e-3
    assert times.max() == 1000


@pytest.mark.parametrize("method", ["ddim", "euler", "heun", "rk4", "dopri5"])
def test_same_seed_gives_the_same_samples_whatever_the_batch_size(method):
    path: DiffusionPath = DDPM("v_prediction") if method == "ddim" else FlowOT()
    eta = 0.8 if method == "ddim" else 0.0
    labels = torch.tensor([0, 2, 1, 2, 0])

    def draw(indices: list[int]) -> Tensor:
        noise, generators = initial_noise(5, indices, SHAPE), sample_generators(5, indices)
        return sample_latents(path, wavy, noise, labels[indices], method, 6, eta, 1e-4, generators)

    together = draw([0, 1, 2, 3, 4])
    apart = torch.cat([draw([0, 1]), draw([2]), draw([3, 4])])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-6)
    torch.testing.assert_close(draw([4, 0]), together[[4, 0]], rtol=0, atol=1e-6)


def test_noise_is_normal_and_differs_by_seed_sample_and_purpose():
    noise = initial_noise(0, range(200), (4, 8, 8))
    assert abs(noise.mean().item()) < 5 / math.sqrt(noise.numel())
    assert abs(noise.var().item() - 1) < 5 * math.sqrt(2 / noise.numel())
    fresh = torch.stack([torch.randn(4, 8, 8, generator=each) for each in sample_generators(0, range(200))])
    everything = torch.cat([noise, fresh, initial_noise(1, range(200), (4, 8, 8))]).flatten(1)
    similarity = torch.corrcoef(everything) - torch.eye(len(everything))
    assert similarity.abs().max() < 6.5 / math.sqrt(256)


def test_large_seeds_and_indices_are_fine_and_neighbours_differ():
    huge = initial_noise(2**80 + 1, [0, 2**32 - 1], (8,))
    assert not torch.equal(huge[0], huge[1])
    assert not torch.equal(huge, initial_noise(2**80, [0, 2**32 - 1], (8,)))


@pytest.mark.parametrize("method", ["ddim", "euler", "rk4", "dopri5"])
def test_progress_grows_to_one(method):
    shares: list[float] = []
    path: DiffusionPath = DDPM("epsilon") if method == "ddim" else FlowOT()
    predict = gaussian_output(path) if isinstance(path, DDPM) else gaussian_velocity
    noise = initial_noise(0, range(3), SHAPE)
    sample_latents(path, predict, noise, labels_for(noise), method, steps=8, progress=shares.append)
    assert len(shares) >= 8
    assert shares == sorted(shares)
    assert 0 <= shares[0] < 0.5
    assert shares[-1] == 1


def test_output_is_float32_without_a_gradient_even_where_the_denoiser_is_in_half_precision():
    weight = torch.ones(1, requires_grad=True)
    noise = initial_noise(0, range(2), SHAPE)

    def predict(latents: Tensor, conditioning: Tensor, labels: Tensor) -> Tensor:
        return (weight * gaussian_velocity(latents, conditioning, labels)).bfloat16()

    for method in ("euler", "dopri5"):
        result = sample_latents(FlowOT(), predict, noise.bfloat16(), labels_for(noise), method, 20, tolerance=1e-2)
        assert result.dtype == torch.float32
        assert not result.requires_grad
        assert (result - (MEAN + SCALE * noise)).abs().max() < 0.1


def test_dopri5_says_when_the_denoiser_is_not_finite():
    noise = initial_noise(0, range(2), SHAPE)
    with pytest.raises(FloatingPointError, match=r"^predict: its output at t = 1 is not finite"):
        sample_latents(FlowOT(), lambda latents, *_: latents * math.nan, noise, labels_for(noise), "dopri5")


def never(*_: Tensor) -> Tensor:
    raise AssertionError("the denoiser was called before the settings were checked")


NOISE = torch.zeros(2, *SHAPE)


@pytest.mark.parametrize(
    ("path", "settings", "message"),
    [
        (DDPM(), {"method": "euler"}, "method: got 'euler', DDPM takes 'ddim'"),
        (FlowOT(), {"method": "ddim"}, "method: got 'ddim', FlowOT takes 'euler', 'heun', 'rk4', 'dopri5'"),
        (FlowOT(), {"method": "midpoint"}, "method: got 'midpoint'"),
        (FlowOT(), {"steps": 0}, "steps: got 0, takes 1 or more"),
        (DDPM(), {"method": "ddim", "steps": 1001}, "steps: got 1001, takes 1 to 1000"),
        (FlowOT(), {"method": "dopri5", "tolerance": 0.0}, "tolerance: got 0.0"),
        (FlowOT(), {"eta": 0.5}, "eta: got 0.5; only ddim adds noise"),
        (DDPM(), {"method": "ddim", "eta": 1.5}, "eta: got 1.5"),
        (DDPM(), {"method": "ddim", "eta": 0.5}, "generators: got none, eta=0.5 takes one for each of 2 samples"),
        (DDPM(), {"method": "ddim", "eta": 0.5, "generators": [torch.Generator()]}, "generators: got 1"),
        (FlowOT(), {"labels": torch.zeros(3, dtype=torch.long)}, r"labels: got shape \(3,\), takes \(2,\)"),
        (FlowOT(), {"noise": torch.zeros(2, *SHAPE, dtype=torch.long)}, r"noise: got torch\.int64"),
        (object(), {}, "path: got object, takes a DDPM or a FlowOT"),
    ],
)
def test_impossible_settings_are_refused_before_the_denoiser_is_called(path, settings, message):
    good = {"noise": NOISE, "labels": labels_for(NOISE)}
    with pytest.raises(ValueError, match=f"^{message}"):
        sample_latents(path, never, **{**good, **settings})


@pytest.mark.parametrize(("seed", "index", "name"), [(-1, 0, "seed"), (0, -1, "indices"), (0, 2**32, "indices")])
def test_impossible_seeds_are_refused(seed, index, name):
    with pytest.raises(ValueError, match=f"^{name}: got"):
        initial_noise(seed, [index], (4,))
