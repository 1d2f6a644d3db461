"""The operations of a study's iterations: of models that are here, and of the paper's, which only need shapes."""

from __future__ import annotations

from functools import cache
from typing import Any

from ..autoencoders import DecoderFeatures
from ..config import PerceptualConfig, Recipe
from ..diffusion import make_path
from ..training.flops import META, denoiser_flops, iteration_flops, perceptual_flops
from ..training.published_flops import DECODERS, DOWNSAMPLING, LATENT_CHANNELS, TERA

# autoencoder.path of a recipe whose operations are counted and that is not trained: an architecture without weights.
ARCHITECTURES = {f"architecture:{name}": name for name in DECODERS}


_COUNTED: dict[str, float] = {}


def sample_flops(recipe: Recipe) -> float:
    """10¹² operations that one sample of a training iteration takes, in expectation over the gate.

    Counted once for each model, which takes seconds for a large one.

    Raises:
        FlopsError: the recipe's perceptual term is of a kind that is not counted.
    """
    key = recipe.model_dump_json(include={"denoiser", "autoencoder", "data", "diffusion", "objective"})
    if key not in _COUNTED:
        _COUNTED[key] = _count(recipe)
    return _COUNTED[key]


def _count(recipe: Recipe) -> float:
    if recipe.autoencoder.path in ARCHITECTURES:
        return _without_weights(recipe) / TERA
    return iteration_flops(recipe, recipe.objective.perceptual is not None).per_sample / TERA


def _without_weights(recipe: Recipe) -> float:
    side = recipe.data.resolution // DOWNSAMPLING
    shape = (LATENT_CHANNELS, side, side)
    denoiser = _denoiser(recipe, shape)
    term = recipe.objective.perceptual
    if not isinstance(term, PerceptualConfig):
        return denoiser
    decoder = _decoder(ARCHITECTURES[recipe.autoencoder.path])
    share = 1.0
    if term.sigma_threshold is not None:
        share = make_path(recipe.diffusion).probability_below(term.sigma_threshold)
    return denoiser + share * perceptual_flops(DecoderFeatures(decoder, term.blocks, lean=False), shape)


def _denoiser(recipe: Recipe, shape: tuple[int, int, int]) -> float:
    """The denoiser's share, the same whatever is added to the loss."""
    key = f"{recipe.denoiser.model_dump_json()} {shape}"
    if key not in _COUNTED:
        _COUNTED[key] = float(denoiser_flops(recipe, shape))
    return _COUNTED[key]


@cache
def _decoder(name: str) -> Any:
    with META:
        return DECODERS[name]()
