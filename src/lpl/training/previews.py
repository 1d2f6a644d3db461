"""A few images of fixed noise, drawn now and then while a run trains, so that one can see what it learns."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import torch

from ..autoencoders import load_autoencoder
from ..config import Recipe
from ..data import to_pil
from ..diffusion import make_path
from .sampling import draw_latents, publish, sample_labels
from .state import TrainingState

IMAGES = 8  # of a preview, at most


class Previews:
    """Draws a run's previews: the recipe's samples 0 … 7, as `lpl sample` would draw them at that step.

    Nothing that training depends on is touched: neither its random numbers nor its weights.

    Args:
        recipe: what is trained; its section `sampling` says how images are drawn.
        device: the autoencoder is put there.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        dtype = getattr(torch, recipe.autoencoder.precision)
        self.config = recipe.sampling.model_copy(update={"count": min(IMAGES, recipe.sampling.count)})
        self.path = make_path(recipe.diffusion)
        self.autoencoder = load_autoencoder(recipe.autoencoder.path, recipe.autoencoder.subfolder, dtype, device)

    def draw(self, state: TrainingState, run: Path) -> Path:
        """Writes the images 000000.png … of the step just taken into RUN/previews/step-00001000.

        The averaged weights are used where the recipe asks for them and there are any yet, else those being trained.

        Args:
            state: of the run.
            run: its folder.

        Returns:
            The preview's folder, which appears whole.
        """
        final = run / "previews" / f"step-{state.step:08d}"
        temporary = run / f".{final.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for index, image in enumerate(self.autoencoder.decode(self._latents(state))):
            to_pil(image).save(temporary / f"{index:06d}.png")
        return publish(temporary, final)

    def _latents(self, state: TrainingState) -> torch.Tensor:
        averaged = self.config.weights == "ema" and state.ema.started
        labels = sample_labels(self.config, state.facts["classes"])
        indices = range(self.config.count)
        with state.ema.swapped() if averaged else contextlib.nullcontext(), torch.no_grad():
            state.denoiser.eval()
            try:
                return draw_latents(
                    state.denoiser, self.path, state.facts["latent_shape"], self.config, indices, labels
                )
            finally:
                state.denoiser.train()
