"""The noise gate 1(σ_t ≤ τ_σ): which samples of a batch a perceptual loss compares, and the mean over all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GatedTerms:
    """What a gated loss is made of.

    Attributes:
        loss: the scalar, mean over the whole batch.
        layers: each layer's share of `loss`, detached; empty for a loss that compares in one place.
        passed: number of samples that passed the gate.
        per_sample: (B,), each sample's loss, zero where the gate is closed, detached.
    """

    loss: Tensor
    layers: dict[str, Tensor]
    passed: int
    per_sample: Tensor


def check_pair(prediction: Tensor, target: Tensor) -> None:
    """Refuses what is not a pair of latents (B, C, h, w) of one shape.

    Raises:
        ValueError: something else, with what was given.
    """
    for name, latents in (("prediction", prediction), ("target", target)):
        if not isinstance(latents, Tensor) or not latents.is_floating_point() or latents.ndim != 4:
            given = f"{latents.dtype} {tuple(latents.shape)}" if isinstance(latents, Tensor) else type(latents).__name__
            raise ValueError(f"{name}: got {given}, takes floating-point latents (B, C, h, w)")
    if prediction.shape != target.shape:
        raise ValueError(
            f"target: got shape {tuple(target.shape)}, takes that of prediction, {tuple(prediction.shape)}"
        )


def check_threshold(sigma_threshold: float | None) -> None:
    """Refuses a τ_σ that is not positive.

    Raises:
        ValueError: with what was given.
    """
    if sigma_threshold is not None and not sigma_threshold > 0:
        raise ValueError(f"sigma_threshold: got {sigma_threshold}, takes a positive number, or None for no gate")


def passing(sigma: Tensor | float | None, sigma_threshold: float | None, prediction: Tensor) -> Tensor:
    """Indices of the samples with σ_t ≤ τ_σ, in order; of all samples where there is no threshold.

    Args:
        sigma: σ_t of each sample, (B,), or one number for all; needed unless the threshold is None.
        sigma_threshold: τ_σ, or None.
        prediction: of batch size B.

    Raises:
        ValueError: `sigma` is missing, of another size, negative, NaN, or a tensor of integers, as timesteps are.
    """
    everything = torch.arange(len(prediction))
    if sigma_threshold is None:
        return everything.to(prediction.device)
    if sigma is None:
        raise ValueError("sigma: missing; pass σ_t of each sample, or set sigma_threshold=None for no gate")
    if isinstance(sigma, Tensor) and not sigma.is_floating_point():
        raise ValueError(f"sigma: got {sigma.dtype}, takes floats: noise-to-signal ratios b_t/a_t, and no timesteps")
    sigma = torch.as_tensor(sigma).detach().reshape(-1).cpu()  # which waits for a GPU once; choosing there would, too
    if sigma.numel() not in (1, len(prediction)):
        raise ValueError(
            f"sigma: got {sigma.numel()} numbers, takes one for each of {len(prediction)} samples, or one for all"
        )
    if not bool((sigma >= 0).all()):
        raise ValueError(
            f"sigma: got {sigma[~(sigma >= 0)][:5].tolist()}, takes noise-to-signal ratios b_t/a_t from 0 on"
        )
    return everything[sigma.expand(len(prediction)) <= sigma_threshold].to(prediction.device)


def over_batch(per_sample: Tensor, passed: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """The loss as a mean over the whole batch, and each sample's, zero where the gate is closed.

    Args:
        per_sample: losses of the samples that passed, (P,).
        passed: their indices, (P,).
        batch_size: B.

    Returns:
        The scalar, with its gradient, and (B,), detached.
    """
    scattered = per_sample.new_zeros(batch_size).index_copy(0, passed, per_sample)
    return scattered.sum() / batch_size, scattered.detach()


def refuse_nan(name: str, latents: Tensor) -> None:
    """Refuses latents that are compared and hold NaN.

    Raises:
        ValueError: with the number of samples that do.
    """
    if bool(torch.isnan(latents).any()):
        raise ValueError(f"{name}: holds NaN in {int(torch.isnan(latents).flatten(1).any(1).sum())} of the samples")


def nothing_passed(prediction: Tensor, layers: tuple[str, ...] = ()) -> GatedTerms:
    """Zero, still part of the graph so that a distributed backward finds what it waits for."""
    zero = prediction[:0].to(torch.promote_types(prediction.dtype, torch.float32)).sum()
    zeros = {name: torch.zeros_like(zero.detach()) for name in layers}
    return GatedTerms(zero, zeros, 0, zero.detach().expand(len(prediction)))
