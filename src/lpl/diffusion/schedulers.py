"""ẑ0 and σ_t for any diffusers scheduler, from the scheduler's own algebra.

A scheduler's `add_noise` (or flow matching's `scale_noise`) is linear, z_t = a_t z0 + b_t ε, so that asking it for the
noisy version of (1, 0) and of (0, 1) reads off a_t and b_t, whatever its parametrisation: variance preserving (DDPM,
DDIM, DPM-Solver, …), variance exploding (Euler, Heun, LMS, EDM, …) or straight (flow matching).
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor

from .paths import DiffusionPath, expand


def predicted_latent(scheduler: Any, output: Tensor, noisy: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """The clean latent that a denoiser's output implies, and the noise-to-signal ratio it was seen at.

    Args:
        scheduler: any diffusers scheduler that can add noise, as it was used to make `noisy`; or a `DiffusionPath`.
        output: the denoiser's output, (B, C, …). Where the scheduler's variance is learned, (B, 2C, …): the second
            half, the variance, is left out.
        noisy: z_t, (B, C, …), as the scheduler's `add_noise` or `scale_noise` made it, before any
            `scale_model_input`.
        timesteps: (B,) or a single one, from the scheduler's schedule.

    Returns:
        ẑ0 of the shape of `noisy`, in float32 at least, with gradient to `output`; and σ_t = b_t/a_t, float32 of
        shape (B,), infinite where the schedule has no signal left. There ẑ0 is infinite too if it is ε that the
        denoiser predicts, and has no gradient.

    Raises:
        ValueError: a scheduler that can't add noise or whose prediction type is unknown, timesteps outside its
            schedule, or shapes that don't fit.
    """
    if not isinstance(output, Tensor):
        raise ValueError(f"output: got {type(output).__name__}, takes the denoiser's tensor, such as its `.sample`")
    if isinstance(scheduler, type):
        raise ValueError(f"scheduler: got the class {scheduler.__name__}, takes an instance of it")
    precision = torch.promote_types(output.dtype, torch.float32)
    output, noisy = _mean_of(output.to(precision), noisy, scheduler), noisy.to(precision)
    timesteps = torch.as_tensor(timesteps, device=noisy.device).reshape(-1)
    if len(timesteps) not in (1, len(noisy)):
        raise ValueError(f"timesteps: got {len(timesteps)}, takes one for each of {len(noisy)} samples, or one for all")
    if not timesteps.is_floating_point():
        timesteps = timesteps.long()
    timesteps = timesteps.expand(len(noisy))
    if isinstance(scheduler, DiffusionPath):
        scheduler.check_timesteps(timesteps)
        return scheduler.predicted_latent(output, noisy, timesteps), scheduler.sigma(timesteps)
    a, b = coefficients(scheduler, timesteps)
    clean = _clean(scheduler, output, noisy, expand(a, noisy), expand(b, noisy))
    return clean, (b / a).float()


def coefficients(scheduler: Any, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """(a_t, b_t) of a diffusers scheduler, each float32 of shape (B,), at timesteps of its schedule.

    Raises:
        ValueError: the scheduler can't add noise, or a timestep is not in its schedule.
    """
    device = timesteps.device
    # Schedules are looked up timestep by timestep, on the CPU so that a GPU is waited for once and not once a sample.
    scheduler, timesteps = _for_training(scheduler), timesteps.cpu()
    _check_timesteps(scheduler, timesteps)
    zeros = torch.zeros(len(timesteps), 1, 1, 1)
    ones = torch.ones_like(zeros)
    a, b = _noised(scheduler, ones, zeros, timesteps), _noised(scheduler, zeros, ones, timesteps)
    return a.to(device), b.to(device)


def prediction_type_of(scheduler: Any) -> str:
    """What a scheduler takes the denoiser to output: epsilon, v_prediction, sample or flow_prediction.

    Raises:
        ValueError: it doesn't say, or says something else.
    """
    if hasattr(scheduler, "scale_noise"):
        return "flow_prediction"
    name = getattr(scheduler.config, "prediction_type", None)
    name = "sample" if name == "original_sample" else name
    if name not in ("epsilon", "v_prediction", "sample", "flow_prediction"):
        raise ValueError(
            f"scheduler: {type(scheduler).__name__} has prediction_type={name!r}, "
            "takes epsilon, v_prediction, sample or flow_prediction"
        )
    return name


def _clean(scheduler: Any, output: Tensor, noisy: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """ẑ0 on z_t = a z0 + b ε, for any a and b."""
    if hasattr(scheduler, "precondition_outputs"):  # EDM: the output is the inner network's
        return scheduler.precondition_outputs(noisy, output, b)
    prediction_type = prediction_type_of(scheduler)
    if prediction_type == "sample":
        return output
    if prediction_type == "epsilon":
        # Where no signal is left nothing is predicted: no gradient there either, which would be NaN behind any gate.
        signal = a > 0
        return torch.where(signal, (noisy - b * output) / torch.where(signal, a, 1.0), torch.inf)
    if prediction_type == "flow_prediction":  # v = ε − z0
        return (noisy - b * output) / (a + b)
    # v is defined on the variance-preserving form z_t/s with s² = a² + b², whichever form the scheduler keeps.
    scale = (a.square() + b.square()).sqrt()
    return (a / scale) * (noisy / scale) - (b / scale) * output


def _mean_of(output: Tensor, noisy: Tensor, scheduler: Any) -> Tensor:
    """The output without its learned variance, checked against the latents' shape."""
    variance = getattr(getattr(scheduler, "config", None), "variance_type", None)
    if variance in ("learned", "learned_range") and output.shape[1] == 2 * noisy.shape[1]:
        output = output.chunk(2, dim=1)[0]
    if output.shape != noisy.shape:
        raise ValueError(f"output: got shape {tuple(output.shape)}, takes that of z_t, {tuple(noisy.shape)}")
    return output


def _for_training(scheduler: Any) -> Any:
    """A shallow copy that forgets the progress of any sampling, which would override the timesteps."""
    if not hasattr(scheduler, "add_noise") and not hasattr(scheduler, "scale_noise"):
        raise ValueError(f"scheduler: {type(scheduler).__name__} has neither add_noise nor scale_noise")
    scheduler = copy.copy(scheduler)
    for progress in ("_step_index", "_begin_index"):
        if hasattr(scheduler, progress):
            setattr(scheduler, progress, None)
    return scheduler


def _check_timesteps(scheduler: Any, timesteps: Tensor) -> None:
    if hasattr(scheduler, "index_for_timestep"):
        schedule = scheduler.timesteps.cpu()
        known = torch.isin(timesteps.to(schedule.dtype), schedule)
        if not bool(known.all()):
            raise ValueError(
                f"timesteps: {timesteps[~known].tolist()[:5]} are not in the schedule of {type(scheduler).__name__}, "
                f"{len(schedule)} timesteps from {schedule[0].item():g} to {schedule[-1].item():g}; "
                "draw them from scheduler.timesteps"
            )
        _warn_of_reversed_schedule(scheduler, schedule)
        return
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"scheduler: {type(scheduler).__name__} has neither alphas_cumprod nor timesteps that can be looked up "
            "(index_for_timestep); takes one that has either"
        )
    last = len(scheduler.alphas_cumprod) - 1
    if timesteps.is_floating_point() or bool((timesteps < 0).any()) or bool((timesteps > last).any()):
        raise ValueError(f"timesteps: got {timesteps.tolist()[:5]}, takes integers from 0 to {last}")


def _warn_of_reversed_schedule(scheduler: Any, schedule: Tensor) -> None:
    """Some solvers are made with timesteps that fall and sigmas that rise; `set_timesteps` puts them right."""
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and len(schedule) > 1 and (sigmas[1] > sigmas[0]) == (schedule[1] < schedule[0]):
        warnings.warn(
            f"{type(scheduler).__name__} pairs its timesteps with the sigmas in reverse until set_timesteps is called: "
            "its add_noise, and so this ẑ0, use another noise level than the timestep says",
            stacklevel=4,
        )


def _noised(scheduler: Any, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The noisy version of per-sample numbers (B, 1, 1, 1) → (B,)."""
    if hasattr(scheduler, "scale_noise"):
        # Heun's takes a single timestep, and remembers it.
        samples = zip(clean.split(1), timesteps.split(1), noise.split(1), strict=True)
        return torch.cat([_for_training(scheduler).scale_noise(*sample) for sample in samples]).flatten()
    try:
        return scheduler.add_noise(clean, noise, timesteps).flatten()
    except NotImplementedError as error:
        raise ValueError(f"scheduler: {type(scheduler).__name__} can't add noise ({error})") from error
