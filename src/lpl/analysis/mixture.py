"""What training would see: the measurements by noise level, weighted as the path draws its times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import seeded_generator
from ..diffusion.paths import DiffusionPath
from .gradients import GradientStudy

DRAWS = 200_000  # times drawn to see how often each noise level occurs
CLOSED, OPEN = 0, 1  # columns of `NoiseMixture.mass`


@dataclass(frozen=True)
class NoiseMixture:
    """How often training meets each measured noise level, which stands for those nearest to it on a logarithmic scale.

    Attributes:
        mass: probability of a time near each level whose gate is closed, and open: float64 (S, 2), sums to 1.
    """

    mass: Tensor

    @property
    def everywhere(self) -> Tensor:
        """Probability of each level, (S,)."""
        return self.mass.sum(dim=1)

    @property
    def passed(self) -> Tensor:
        """Probability of each level with the gate open, (S,)."""
        return self.mass[:, OPEN]


def noise_mixture(path: DiffusionPath, sigmas: Tensor, threshold: float | None, seed: int = 0) -> NoiseMixture:
    """Draws times as training does and counts them by the nearest of the measured levels and by the gate.

    Args:
        path: whose times are drawn.
        sigmas: measured levels, ascending, (S,).
        threshold: τ_σ, or None for no gate.
        seed: of the draws.
    """
    drawn = path.sigma(path.sample_timesteps(DRAWS, seeded_generator(seed))).double()
    borders = (sigmas[1:] * sigmas[:-1]).sqrt()
    level = torch.bucketize(drawn, borders)
    is_open = torch.ones_like(level) if threshold is None else (drawn <= threshold).long()
    counts = torch.bincount(2 * level + is_open, minlength=2 * len(sigmas)).double()
    return NoiseMixture((counts / DRAWS).reshape(-1, 2))


def weights_of(study: GradientStudy, blocks: Sequence[str], depth_weights: bool = True) -> Tensor:
    """ω_l of the blocks used and 0 for the others, float64 (L,)."""
    used = torch.tensor([name in blocks for name in study.blocks], dtype=torch.float64)
    return used * study.omega if depth_weights else used


def perceptual_energy(study: GradientStudy, weights: Tensor) -> Tensor:
    """E‖∂L_LPL/∂output‖² of one sample at each level, (S,)."""
    blocks = len(study.blocks)
    energy = torch.einsum("snij,i,j->s", study.gram[:, :, :blocks, :blocks], weights, weights) / study.gram.shape[1]
    return energy * study.slope.square()


def diffusion_energy(study: GradientStudy) -> Tensor:
    """E‖∂L_diff/∂output‖² of one sample at each level, (S,): the gradient of a mean of d squares is 2/d the error."""
    return 4 / study.values * study.diffusion_loss.mean(dim=1)


def gradient_ratios(study: GradientStudy, weights: Tensor) -> Tensor:
    """‖∇L_LPL‖/‖∇L_diff‖ at the denoiser's output at each level, for w_LPL = 1, (S,)."""
    return (perceptual_energy(study, weights) / diffusion_energy(study)).sqrt()


def gradient_ratio(study: GradientStudy, weights: Tensor, mixture: NoiseMixture) -> float:
    """The same of a large training batch, gate included: what training logs as `gradient_ratio` at w_LPL = 1."""
    perceptual = (mixture.passed * perceptual_energy(study, weights)).sum()
    return float((perceptual / (mixture.everywhere * diffusion_energy(study)).sum()).sqrt())


def typical_ratio(study: GradientStudy, weights: Tensor, mixture: NoiseMixture) -> float:
    """Median over samples that pass the gate of ‖∇L_LPL‖/‖∇L_diff‖: what a few magnified samples do not move."""
    blocks = len(study.blocks)
    perceptual = torch.einsum("snij,i,j->sn", study.gram[:, :, :blocks, :blocks], weights, weights)
    diffusion = 4 / study.values * study.diffusion_loss
    ratios = (perceptual * study.slope.square()[:, None] / diffusion).clamp_min(0).sqrt()
    mass = (mixture.passed[:, None] / ratios.shape[1]).expand_as(ratios).flatten()
    order = ratios.flatten().argsort()
    cumulative = mass[order].cumsum(0)
    return float(ratios.flatten()[order][int((cumulative < cumulative[-1] / 2).sum())])


def matched_weight(study: GradientStudy, weights: Tensor, mixture: NoiseMixture, fraction: float = 0.1) -> float:
    """w for which Var(w·L_LPL) = fraction · Var(ℓ2) over samples, as `weight: matched` measures it in training."""
    perceptual = study.loss @ weights
    return (
        fraction * _variance(study.diffusion_loss, mixture.everywhere) / _variance(perceptual, mixture.passed)
    ) ** 0.5


def _variance(values: Tensor, mass: Tensor) -> float:
    """Variance of values (S, N) whose levels have the given masses; what is missing to 1 has value 0."""
    mean = (mass * values.mean(dim=1)).sum()
    return float((mass * values.square().mean(dim=1)).sum() - mean**2)


def block_shares(study: GradientStudy, weights: Tensor, mass: Tensor) -> Tensor:
    """Each block's share of the squared norm of the loss's gradient, ⟨ω_l g_l, g⟩/‖g‖², (L,), which add up to 1.

    Args:
        study: what was measured.
        weights: ω_l, (L,).
        mass: of each level, (S,).
    """
    blocks = len(study.blocks)
    gram = study.gram[:, :, :blocks, :blocks].mean(dim=1) * study.slope.square()[:, None, None]
    parts = torch.einsum("s,sij,i,j->i", mass, gram, weights, weights)
    return parts / parts.sum()


def alignment(study: GradientStudy, weights: Tensor) -> Tensor:
    """Cosine between the loss's gradient and the error ẑ0 − z0 at each level, (S,): 1 would be the ℓ2 loss's own."""
    return _cosine(study, weights, column=-2)


def contrast_pull(study: GradientStudy, weights: Tensor) -> Tensor:
    """Cosine between the loss's descent and ẑ0 − mean at each level, (S,).

    The ℓ2 loss's is zero at the posterior mean. What is above zero asks for more contrast than the posterior mean has.
    """
    return -_cosine(study, weights, column=-1)


def _cosine(study: GradientStudy, weights: Tensor, column: int) -> Tensor:
    blocks = len(study.blocks)
    norm = torch.einsum("snij,i,j->s", study.gram[:, :, :blocks, :blocks], weights, weights)
    product = torch.einsum("sni,i->s", study.gram[:, :, :blocks, column], weights)
    tiny = torch.finfo(torch.float64).tiny
    return product / (norm * study.gram[:, :, column, column].sum(dim=1)).clamp_min(tiny).sqrt()
