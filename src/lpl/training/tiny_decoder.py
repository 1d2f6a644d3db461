"""Distils a tiny decoder of the same latent space, in which the perceptual loss costs a fraction.

The tiny autoencoder (diffusers' AutoencoderTiny) learns to make of the diffusion model's latents the images that the
full one makes of them. `LatentPerceptualLoss(tiny)` then compares in the tiny decoder's features. That is another loss:
its gradient is correlated with the full one's, and `lpl.analysis.gradient_agreement` says how well.

Reference: Ollin Boer Bohan, *TAESD*, github.com/madebyollin/taesd (architecture, and the idea).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..autoencoders import Autoencoder, load_autoencoder
from ..config import dump_recipe
from ..data import open_images
from .autoencoder import (
    HeldOut,
    once,
    parameter_count,
    publish,
    record_finished,
    run_steps,
    sheet,
    training_crops,
)
from .display import say
from .run_folder import checkpoint_of, write_text
from .tiny_decoder_recipe import TinyDecoderRecipe
from .tiny_decoder_run import TinyDecoderRun


def train_tiny_decoder(recipe: TinyDecoderRecipe) -> Path:
    """Distils a tiny decoder, or carries on with one that was interrupted, and saves it for diffusers.

    The run's folder receives what `train_autoencoder`'s does. PSNR is between what the tiny and the full decoder make
    of the held-out images' latents, and reconstructions.png shows the full decoder's images, each above the tiny's.

    Args:
        recipe: what to do; see `TinyDecoderRecipe`.

    Returns:
        The folder `autoencoder`, which `load_autoencoder` and `AutoencoderTiny.from_pretrained` read. It takes and
        gives latents as the full autoencoder's diffusion model sees them.

    Raises:
        ResumeError: the run's folder holds a run of another recipe, of other images or of another full autoencoder, or
            another process trains there.
        CheckpointError: it holds checkpoints, and none can be used.
        DataError: the images can't be opened, none is readable, or no held-out ones are named.
        ValueError: a resolution that the full autoencoder does not take.
        TrainingDiverged: the loss became NaN or infinite.
        TrainingInterrupted: a signal asked it to stop.
    """
    return once(recipe, lambda: _train(recipe, recipe.folder))


def _train(recipe: TinyDecoderRecipe, folder: Path) -> None:
    """Distils from the newest checkpoint, or from the start, to the end."""
    full = _full_autoencoder(recipe)
    full.latent_shape(recipe.data.resolution)  # refuses a resolution that it can't encode
    source = open_images(recipe.data)
    contents = {"data.source": source.fingerprint(), "autoencoder.path": full.fingerprint()}
    checkpoint = checkpoint_of(folder, contents)
    heldout = HeldOutDecodes(recipe, full)
    run = TinyDecoderRun(recipe, full, training_crops(recipe, source), contents)
    if checkpoint is not None:
        run.restore(checkpoint)
    write_text(folder / "recipe.yaml", dump_recipe(recipe))
    seconds = run_steps(run, folder, heldout)
    _finish(run, folder, heldout, seconds)


def _full_autoencoder(recipe: TinyDecoderRecipe) -> Autoencoder:
    config = recipe.autoencoder
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_autoencoder(config.path, config.subfolder, getattr(torch, config.precision), device)


class HeldOutDecodes(HeldOut):
    """What the full decoder makes of held-out images' latents, and how near another decoder comes to it.

    Args:
        recipe: names the images, and how many of them to take at random.
        autoencoder: the full one.
    """

    def __init__(self, recipe: TinyDecoderRecipe, autoencoder: Autoencoder) -> None:
        super().__init__(recipe)
        batches = self.images.split(self.batch_size)
        self.latents = torch.cat([autoencoder.encode(images)[0].cpu() for images in batches])
        self.images = torch.cat([autoencoder.decode(latents).cpu() for latents in self.latents.split(self.batch_size)])

    @torch.no_grad()
    def reconstructions(self, model: Any) -> Tensor:
        """What the tiny decoder makes of the same latents, float32 (N, 3, R, R) clamped to [−1, 1]."""
        batches = self.latents.split(self.batch_size)
        return torch.cat([_decode(model, latents).clamp(-1, 1).cpu() for latents in batches])

    @torch.no_grad()
    def latent_error(self, model: Any) -> float:
        """‖encoded − latents‖² over the latents' variance: what the tiny encoder misses of the full one's latents."""
        pairs = zip(self.images.split(self.batch_size), self.latents.split(self.batch_size), strict=True)
        squares = [
            (model.encode(images.to(model.device, model.dtype)).latents.float().cpu() - latents).square().sum()
            for images, latents in pairs
        ]
        return float(torch.stack(squares).sum() / self.latents.numel() / self.latents.var(correction=0))


def _decode(model: Any, latents: Tensor) -> Tensor:
    return model.decode(latents.to(model.device, model.dtype)).sample.float()


def _finish(run: TinyDecoderRun, folder: Path, heldout: HeldOutDecodes, seconds: float) -> None:
    """Measures the tiny autoencoder, and writes everything that a finished run has."""
    model = run.averaged()
    if run.recipe.training.save_precision == "float16":
        model.half().float()  # what is measured is what is saved
    decodes = heldout.reconstructions(model)
    results = heldout.measure(decodes) | {"latent_error": heldout.latent_error(model)}
    sheet(heldout.images, decodes).save(folder / "reconstructions.png")
    settings = {
        "images": len(heldout.images),
        "resolution": run.recipe.data.resolution,
        "reference": "the full decoder's images of posterior means",
        "autoencoder": run.autoencoder.fingerprint(),
    }
    record_finished(folder, run.recipe.name, run.step, seconds, model, settings, results)
    publish(model.half() if run.recipe.training.save_precision == "float16" else model, folder / "autoencoder")
    say(
        f"{folder / 'autoencoder'}: {parameter_count(model):,} parameters, {results['psnr']:.2f} dB to the full decoder"
    )
