"""The floating-point operations of a training iteration, counted as they run, on tensors that hold no memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor, nn

from ..autoencoders import DecoderFeatures, load_autoencoder
from ..autoencoders.lean import count_flops
from ..config import PerceptualConfig, Recipe
from ..diffusion import make_path
from ..errors import LplError
from ..losses import LatentPerceptualLoss
from ..losses.estimators import RandomWindows
from .loading import build_denoiser

META = torch.device("meta")  # tensors with shapes and nothing in them


class FlopsError(LplError, ValueError):
    """An iteration that can't be counted; the message says why."""


@dataclass(frozen=True)
class FlopCount:
    """The floating-point operations of one training iteration in one process; a multiply-add counts as two.

    Counted are the convolutions, matrix products and attention of the denoiser's forward and backward pass, and of the
    perceptual term's three passes: the target's features, the prediction's, and the gradient to ẑ0. Not counted are the
    encoder, since training reads latents that were encoded beforehand; the optimiser and whatever else goes element by
    element; and the gradient ratio, which is measured on logged steps alone.

    Attributes:
        denoiser: of one sample; what gradient checkpointing computes again included.
        perceptual: of one sample that enters the decoder, a mean over windows where those are drawn; 0 without the
            term.
        passing: share of the samples that enter it, in expectation over the training times: those that pass the gate,
            less what an estimator leaves out.
        samples: of an iteration.
    """

    denoiser: int
    perceptual: int
    passing: float
    samples: int

    @property
    def per_sample(self) -> float:
        """Of one sample, in expectation over the times."""
        return self.denoiser + self.passing * self.perceptual

    @property
    def total(self) -> float:
        """Of the iteration, in expectation over the times."""
        return self.samples * self.per_sample


def iteration_flops(recipe: Recipe, with_perceptual: bool, lean: bool = True) -> FlopCount:
    """Counts a training iteration of a recipe, batch_size · accumulation samples.

    Nothing is computed and next to no memory is taken, whatever the denoiser's size; the autoencoder's weights are
    loaded for its architecture.

    Args:
        recipe: its data are not opened.
        with_perceptual: with the recipe's perceptual term, or, where it has none, with the latent perceptual loss as it
            is by default; False: the diffusion loss alone.
        lean: as training runs the decoder, its upsamplings folded into convolutions; False: as the autoencoder itself
            runs it.

    Raises:
        FlopsError: the recipe's perceptual term is of a kind that is not counted.
        FileNotFoundError: there is no such autoencoder.
        ValueError: the resolution, patch size or blocks don't fit the models.
    """
    codec = load_autoencoder(recipe.autoencoder.path, recipe.autoencoder.subfolder)
    latent_shape = codec.latent_shape(recipe.data.resolution)
    samples = recipe.training.batch_size * recipe.training.accumulation
    denoiser = denoiser_flops(recipe, latent_shape)
    if not with_perceptual:
        return FlopCount(denoiser, 0, 0.0, samples)
    term = _latent_perceptual(recipe)
    features = DecoderFeatures(codec.model, term.blocks, lean=lean)
    shapes = decoded_shapes(features, term, latent_shape)
    each = {shape: perceptual_flops(features, shape) for shape in dict.fromkeys(shapes)}
    perceptual = sum(each[shape] for shape in shapes) / len(shapes)
    return FlopCount(denoiser, round(perceptual), decoded_share(recipe, term), samples)


def denoiser_flops(recipe: Recipe, latent_shape: tuple[int, int, int]) -> int:
    """One sample's forward and backward pass through a recipe's denoiser.

    Args:
        recipe: its section `denoiser`.
        latent_shape: (C, h, w).
    """
    with META:
        denoiser = build_denoiser(recipe, num_classes=1, latent_shape=latent_shape)
        latents, time, label = torch.empty(1, *latent_shape), torch.empty(1), torch.empty(1, dtype=torch.int64)
    return count_flops(lambda: denoiser(latents, time, label).sum().backward())


def perceptual_flops(features: DecoderFeatures, latent_shape: tuple[int, int, int]) -> int:
    """The three passes of one sample: the target's features, the prediction's, and the gradient to the prediction.

    Distances and normalisation go element by element and don't count.

    Args:
        features: moved to "meta", which leaves the autoencoder they are of as it was.
        latent_shape: (C, h, w).
    """
    features = features.to(META)
    latents = torch.empty(1, *latent_shape, device=META)
    return count_flops(partial(_three_passes, features, latents))


def decoded_share(recipe: Recipe, term: PerceptualConfig) -> float:
    """The share of samples that enter the decoder, in expectation over the training times and an estimator's steps."""
    batch = recipe.training.batch_size
    threshold, estimator = term.sigma_threshold, term.estimator
    share = 1.0 if threshold is None else make_path(recipe.diffusion).probability_below(threshold)
    passing = np.arange(batch + 1)  # how many of a batch pass: binomially distributed
    drawn = np.ceil(estimator.fraction * passing)
    return float(binom.pmf(passing, batch, share) @ drawn) / batch / estimator.every


def decoded_shapes(
    features: DecoderFeatures, term: PerceptualConfig, latent_shape: tuple[int, int, int]
) -> list[tuple[int, int, int]]:
    """What of a latent is decoded: all of it, or each of the windows that are drawn from, with its margin."""
    channels, height, width = latent_shape
    if term.estimator.window is None:
        return [latent_shape]
    windows = RandomWindows(LatentPerceptualLoss(features), term.estimator.window, term.estimator.margin)
    return [
        (channels, window.rows.last - window.rows.first, window.columns.last - window.columns.first)
        for window in windows.windows(height, width)
    ]


def _three_passes(features: nn.Module, latents: Tensor) -> None:
    with torch.no_grad():
        features(latents)
    maps = features(latents.clone().requires_grad_())
    torch.stack([value.sum() for value in maps.values()]).sum().backward()


def _latent_perceptual(recipe: Recipe) -> PerceptualConfig:
    term = recipe.objective.perceptual or PerceptualConfig()
    if not isinstance(term, PerceptualConfig):
        raise FlopsError(
            f"objective.perceptual: got a {type(term).__name__}; operations are counted of the latent perceptual loss"
        )
    return term
