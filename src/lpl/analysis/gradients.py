"""The loss and its gradient by block and by noise, measured once so that any blocks, weights and gate can be judged.

For every sample the inner products of the blocks' gradients are kept, which give the norm of any weighted sum of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..autoencoders import DecoderFeatures
from ..data import seeded_generator
from ..diffusion.paths import DiffusionPath
from .distances import (
    Comparison,
    Maps,
    Masked,
    Masks,
    block_distances,
    channel_distances,
    depth_weights,
    down_factors,
    masks_of,
)
from .inputs import AnalysisError, Track, untracked
from .predictors import Predictor, output_slope

SIGMAS = (0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 1.7, 3.0, 5.0, 9.0)
# The equation as printed has no floor: a channel that is constant in the prediction makes it infinite. This one is far
# below any channel that varies, and keeps the numbers finite.
PRINTED = Comparison("prediction", 1e-6)
# What is tried, in order of preference: the paper's statistics before others, a low floor before a high one.
COMPARISONS = (
    *(Comparison("prediction", floor) for floor in (1e-3, 1e-2, 1e-1)),
    *(Comparison("target", floor) for floor in (1e-3, 1e-2, 1e-1)),
    Comparison("unit"),
    Comparison("independent"),
)
TOP = 0.1  # share of a block's channels whose part of the loss is called its concentration


@dataclass(frozen=True)
class GradientStudy:
    """Losses and gradients with respect to ẑ0, for N images at each of S noise levels; float64 on the CPU.

    Vectors of the Gram matrices, in this order: the gradient of each of the L blocks' distances, before ω_l; the error
    ẑ0 − z0; and the contrast ẑ0 − mean of its channel.

    Attributes:
        blocks: names of the L blocks.
        omega: depth weight ω_l of each, (L,).
        sigmas: the noise levels, (S,).
        slope: |∂ẑ0/∂output| of the path at each, (S,).
        values: d, values of one latent.
        latent_variance: mean squared deviation of the latents from their channel means.
        loss: block distances before ω_l, (S, N, L).
        gram: inner products, (S, N, L + 2, L + 2).
        feature_reliability: 1 − Σ_c E(φ̂ − φ)²/Σ_c Var φ, the share of the features' variance that ẑ0's explain, (S, L);
            below 0, the mean feature would be nearer.
        by_comparison: name of each of `PRINTED` and `COMPARISONS` → mean block distance before ω_l, (S, L).
        concentration: the same names → share of a block's distance that its top tenth of channels hold, (S, L).
        predictor: what predicted ẑ0.
    """

    blocks: tuple[str, ...]
    omega: Tensor
    sigmas: Tensor
    slope: Tensor
    values: int
    latent_variance: float
    loss: Tensor
    gram: Tensor
    feature_reliability: Tensor
    by_comparison: dict[str, Tensor]
    concentration: dict[str, Tensor]
    predictor: str

    @property
    def reliability(self) -> Tensor:
        """1 − E‖ẑ0 − z0‖²/E‖z0 − mean‖², (S,): 1 where ẑ0 is exact, 0 where the channel's mean would do as well."""
        error = self.gram[:, :, -2, -2].mean(dim=1) / self.values
        return 1 - error / self.latent_variance

    @property
    def diffusion_loss(self) -> Tensor:
        """‖output − target‖² as a mean over its values, (S, N): an error of ẑ0 is the slope times the output's."""
        return self.gram[:, :, -2, -2] / self.values / self.slope.square()[:, None]


def study_gradients(
    features: DecoderFeatures,
    predictor: Predictor,
    path: DiffusionPath,
    latents: Tensor,
    sigmas: Sequence[float] = SIGMAS,
    comparison: Comparison = PRINTED,
    masked: Masked = "deep",
    judged: Masked | None = None,
    image_numbers: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 2,
    track: Track = untracked,
) -> GradientStudy:
    """Measures the perceptual loss and its gradient at ẑ0 for every image at every noise level.

    Args:
        features: the decoder and the blocks to compare.
        predictor: gives ẑ0.
        path: whose output the diffusion loss is taken at.
        latents: z0, (N, C, h, w).
        sigmas: noise levels σ_t, positive, ascending.
        comparison: how features are normalised for the loss and its gradient.
        masked: blocks whose outliers are masked.
        judged: the same for `by_comparison` and `concentration`, where another mask is to be decided on.
        image_numbers: which images the latents are of, (N,), for the predictor; 0 … N − 1 by default.
        seed: of the noise, the same for an image at all levels.
        batch_size: samples at once.
        track: shows progress.

    Raises:
        AnalysisError: sigmas that are not positive and ascending.
    """
    if not sigmas or min(sigmas) <= 0 or list(sigmas) != sorted(set(sigmas)):
        raise AnalysisError(f"sigmas: got {list(sigmas)}, takes positive numbers in ascending order")
    numbers = torch.arange(len(latents)) if image_numbers is None else image_numbers
    mean = latents.mean(dim=(0, 2, 3))
    levels = [_Level(comparison, mean) for _ in sigmas]
    moments: list[list[Tensor]] = []
    omega: dict[str, float] = {}
    for indices in track(torch.arange(len(latents)).split(batch_size), "Gradients by noise and block"):
        clean = latents[indices]
        noise = torch.stack([_noise(clean.shape[1:], seed, int(index)) for index in indices]).to(clean)
        with torch.no_grad():
            target = features(clean)
            factors = down_factors(features, clean, target)
            masks = masks_of(target, factors, masked)
            judging = masks if judged in (None, masked) else masks_of(target, factors, judged)
        omega = depth_weights(target)
        moments.append([_first_two_moments(maps) for maps in target.values()])
        for level, sigma in zip(levels, sigmas, strict=True):
            predicted = predictor(clean, noise, sigma, numbers[indices]).detach().requires_grad_()
            prediction = features(predicted)
            level.add(predicted, clean, prediction, target, masks)
            level.judge(prediction, target, judging)
    names = [entry.name for entry in (PRINTED, *COMPARISONS)]
    return GradientStudy(
        blocks=tuple(omega),
        omega=torch.tensor(list(omega.values()), dtype=torch.float64),
        sigmas=torch.tensor(sigmas, dtype=torch.float64),
        slope=torch.tensor([output_slope(path, sigma) for sigma in sigmas], dtype=torch.float64),
        values=latents[0].numel(),
        latent_variance=float((latents - mean[:, None, None]).double().square().mean()),
        loss=torch.stack([torch.cat(level.loss) for level in levels]),
        gram=torch.stack([torch.cat(level.gram) for level in levels]),
        feature_reliability=torch.stack([level.reliability(_variances(moments)) for level in levels]),
        by_comparison={name: torch.stack([level.mean_of(name) for level in levels]) for name in names},
        concentration={name: torch.stack([level.top_of(name) for level in levels]) for name in names},
        predictor=predictor.name,
    )


class _Level:
    """Collects what is measured at one noise level, batch by batch."""

    def __init__(self, comparison: Comparison, mean: Tensor) -> None:
        self.comparison = comparison
        self.mean = mean
        self.loss: list[Tensor] = []  # (B, L) a batch
        self.gram: list[Tensor] = []  # (B, L + 2, L + 2) a batch
        self.channels: dict[str, list[list[Tensor]]] = {}  # comparison → batch → block → (B, C)
        self.errors: list[list[Tensor]] = []  # batch → block → (B, C) mean squared error

    def add(self, predicted: Tensor, clean: Tensor, prediction: Maps, target: Maps, masks: Masks) -> None:
        distances = block_distances(prediction, target, masks, self.comparison)
        rows = [torch.autograd.grad(row.sum(), predicted, retain_graph=True)[0] for row in distances]
        rows += [predicted.detach() - clean, predicted.detach() - self.mean[:, None, None]]
        vectors = torch.stack(rows, dim=1).flatten(2).double()
        self.loss.append(distances.detach().T.double().cpu())
        self.gram.append((vectors @ vectors.mT).cpu())

    @torch.no_grad()
    def judge(self, prediction: Maps, target: Maps, masks: Masks) -> None:
        """Compares the features in every way, without gradient."""
        for entry in (PRINTED, *COMPARISONS):
            found = [channel_distances(prediction[key], target[key], masks[key], entry).cpu() for key in target]
            self.channels.setdefault(entry.name, []).append(found)
        self.errors.append([(prediction[k].float() - target[k].float()).square().mean((-2, -1)) for k in target])

    def mean_of(self, name: str) -> Tensor:
        """Mean distance of each block, (L,)."""
        return torch.stack([values.mean() for values in _by_block(self.channels[name])]).double()

    def top_of(self, name: str) -> Tensor:
        """Share of each block's distance in its top tenth of channels, (L,)."""
        return torch.stack([_top_share(values.mean(dim=0)) for values in _by_block(self.channels[name])])

    def reliability(self, variances: Sequence[Tensor]) -> Tensor:
        """1 − Σ_c E(φ̂ − φ)²/Σ_c Var φ of each block, (L,)."""
        tiny = torch.finfo(torch.float64).tiny
        pairs = zip(_by_block(self.errors), variances, strict=True)
        missed = [error.double().mean(0).sum().cpu() / v.double().sum().clamp_min(tiny).cpu() for error, v in pairs]
        return 1 - torch.stack(missed)


def _by_block(batches: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


def _top_share(channels: Tensor) -> Tensor:
    """Share of a sum held by the largest tenth of its terms, float64."""
    count = max(1, round(TOP * len(channels)))
    total = channels.double().sum()
    return channels.double().topk(count).values.sum() / total.clamp_min(torch.finfo(torch.float64).tiny)


def _first_two_moments(maps: Tensor) -> Tensor:
    """E φ and E φ² by sample and channel, (B, C, 2)."""
    maps = maps.float()
    return torch.stack([maps.mean(dim=(-2, -1)), maps.square().mean(dim=(-2, -1))], dim=-1)


def _variances(moments: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Variance of each block's channels over all positions and images, (C,) each."""
    averages = [values.mean(dim=0) for values in _by_block(moments)]
    return [(values[:, 1] - values[:, 0].square()).clamp_min(0) for values in averages]


def _noise(shape: Sequence[int], seed: int, index: int) -> Tensor:
    return torch.randn(tuple(shape), generator=seeded_generator(seed, index))
