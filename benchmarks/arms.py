"""The training runs that are compared: one denoiser and optimiser, trained with one objective after another.

A step is the trainer's own: its forward and backward pass, gradient clipping, AdamW, average and terms for the log.
A further arm is one entry of `ARMS`.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from lpl.autoencoders import Autoencoder, DecoderFeatures
from lpl.config import Recipe, build_recipe
from lpl.denoisers import PRESETS, ClassConditionalMMDiT, count_parameters
from lpl.diffusion import make_path
from lpl.training.ema import EMA
from lpl.training.flops import denoiser_flops, perceptual_flops
from lpl.training.objective import Objective, TrainingBatch
from lpl.training.preparation import make_accelerator, make_optimizer
from lpl.training.state import TrainingState
from lpl.training.trainer import compute_gradients

from .decoders import make_autoencoder
from .memory import peak_resident, reset_peak_resident

CLASSES = 1000
BATCHES = 4  # different batches that steps take in turn: how many samples pass the gate varies
L2, EXACT = "ℓ2", "exact LPL"


@dataclass(frozen=True)
class Arm:
    """What is trained.

    Attributes:
        perceptual: settings of the recipe's section `objective.perceptual`, or None for ℓ2 alone.
        decoder: a smaller autoencoder of the same latent channels to compare in, by its name in `benchmarks.decoders`;
            None for the one of the settings.
    """

    perceptual: dict[str, Any] | None = None
    decoder: str | None = None

    @property
    def estimator(self) -> bool:
        """Whether it computes less than the exact loss."""
        return self.decoder is not None or "estimator" in (self.perceptual or {})

    @property
    def period(self) -> int:
        """Steps after which what a step costs repeats itself."""
        return (self.perceptual or {}).get("estimator", {}).get("every", 1)


def _lpl(micro_batch: int, decoder: str | None = None, **estimator: Any) -> Arm:
    """LPL, so many samples decoded at once, and estimated as the recipe's section `estimator` says."""
    perceptual = {"weight": 0.1, "precision": "bfloat16", "micro_batch": micro_batch}
    return Arm({**perceptual, "estimator": estimator} if estimator else perceptual, decoder)


_WINDOW: dict[str, Any] = {"window": 16, "margin": 4}
ARMS = {
    L2: Arm(),
    EXACT: _lpl(6),  # enough for a GPU to be busy
    "one sample at a time": _lpl(1),
    "all samples at once": Arm({"weight": 0.1, "precision": "bfloat16"}),
    "half of the samples": _lpl(6, fraction=0.5),
    "quarter of the samples": _lpl(6, fraction=0.25),
    "window of 16², margin 4": _lpl(24, **_WINDOW),
    "window of 16², quarter of the samples": _lpl(12, fraction=0.25, **_WINDOW),
    "every 4th step": _lpl(6, every=4),
    "every 8th step": _lpl(3, every=8),
    "every 16th step": _lpl(3, every=16),
    "decoder of TAESD's shape": _lpl(8, decoder="taesd"),
    "decoder of TAESD's shape, quarter of the samples": _lpl(8, decoder="taesd", fraction=0.25),
}


@dataclass(frozen=True)
class Settings:
    """Of the model, the images and the device."""

    preset: str
    patch: int
    size: int
    decoder: str
    precision: str
    compiled: bool
    device: str
    seed: int

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"--preset: got {self.preset!r}, takes {', '.join(PRESETS)}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device: got cuda, but torch sees no GPU here; takes cpu")

    def __str__(self) -> str:
        how = "compiled" if self.compiled else "not compiled"
        return f"MMDiT-{self.preset}/{self.patch} at {self.size}², {self.decoder}'s decoder, {self.precision}, {how}"

    def recipe(self, batch: int, perceptual: dict[str, Any] | None = None) -> Recipe:
        """The recipe of an arm."""
        training = {"batch_size": batch, "precision": self.precision, "compile": self.compiled, "ema_decay": 0.9999}
        return build_recipe(
            {
                "seed": self.seed,
                "data": {"resolution": self.size},
                "denoiser": {"preset": self.preset, "patch_size": self.patch},
                "objective": {"perceptual": perceptual},
                "training": training,
            }
        )


class Bench:
    """A denoiser with its optimiser and average, and the arms that train it.

    Args:
        settings: of all arms.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        recipe = settings.recipe(batch=1)
        self.accelerator: Accelerator = make_accelerator(recipe.training)
        self.device = torch.device(settings.device)
        if self.accelerator.device.type != self.device.type:
            raise ValueError(f"--device: got {settings.device}, but training here takes {self.accelerator.device.type}")
        self.autoencoder = make_autoencoder(settings.decoder, settings.seed).bfloat16()
        codec = Autoencoder(self.autoencoder)
        self.latent_shape = codec.latent_shape(settings.size)
        torch.manual_seed(settings.seed)
        with self.device:
            denoiser = ClassConditionalMMDiT(
                self.latent_shape[0], CLASSES, recipe.denoiser.preset, settings.patch, self.latent_shape[1]
            )
        self.parameters = count_parameters(denoiser)
        self.denoiser = denoiser.to(self.device).train()
        self.optimizer = make_optimizer(self.denoiser, recipe.training)
        self.ema = EMA(self.denoiser, recipe.training.ema_decay)
        self.model, self.prepared = self.accelerator.prepare(self.denoiser, self.optimizer)
        self._passed: dict[str, list[float]] = {}

    def compile(self) -> None:
        """Compiles the denoiser as the trainer does; when the batch is known, for another one compiles it again."""
        if self.settings.compiled:
            self.denoiser.compile_blocks()

    def peak_bytes(self, name: str, batch: int) -> int | None:
        """The most memory in use while an arm trains, alone on the device; None where it runs out."""
        try:
            return self._peak_of(self.step(name, batch), ARMS[name].period)
        except Exception as error:
            if out_of_memory(error):
                return None
            raise
        finally:
            self.prepared.zero_grad(set_to_none=True)
            self.free()

    def _peak_of(self, step: Callable[[int], None], period: int) -> int:
        step(0)  # what is made once, such as AdamW's moments, is made
        self.free()
        self._reset_peak()
        step(period)
        step(period + 1)
        return self._peak()

    def rounds(self, name: str, batch: int, steps: int) -> Callable[[], None]:
        """A function that trains an arm for so many steps; it has taken one."""
        step = self.step(name, batch)
        step(0)
        self._passed[name].clear()  # of timed steps alone
        count = 1

        def run() -> None:
            nonlocal count
            for _ in range(steps):
                step(count)
                count += 1

        return run

    def step(self, name: str, batch: int) -> Callable[[int], None]:
        """A function that takes the n-th step of an arm."""
        arm = ARMS[name]
        recipe = self.settings.recipe(batch, arm.perceptual)
        codec = None if arm.perceptual is None else Autoencoder(self._decoder(arm)).to(self.device)
        objective = Objective(make_path(recipe.diffusion), codec, recipe.objective)
        batches = self._batches(recipe, batch)
        state = TrainingState(self.denoiser, self.ema, self.optimizer, objective, None, batch, {})
        passed = self._passed.setdefault(name, [])

        def take(number: int) -> None:
            drawn = replace(batches[number % BATCHES], seed=(self.settings.seed, number))  # estimators draw by it
            terms = compute_gradients(self.accelerator, self.model, objective, [drawn], False)
            norm = self.accelerator.clip_grad_norm_(self.denoiser.parameters(), recipe.training.clip_norm)
            self.prepared.step()
            self.prepared.zero_grad(set_to_none=True)
            state.end_step([{**values, "gradient_norm": norm} for values in terms], self.accelerator.gather)
            passed.extend(float(values["passed"]) for values in terms if "passed" in values)

        return take

    def share_passed(self, name: str) -> float | None:
        """The mean share of samples that passed an arm's gate."""
        passed = self._passed.get(name)
        return sum(passed) / len(passed) if passed else None

    def _decoder(self, arm: Arm) -> nn.Module:
        """The arm's own, which goes when the arm does."""
        if arm.decoder is None:
            return copy.deepcopy(self.autoencoder)
        return make_autoencoder(arm.decoder, self.settings.seed).bfloat16()

    def operations(self, name: str) -> tuple[int, int]:
        """Floating-point operations of a sample: the denoiser's, and those of an exact loss for one that passes."""
        arm, recipe = ARMS[name], self.settings.recipe(1)
        if arm.perceptual is None:
            return denoiser_flops(recipe, self.latent_shape), 0
        features = DecoderFeatures(copy.deepcopy(self.autoencoder))
        return denoiser_flops(recipe, self.latent_shape), perceptual_flops(features, self.latent_shape)

    def _batches(self, recipe: Recipe, batch: int) -> list[TrainingBatch]:
        """Random latents, on the CPU as the trainer's are, ready to be copied."""
        path = make_path(recipe.diffusion)
        generator = torch.Generator().manual_seed(self.settings.seed)
        batches = []
        for _ in range(BATCHES):
            clean = torch.randn(batch, *self.latent_shape, generator=generator)
            noise = torch.randn(clean.shape, generator=generator)
            labels = torch.randint(CLASSES, (batch,), generator=generator)
            made = TrainingBatch(clean, noise, path.sample_timesteps(batch, generator), labels)
            batches.append(made.pinned() if self.device.type == "cuda" else made)
        return batches

    def free(self) -> None:
        """Gives back what no arm holds any more."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()

    def _reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            reset_peak_resident()

    def _peak(self) -> int:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return torch.cuda.max_memory_allocated(self.device)
        return peak_resident()


def out_of_memory(error: Exception) -> bool:
    """Whether an error is that a device's memory ran out; a compiler's own errors say so in their message only."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()
