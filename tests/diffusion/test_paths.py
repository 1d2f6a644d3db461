from __future__ import annotations

import diffusers
import pytest
import torch
from scipy import stats

from lpl import DDPM, FlowOT
from lpl.config import DiffusionConfig
from lpl.diffusion import DiffusionPath, make_path

PATHS = [DDPM("epsilon"), DDPM("v_prediction"), DDPM("sample"), FlowOT()]


def scheduler_like(prediction_type: str) -> diffusers.DDPMScheduler:
    return diffusers.DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction_type,
        clip_sample=False,
    )


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 4, 6, 8, generator=generator), torch.randn(5, 4, 6, 8, generator=generator)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: f"{type(p).__name__}-{getattr(p, 'prediction_type', '')}")
def test_the_true_target_gives_back_latent_and_noise(path: DiffusionPath, batch: tuple) -> None:
    clean, noise = batch
    timesteps = torch.tensor([1, 50, 300, 700, 900])
    timesteps = timesteps / 1000 if isinstance(path, FlowOT) else timesteps
    noisy = path.add_noise(clean, noise, timesteps)
    target = path.target(clean, noise, timesteps)
    torch.testing.assert_close(path.predicted_latent(target, noisy, timesteps), clean, rtol=1e-5, atol=2e-5)
    # ε̂ is ill-conditioned where there is hardly any noise, hence the later times alone.
    torch.testing.assert_close(path.predicted_noise(target, noisy, timesteps)[1:], noise[1:], rtol=1e-5, atol=5e-5)


def test_ddpm_is_diffusers_scaled_linear_schedule(batch: tuple) -> None:
    clean, noise = batch
    timesteps = torch.tensor([0, 10, 250, 600, 999])
    reference = scheduler_like("v_prediction")
    path = DDPM("v_prediction")
    torch.testing.assert_close(path.alphas_cumprod.float(), reference.alphas_cumprod, rtol=1e-5, atol=1e-7)
    expected = reference.add_noise(clean, noise, timesteps)
    torch.testing.assert_close(path.add_noise(clean, noise, timesteps), expected, rtol=1e-5, atol=1e-5)
    expected = reference.get_velocity(clean, noise, timesteps)
    torch.testing.assert_close(path.target(clean, noise, timesteps), expected, rtol=1e-5, atol=1e-5)


def test_sigma_is_the_noise_to_signal_ratio() -> None:
    assert FlowOT().sigma(torch.tensor([0.0, 0.5, 0.75, 1.0])).tolist() == [0, 1, 3, float("inf")]
    path = DDPM()
    expected = ((1 - path.alphas_cumprod) / path.alphas_cumprod).sqrt()[[0, 500, 999]].float()
    torch.testing.assert_close(path.sigma(torch.tensor([0, 500, 999])), expected)
    assert path.sigma(torch.tensor([999])).item() == pytest.approx(14.6, abs=0.1)  # Stable Diffusion's σ_max


def test_flow_times_are_logit_normal() -> None:
    times = FlowOT(logit_mean=0.5, logit_std=0.8).sample_timesteps(4000, torch.Generator().manual_seed(1))
    logits = torch.logit(times.double()).numpy()
    assert stats.kstest(logits, "norm", args=(0.5, 0.8)).pvalue > 0.01


def test_ddpm_times_are_uniform_over_every_step() -> None:
    times = DDPM(num_timesteps=10).sample_timesteps(5000, torch.Generator().manual_seed(2))
    assert stats.chisquare(torch.bincount(times, minlength=10).numpy()).pvalue > 0.01


def test_seeded_times_repeat() -> None:
    for path in PATHS:
        draws = [path.sample_timesteps(8, torch.Generator().manual_seed(3)) for _ in range(2)]
        assert torch.equal(*draws)


def test_conditioning_is_on_the_scale_of_1000_steps() -> None:
    assert DDPM(num_timesteps=100).conditioning(torch.tensor([0, 50])).tolist() == [0, 500]
    assert FlowOT().conditioning(torch.tensor([0.0, 0.25])).tolist() == [0, 250]


def test_latents_keep_their_dtype() -> None:
    clean = torch.randn(2, 4, 4, 4, dtype=torch.bfloat16)
    for path in PATHS:
        assert path.add_noise(clean, clean, path.sample_timesteps(2)).dtype == torch.bfloat16


def test_paths_from_a_recipe() -> None:
    ddpm = make_path(DiffusionConfig(path="ddpm", prediction_type="v_prediction"))
    assert isinstance(ddpm, DDPM)
    assert ddpm.prediction_type == "v_prediction"
    flow = make_path(DiffusionConfig(path="flow_ot", logit_mean=0.3))
    assert isinstance(flow, FlowOT)
    assert flow.logit_mean == 0.3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDPM("noise"), "prediction_type: got 'noise'"),
        (lambda: DDPM(num_timesteps=0), "num_timesteps: got 0"),
        (lambda: DDPM(beta_start=0.5, beta_end=0.1), "beta_start, beta_end"),
        (lambda: FlowOT(logit_std=0), "logit_std: got 0"),
        (lambda: DDPM().coefficients(torch.tensor([0.5])), "timesteps: got torch.float32"),
    ],
)
def test_bad_settings_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
