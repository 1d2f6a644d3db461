"""Samplers: from noise to latents, by DDIM for a DDPM path and by an ODE for a Flow-OT path.

Reference: Song et al., *Denoising Diffusion Implicit Models*, 2021 (DDIM); Lin et al., *Common Diffusion Noise
Schedules and Sample Steps Are Flawed*, 2024 (trailing steps); Lipman et al., *Flow Matching*, 2023 (the ODE).

**Seeds.** Sample i's random numbers come from generators of its own, seeded by (seed, i). The same seed therefore gives
the same images whatever the batch size, up to the rounding of the denoiser itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torchdiffeq import odeint

from lpl.diffusion.guidance import Denoiser
from lpl.diffusion.paths import DDPM, DiffusionPath, FlowOT

Progress = Callable[[float], None]
"""Called with the share of the work that is done, from 0 to 1."""

# Our names and torchdiffeq's. Denoiser calls a step: 1, 2 and 4; dopri5 chooses its own steps, of 6 calls.
ODE_METHODS = {"euler": "euler", "heun": "heun2", "rk4": "rk4", "dopri5": "dopri5"}
METHODS = ("ddim", *ODE_METHODS)


def sample_latents(
    path: DiffusionPath,
    predict: Denoiser,
    noise: Tensor,
    labels: Tensor,
    method: str = "euler",
    steps: int = 50,
    eta: float = 0.0,
    tolerance: float = 1e-5,
    generators: Sequence[torch.Generator] | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Draws latents.

    Args:
        path: a `DDPM` (method "ddim") or a `FlowOT` (the other methods).
        predict: called as `predict(latents, conditioning, labels)`: a denoiser, or one that is `guided`.
        noise: where to start, N(0, I), shape (B, C, h, w); see `initial_noise`.
        labels: int64, shape (B,).
        method: "ddim"; or "euler", "heun", "rk4" (the 3/8 rule), of order 1, 2 and 4, or the adaptive "dopri5".
        steps: equal steps in time; DDIM's end in trailing spacing. "dopri5" chooses its own and ignores them.
        eta: for "ddim", 0 (deterministic) to 1 (as random as ancestral DDPM sampling).
        tolerance: for "dopri5", absolute and relative error allowed in each step. Its steps follow the error, so each
            sample is integrated alone lest it depend on the others: the denoiser only ever sees batches of one, which
            is slow on a GPU.
        generators: where eta > 0, one a sample; see `sample_generators`.
        progress: called after each step with the share done.

    Returns:
        z0, float32 (float64 where the noise is), shape (B, C, h, w).

    Raises:
        ValueError: an impossible setting, or one that does not fit the path; before the denoiser is first called.
        FloatingPointError: for "dopri5", the denoiser's output is not finite.

    Example:
        >>> noise = initial_noise(seed=0, indices=range(8), shape=(4, 32, 32))
        >>> latents = sample_latents(FlowOT(), denoiser, noise, labels, method="heun", steps=25)
    """
    _check(path, noise, labels, method, steps, eta, tolerance, generators)
    latents = noise if noise.dtype == torch.float64 else noise.float()
    report = progress if progress is not None else _ignore
    with torch.no_grad():
        if isinstance(path, DDPM):
            return _sample_ddim(path, predict, latents, labels, steps, eta, generators or (), report)
        if method == "dopri5":
            return _sample_adaptive(path, predict, latents, labels, method, tolerance, report)
        velocity = _Velocity(path, predict, labels, report)
        result = _integrate(velocity, latents, method, grid_constructor=_even_grid(steps))
        report(1.0)
        return result


def initial_noise(
    seed: int, indices: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """The noise from which samples start, each from its own generator.

    Args:
        seed: 0 or more.
        indices: numbers of the samples within the whole run, each from 0 to 2³² − 1.
        shape: of one sample, (C, h, w).
        device: where the result goes; the draw is on the CPU, so that a seed means the same on every device.

    Returns:
        N(0, I), float32, shape (len(indices), C, h, w).
    """
    noise = [torch.randn(*shape, generator=_generator(seed, index, stream=0)) for index in indices]
    return torch.stack(noise).to(device)


def sample_generators(seed: int, indices: Sequence[int]) -> list[torch.Generator]:
    """CPU generators for the noise that DDIM adds on its way where eta > 0, one a sample.

    They are seeded otherwise than `initial_noise`: the same numbers twice would correlate the start with the steps.
    """
    return [_generator(seed, index, stream=1) for index in indices]


def ddim_timesteps(num_timesteps: int, steps: int) -> Tensor:
    """DDIM's steps in trailing spacing: from T − 1 down, T / steps apart, int64 of shape (steps,).

    Trailing rather than leading, because a sampler that starts below T − 1 takes pure noise for a latent in which some
    signal is left (Lin et al., §3.3).
    """
    return (num_timesteps - torch.arange(steps) * (num_timesteps / steps)).round().long() - 1


def _sample_ddim(
    path: DDPM,
    predict: Denoiser,
    latents: Tensor,
    labels: Tensor,
    steps: int,
    eta: float,
    generators: Sequence[torch.Generator],
    progress: Progress,
) -> Tensor:
    timesteps = ddim_timesteps(path.num_timesteps, steps)
    alphas = path.alphas_cumprod[timesteps].tolist()
    for index, timestep in enumerate(timesteps.tolist()):
        batch = torch.full((len(latents),), timestep, device=latents.device)
        output = predict(latents, path.conditioning(batch), labels).to(latents.dtype)
        clean = path.predicted_latent(output, latents, batch)
        noise = path.predicted_noise(output, latents, batch)
        alpha, alpha_next = alphas[index], [*alphas, 1.0][index + 1]  # the last step ends at the clean latent
        latents = _ddim_step(clean, noise, alpha, alpha_next, eta, generators)
        progress((index + 1) / steps)
    return latents


def _ddim_step(
    clean: Tensor, noise: Tensor, alpha: float, alpha_next: float, eta: float, generators: Sequence[torch.Generator]
) -> Tensor:
    """Eq. (12) of DDIM, with the standard deviation of its eq. (16); `alpha` is ᾱ here, α there."""
    spread = eta * math.sqrt((1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next))
    latents = math.sqrt(alpha_next) * clean + math.sqrt(max(1 - alpha_next - spread**2, 0.0)) * noise
    if spread == 0:
        return latents
    fresh = [torch.randn(clean.shape[1:], generator=generator, device=generator.device) for generator in generators]
    return latents + spread * torch.stack(fresh).to(latents)


class _Velocity:
    """The right-hand side dz/dt = v̂(z, t), as torchdiffeq calls it."""

    def __init__(
        self, path: DiffusionPath, predict: Denoiser, labels: Tensor, progress: Progress, check_finite: bool = False
    ) -> None:
        self.path = path
        self.predict = predict
        self.labels = labels
        self.progress = progress
        self.check_finite = check_finite

    def __call__(self, time: Tensor, latents: Tensor) -> Tensor:
        # An adaptive solver's first guess at a step may leave [0, 1], where no denoiser was trained.
        timesteps = time.clamp(0, 1).expand(len(latents))
        output = self.predict(latents, self.path.conditioning(timesteps), self.labels).to(latents.dtype)
        if self.check_finite and not output.isfinite().all():
            raise FloatingPointError(f"predict: its output at t = {time.item():.4g} is not finite")
        return output

    def callback_step(self, time: Tensor, _latents: Tensor, _step: Tensor) -> None:
        """Called by torchdiffeq before each step; t runs from 1 to 0."""
        self.progress(1 - float(time))


def _sample_adaptive(
    path: DiffusionPath,
    predict: Denoiser,
    latents: Tensor,
    labels: Tensor,
    method: str,
    tolerance: float,
    progress: Progress,
) -> Tensor:
    end = torch.zeros(1, device=latents.device)
    samples = []
    for index in range(len(latents)):
        row = slice(index, index + 1)
        report = partial(_report_share, progress, index, len(latents))
        # A value that is not finite would shrink the solver's step to nothing.
        velocity = _Velocity(path, predict, labels[row], report, check_finite=True)
        # step_t makes the last step end at t = 0; otherwise the solver runs past it and interpolates back.
        samples.append(_integrate(velocity, latents[row], method, rtol=tolerance, atol=tolerance, step_t=end))
    progress(1.0)
    return torch.cat(samples)


def _report_share(progress: Progress, done: int, total: int, share: float) -> None:
    """Reports `done` samples and a share of the next one."""
    progress((done + share) / total)


def _integrate(
    velocity: _Velocity, latents: Tensor, method: str, rtol: float = 1e-5, atol: float = 1e-5, **options: object
) -> Tensor:
    """Solves from t = 1 to t = 0."""
    times = torch.tensor([1.0, 0.0], dtype=latents.dtype, device=latents.device)
    solution: Tensor = odeint(
        velocity, latents, times, rtol=rtol, atol=atol, method=ODE_METHODS[method], options=options
    )
    return solution[-1]


def _even_grid(steps: int) -> Callable[[object, Tensor, Tensor], Tensor]:
    """A grid_constructor for torchdiffeq; naming the times in `odeint` instead would keep each latent on the way."""

    def grid(_velocity: object, latents: Tensor, _times: Tensor) -> Tensor:
        return torch.linspace(1, 0, steps + 1, dtype=latents.dtype, device=latents.device)

    return grid


def _generator(seed: int, index: int, stream: int) -> torch.Generator:
    """A CPU generator for one sample and purpose.

    PyTorch's CPU generator uses the lower 32 bits of its seed. Hashing (seed, index) into them would give some two of
    50,000 samples the same noise in one run out of four; hashing the seed and adding the index gives it to none.
    """
    if seed < 0:
        raise ValueError(f"seed: got {seed}, takes 0 or more")
    if not 0 <= index < 2**32:
        raise ValueError(f"indices: got {index}, takes 0 to 2**32 - 1")
    offset = int(np.random.SeedSequence([seed, stream]).generate_state(1)[0])
    return torch.Generator().manual_seed((offset + index) % 2**32)


def _ignore(_share: float) -> None:
    """Progress that nobody asked for."""


def _check(
    path: DiffusionPath,
    noise: Tensor,
    labels: Tensor,
    method: str,
    steps: int,
    eta: float,
    tolerance: float,
    generators: Sequence[torch.Generator] | None,
) -> None:
    allowed = _methods_of(path)
    if method not in allowed:
        raise ValueError(f"method: got {method!r}, {type(path).__name__} takes {', '.join(map(repr, allowed))}")
    if noise.ndim < 2 or not len(noise) or not noise.is_floating_point():
        raise ValueError(f"noise: got {noise.dtype} of shape {tuple(noise.shape)}, takes floats of shape (B, C, h, w)")
    if labels.shape != noise.shape[:1]:
        raise ValueError(f"labels: got shape {tuple(labels.shape)}, takes ({len(noise)},), one a sample of noise")
    if steps < 1 or (isinstance(path, DDPM) and steps > path.num_timesteps):
        most = f" to {path.num_timesteps}" if isinstance(path, DDPM) else " or more"
        raise ValueError(f"steps: got {steps}, takes 1{most}")
    if not 0 < tolerance < float("inf"):
        raise ValueError(f"tolerance: got {tolerance}, takes a positive number")
    _check_eta(method, eta, len(noise), generators)


def _methods_of(path: DiffusionPath) -> tuple[str, ...]:
    if isinstance(path, DDPM):
        return ("ddim",)
    if isinstance(path, FlowOT):
        return tuple(ODE_METHODS)
    raise ValueError(f"path: got {type(path).__name__}, takes a DDPM or a FlowOT")


def _check_eta(method: str, eta: float, count: int, generators: Sequence[torch.Generator] | None) -> None:
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: got {eta}, takes 0 (deterministic) to 1 (ancestral)")
    if eta == 0:
        return
    if method != "ddim":
        raise ValueError(f"eta: got {eta}; only ddim adds noise, {method!r} takes 0")
    if generators is None or len(generators) != count:
        given = "none" if generators is None else len(generators)
        raise ValueError(f"generators: got {given}, eta={eta} takes one for each of {count} samples")
