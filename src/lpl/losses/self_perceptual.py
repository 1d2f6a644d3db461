"""The Self-Perceptual loss: a distance between hidden states of a frozen denoiser.

Reference: Lin & Yang, *Diffusion Model with Perceptual Loss*, 2024 (arXiv 2401.00110). The denoiser is its own
perceptual network: ẑ0 and z0 are noised again, both to a fresh time t' with the same noise ε, and

    L = E ‖h(a_t' ẑ0 + b_t' ε, t', c) − h(a_t' z0 + b_t' ε, t', c)‖²

where h is what a block of the frozen denoiser puts out; the norm is a mean over its values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .gate import GatedTerms, check_pair, check_threshold, nothing_passed, over_batch, passing, refuse_nan

if TYPE_CHECKING:
    from ..diffusion.paths import DiffusionPath


class SelfPerceptualLoss(nn.Module):
    """Compares what a block of a frozen denoiser makes of a predicted clean latent and of the true one.

    Args:
        hidden: called as `hidden(noisy, conditioning, **condition)`, gives one tensor (B, …); such as
            `lpl.denoisers.hidden.hidden_states(denoiser, depth="middle")`. It must not change while training does.
        path: noises the latents and draws times; the one that the denoiser was trained on.
        sigma_threshold: τ_σ. Samples whose σ_t, of the time at which ẑ0 was predicted, is above it contribute zero and
            never enter the denoiser. None: no gate, as the authors have it.

    Example:
        >>> loss = SelfPerceptualLoss(hidden_states(denoiser, "middle"), path)
        >>> value = loss(clean_hat, clean, noise=noise, labels=labels)
    """

    def __init__(
        self, hidden: Callable[..., Tensor], path: DiffusionPath, sigma_threshold: float | None = None
    ) -> None:
        super().__init__()
        check_threshold(sigma_threshold)
        self.hidden = hidden
        self.path = path
        self.sigma_threshold = sigma_threshold

    def forward(
        self,
        prediction: Tensor,
        target: Tensor,
        sigma: Tensor | float | None = None,
        noise: Tensor | None = None,
        timesteps: Tensor | None = None,
        return_terms: bool = False,
        **condition: Any,
    ) -> Any:
        """The loss of predicted clean latents; its gradient flows to `prediction` alone.

        Args:
            prediction: ẑ0, (B, C, h, w), as the diffusion model sees latents.
            target: z0, of the same shape.
            sigma: σ_t of each sample, (B,), or one number for all. Needed only where there is a threshold.
            noise: ε, of the latents' shape; drawn anew if None. The authors take that of the training step.
            timesteps: t', (B,), as the path has them; drawn anew by the path if None.
            return_terms: also return what the loss is made of.
            condition: what else `hidden` takes, such as `labels`; in every tensor of B entries, and in mappings of
                such, those of the samples that pass the gate are taken.

        Returns:
            The loss, a scalar of at least float32: the sum over samples that pass the gate, divided by B; or
            `GatedTerms` that hold it.

        Raises:
            ValueError: shapes that differ, a missing or misshapen `sigma`, or a latent that passes the gate and holds
                NaN.
        """
        check_pair(prediction, target)
        passed = passing(sigma, self.sigma_threshold, prediction)
        noise = torch.randn_like(target) if noise is None else noise
        if timesteps is None:
            timesteps = self.path.sample_timesteps(len(target)).to(target.device)
        if len(passed) == 0:
            terms = nothing_passed(prediction)
        else:
            chosen = condition if len(passed) == len(target) else _those(condition, passed, len(target))
            per_sample = self._distances(
                prediction[passed], target[passed].detach(), noise[passed], timesteps[passed], chosen
            )
            loss, scattered = over_batch(per_sample, passed, len(target))
            terms = GatedTerms(loss, {}, len(passed), scattered)
        return terms if return_terms else terms.loss

    def _distances(
        self, prediction: Tensor, target: Tensor, noise: Tensor, timesteps: Tensor, condition: Mapping[str, Any]
    ) -> Tensor:
        """The mean squared difference of hidden states, (B,)."""
        refuse_nan("prediction", prediction)
        refuse_nan("target", target)
        conditioning = self.path.conditioning(timesteps)
        with torch.no_grad():
            true = self.hidden(self.path.add_noise(target, noise, timesteps), conditioning, **condition)
        predicted = self.hidden(self.path.add_noise(prediction, noise, timesteps), conditioning, **condition)
        precision = torch.promote_types(predicted.dtype, torch.float32)
        return (predicted.to(precision) - true.to(precision)).square().flatten(1).mean(dim=1)


def _those(condition: Any, passed: Tensor, batch_size: int) -> Any:
    """The part of a condition that belongs to some of the samples."""
    if isinstance(condition, Mapping):
        return {name: _those(value, passed, batch_size) for name, value in condition.items()}
    if isinstance(condition, Tensor) and condition.ndim and len(condition) == batch_size:
        return condition[passed]
    return condition
