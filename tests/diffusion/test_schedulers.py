from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from lpl import DDPM, FlowOT, LatentPerceptualLoss
from lpl.diffusion import predicted_latent

BETAS: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}

DISCRETE = ["DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "LCMScheduler", "TCDScheduler"]
SIGMAS = [
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "KDPM2DiscreteScheduler",
]
SOLVERS = [
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
]


def make(name: str, prediction_type: str, **config: Any) -> Any:
    return getattr(diffusers, name)(prediction_type=prediction_type, **BETAS, **config)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 4, 5, 6, generator=generator), torch.randn(4, 4, 5, 6, generator=generator)


def variance_preserving(sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return 1 / (1 + sigma**2) ** 0.5, sigma / (1 + sigma**2) ** 0.5


def true_output(prediction_type: str, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    a, b = (value.view(-1, 1, 1, 1) for value in variance_preserving(sigma))
    return {"epsilon": noise, "v_prediction": a * noise - b * clean, "sample": clean}[prediction_type]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", DISCRETE + SIGMAS + SOLVERS)
def test_exact_for_the_true_output(name: str, prediction_type: str, batch: tuple) -> None:
    clean, noise = batch
    try:
        scheduler = make(name, prediction_type)
    except NotImplementedError:
        pytest.skip(f"{name} has no {prediction_type}")
    if name in SOLVERS:
        scheduler.set_timesteps(1000)
    timesteps = torch.tensor([20, 150, 400, 650])
    noisy = scheduler.add_noise(clean, noise, timesteps)
    alphas = scheduler.alphas_cumprod[timesteps]
    sigma = ((1 - alphas) / alphas).sqrt()
    output = true_output(prediction_type, clean, noise, sigma)
    actual, actual_sigma = predicted_latent(scheduler, output, noisy, timesteps)
    torch.testing.assert_close(actual, clean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(actual_sigma, sigma, rtol=1e-4, atol=1e-5)


def test_a_solver_whose_schedule_is_still_reversed_is_warned_of(batch: tuple) -> None:
    """z_t and ẑ0 agree, but on the noise level of another timestep: a trap of diffusers' solvers."""
    clean, noise = batch
    scheduler = make("DPMSolverMultistepScheduler", "epsilon")
    timesteps = torch.tensor([20, 150, 400, 650])
    noisy = scheduler.add_noise(clean, noise, timesteps)
    with pytest.warns(UserWarning, match="until set_timesteps is called"):
        actual, _ = predicted_latent(scheduler, noise, noisy, timesteps)
    torch.testing.assert_close(actual, clean, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_equals_what_the_ddpm_and_ddim_steps_predict(prediction_type: str, batch: tuple) -> None:
    noisy, output = batch
    for name in ("DDPMScheduler", "DDIMScheduler"):
        scheduler = make(name, prediction_type, clip_sample=False)
        scheduler.set_timesteps(50)
        for timestep in scheduler.timesteps[::17]:
            expected = scheduler.step(output, int(timestep), noisy).pred_original_sample
            actual, _ = predicted_latent(scheduler, output, noisy, timestep)
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"])
def test_equals_what_the_euler_steps_predict(name: str, prediction_type: str, batch: tuple) -> None:
    noisy, output = batch
    scheduler = make(name, prediction_type)
    scheduler.set_timesteps(20)
    for timestep in scheduler.timesteps[::6]:
        scheduler.is_scale_input_called = True
        scheduler._step_index = None
        expected = scheduler.step(output, timestep, noisy).pred_original_sample
        actual, _ = predicted_latent(scheduler, output, noisy, timestep)  # though the scheduler is mid-way by now
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_equals_what_dpm_solver_converts(prediction_type: str, batch: tuple) -> None:
    noisy, output = batch
    scheduler = make("DPMSolverMultistepScheduler", prediction_type)
    scheduler.set_timesteps(20)
    for index in (0, 7, 19):
        scheduler._step_index = index
        expected = scheduler.convert_model_output(output, sample=noisy)
        actual, _ = predicted_latent(scheduler, output, noisy, scheduler.timesteps[index])
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_flow_matching(name: str, batch: tuple) -> None:
    clean, noise = batch
    scheduler = getattr(diffusers, name)(shift=3.0)
    timesteps = scheduler.timesteps[[3, 200, 500, 990]]
    noisy = torch.empty_like(clean)
    for i in range(4):
        scheduler._step_index = None  # Heun's remembers the first timestep it is given
        noisy[i] = scheduler.scale_noise(clean[i], timesteps[i], noise[i]) if "Heun" in name else 0
    if "Heun" not in name:
        noisy = scheduler.scale_noise(clean, timesteps, noise)
    actual, sigma = predicted_latent(scheduler, noise - clean, noisy, timesteps)
    torch.testing.assert_close(actual, clean, rtol=1e-5, atol=1e-5)
    ratio = scheduler.sigmas[[3, 200, 500, 990]]
    torch.testing.assert_close(sigma, ratio / (1 - ratio), rtol=1e-4, atol=1e-5)


def test_dpm_solver_on_flow_sigmas(batch: tuple) -> None:
    clean, noise = batch
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    scheduler.set_timesteps(20)
    timesteps = scheduler.timesteps[[2, 7, 12, 19]]
    noisy = scheduler.add_noise(clean, noise, timesteps)
    actual, _ = predicted_latent(scheduler, noise - clean, noisy, timesteps)
    torch.testing.assert_close(actual, clean, rtol=1e-5, atol=1e-5)


def test_edm_preconditioning(batch: tuple) -> None:
    clean, noise = batch
    scheduler = diffusers.EDMEulerScheduler(sigma_data=0.5)
    scheduler.set_timesteps(20)
    indices = [1, 5, 10, 18]
    sigma = scheduler.sigmas[indices].view(-1, 1, 1, 1)
    noisy = clean + sigma * noise
    c_skip = 0.25 / (sigma**2 + 0.25)
    c_out = sigma * 0.5 / (sigma**2 + 0.25) ** 0.5
    inner = (clean - c_skip * noisy) / c_out  # the network whose preconditioned output is the clean latent
    actual, actual_sigma = predicted_latent(scheduler, inner, noisy, scheduler.timesteps[indices])
    torch.testing.assert_close(actual, clean, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(actual_sigma, sigma.flatten())


def test_zero_terminal_snr_is_infinite_and_stops_at_the_gate(batch: tuple) -> None:
    clean, noise = batch
    scheduler = make("DDPMScheduler", "v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    timesteps = torch.tensor([999, 999, 10, 20])
    noisy = scheduler.add_noise(clean, noise, timesteps)
    actual, sigma = predicted_latent(scheduler, scheduler.get_velocity(clean, noise, timesteps), noisy, timesteps)
    assert sigma[:2].tolist() == [float("inf")] * 2
    torch.testing.assert_close(actual, clean, rtol=1e-5, atol=1e-5)


def test_zero_terminal_snr_leaves_the_gradients_of_others_as_they_are(batch: tuple) -> None:
    """A gate leaves the sample out, and 0 times the infinite derivative of ẑ0 behind it would be NaN."""
    clean, noise = batch
    scheduler = make("DDPMScheduler", "epsilon", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    timesteps = torch.tensor([50, 999, 10, 999])
    weight = torch.tensor(0.9, requires_grad=True)
    noisy = scheduler.add_noise(clean, noise, timesteps)
    actual, sigma = predicted_latent(scheduler, weight * noise, noisy, timesteps)
    assert torch.isinf(actual[[1, 3]]).all()
    passed = sigma <= 3
    assert passed.tolist() == [True, False, True, False]
    (gradient,) = torch.autograd.grad((actual[passed] - clean[passed]).square().mean(), weight)
    expected = (2 * (0.9 - 1) * (sigma[passed].reshape(-1, 1, 1, 1) * noise[passed]).square()).mean()
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)


def test_learned_variance_is_left_out(batch: tuple) -> None:
    clean, noise = batch
    scheduler = make("DDPMScheduler", "epsilon", variance_type="learned_range")
    timesteps = torch.tensor([5, 100, 200, 300])
    noisy = scheduler.add_noise(clean, noise, timesteps)
    output = torch.cat([noise, torch.randn_like(noise)], dim=1)
    torch.testing.assert_close(predicted_latent(scheduler, output, noisy, timesteps)[0], clean, rtol=1e-4, atol=1e-4)


def test_our_own_paths(batch: tuple) -> None:
    clean, noise = batch
    for path, timesteps in ((DDPM(), torch.tensor([5, 50, 200, 300])), (FlowOT(), torch.rand(4))):
        noisy = path.add_noise(clean, noise, timesteps)
        actual, sigma = predicted_latent(path, path.target(clean, noise, timesteps), noisy, timesteps)
        torch.testing.assert_close(actual, clean, rtol=1e-4, atol=1e-4)
        assert torch.equal(sigma, path.sigma(timesteps))


def test_half_precision_is_computed_in_float32_with_gradient(batch: tuple) -> None:
    clean, noise = (value.bfloat16() for value in batch)
    scheduler = make("DDPMScheduler", "epsilon")
    timesteps = torch.tensor([5, 100, 500, 900])
    output = noise.clone().requires_grad_()
    actual, sigma = predicted_latent(scheduler, output, scheduler.add_noise(clean, noise, timesteps), timesteps)
    actual.sum().backward()
    assert actual.dtype == sigma.dtype == torch.float32
    torch.testing.assert_close(output.grad.float()[:, 0, 0, 0], -sigma, rtol=0.01, atol=0.01)


def test_the_scheduler_is_left_as_it_was(batch: tuple) -> None:
    clean, noise = batch
    scheduler = make("EulerDiscreteScheduler", "epsilon")
    scheduler.set_timesteps(10)
    scheduler.step(noise, scheduler.timesteps[0], clean)
    before = (scheduler.step_index, scheduler.begin_index)
    predicted_latent(scheduler, noise, clean, scheduler.timesteps[3])
    assert (scheduler.step_index, scheduler.begin_index) == before


def test_it_is_a_method_of_the_loss() -> None:
    assert LatentPerceptualLoss.predicted_latent is predicted_latent


@pytest.mark.parametrize(
    ("scheduler", "timesteps", "message"),
    [
        (make("DDPMScheduler", "epsilon"), torch.tensor([0, 1, 2, 1000]), "timesteps: got .* from 0 to 999"),
        (make("DDPMScheduler", "epsilon"), torch.tensor([0.5] * 4), "timesteps: got"),
        (make("EulerDiscreteScheduler", "epsilon"), torch.tensor([0.5] * 4), "not in the schedule of Euler"),
        (diffusers.FlowMatchEulerDiscreteScheduler(), torch.tensor([0.3] * 4), "not in the schedule of FlowMatch"),
        (object(), torch.tensor([1] * 4), "scheduler: object has neither"),
        (diffusers.ScoreSdeVeScheduler(), torch.tensor([1] * 4), "scheduler: ScoreSdeVeScheduler has neither"),
        (diffusers.RePaintScheduler(), torch.tensor([1] * 4), "scheduler: RePaintScheduler can't add noise"),
        (make("DDPMScheduler", "epsilon"), torch.tensor([1, 2, 3]), "timesteps: got 3, takes one for each of 4"),
        (DDPM(), torch.tensor([0, 1, -1, 1000]), r"timesteps: got \[-1, 1000\], DDPM takes integers from 0 to 999"),
        (DDPM(), torch.tensor([0.5] * 4), "timesteps: got torch.float32, DDPM takes integers"),
        (FlowOT(), torch.tensor([0.5, 500.0, 1.0, 0.0]), r"timesteps: got \[500.0\], Flow-OT takes numbers from 0"),
        (FlowOT(), torch.tensor([float("nan")] * 4), "timesteps: got .*nan"),
    ],
)
def test_bad_arguments_are_named(scheduler: Any, timesteps: torch.Tensor, message: str, batch: tuple) -> None:
    with pytest.raises(ValueError, match=message):
        predicted_latent(scheduler, batch[0], batch[1], timesteps)


def test_shapes_that_differ_are_refused(batch: tuple) -> None:
    with pytest.raises(ValueError, match=r"output: got shape \(4, 3, 5, 6\)"):
        predicted_latent(make("DDPMScheduler", "epsilon"), batch[0][:, :3], batch[1], torch.tensor([1] * 4))


def test_whole_timesteps_of_any_type(batch: tuple) -> None:
    clean, noise = batch
    for scheduler in (make("DDPMScheduler", "epsilon"), DDPM()):
        expected = predicted_latent(scheduler, noise, clean, torch.tensor([0, 1, 2, 100]))
        for dtype in (torch.uint8, torch.int16, torch.int32):
            actual = predicted_latent(scheduler, noise, clean, torch.tensor([0, 1, 2, 100], dtype=dtype))
            assert torch.equal(actual[0], expected[0])
            assert torch.equal(actual[1], expected[1])


def test_what_is_commonly_passed_by_mistake_is_named(batch: tuple) -> None:
    timesteps = torch.tensor([1] * 4)
    with pytest.raises(ValueError, match="output: got tuple, takes the denoiser's tensor, such as its `.sample`"):
        predicted_latent(DDPM(), (batch[0],), batch[1], timesteps)
    with pytest.raises(ValueError, match="scheduler: got the class DDPMScheduler, takes an instance"):
        predicted_latent(diffusers.DDPMScheduler, batch[0], batch[1], timesteps)
