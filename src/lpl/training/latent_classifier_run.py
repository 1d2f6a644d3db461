"""One classifier of latents in training: its batches, one step, its accuracy and its state."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..config import LatentClassifierConfig, TrainingConfig
from ..data import LatentCache, batch_indices, seeded_generator
from ..losses.latent_vgg import LatentVGG
from .checkpoints import flatten_optimizer, load_tensors, read_state, restore_optimizer, save_checkpoint
from .clock import TrainingClock
from .metrics import TrainingDiverged
from .schedule import learning_rate

SPLIT_SEED = 0  # of the images held out; not a setting, so that accuracies compare
HELD_OUT_SHARE = 10  # one image in so many, where no held-out images are named


@dataclass(frozen=True)
class ClassifierData:
    """What a classifier learns from, and what it is tested on.

    Attributes:
        train: the training latents.
        entries: those of them that are trained on, int64.
        held_out: latents to test on.
        held_out_entries: those of them that are tested on, int64.
        origin: of the held-out latents, in words.
    """

    train: LatentCache
    entries: Tensor
    held_out: LatentCache
    held_out_entries: Tensor
    origin: str

    @classmethod
    def of(cls, train: LatentCache, held_out: LatentCache | None) -> ClassifierData:
        """All training latents and held-out ones; without those, a tenth of the images is kept from training.

        Raises:
            ValueError: there are fewer than two images or classes.
        """
        if len(train.classes) < 2:
            raise ValueError(f"data: {train.folder} has one class; a classifier needs two or more")
        if held_out is not None:
            return cls(train, torch.arange(len(train)), held_out, torch.arange(len(held_out)), "held-out images")
        crops = train.info.key.crops_per_image
        images = torch.randperm(len(train) // crops, generator=seeded_generator(SPLIT_SEED))
        count = max(1, len(images) // HELD_OUT_SHARE)
        if len(images) <= count:
            raise ValueError(f"data: {train.folder} has {len(images)} images; a classifier needs two or more")
        of_image = torch.arange(len(train)).reshape(-1, crops)  # an image's crops stay together
        tested, trained = (of_image[part].flatten() for part in (images[:count], images[count:]))
        return cls(train, trained, train, tested, "a tenth of the training images, kept from training")


class LatentClassifierRun:
    """A classifier in training, on a GPU where there is one.

    Everything random in step n comes from (config.seed, n), so that a run resumed on the CPU in float32 gives the
    weights of one that never stopped. Training latents are drawn from the posterior, mirrored half of the time where
    the cache holds the mirror images, and shifted at random, their edges repeated.

    Args:
        data: latents and labels.
        config: how to train.
        device: where to compute.
    """

    def __init__(self, data: ClassifierData, config: LatentClassifierConfig, device: torch.device) -> None:
        self.data = data
        self.config = config
        self.device = device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            channels, *size = data.train.latent_shape
            self.model = LatentVGG(channels, len(data.train.classes), config.width, config.poolings)
        self.model.check_size(*size)
        # Convolutions in channels-last run about twice as fast, on CPUs as on GPUs.
        network: Any = self.model.to(device)
        network.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), weight_decay=config.weight_decay)
        self.schedule = TrainingConfig(
            steps=config.steps,
            learning_rate=config.learning_rate,
            warmup_steps=config.steps // 10,
            schedule="cosine",
        )
        self.step = 0
        self.clock = TrainingClock()

    def advance(self) -> Tensor:
        """Makes one step; returns its loss, detached."""
        self.step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.schedule)
        latents, labels = self._batch(self.step)
        with self._autocast():
            logits = self.model.train()(latents)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=self.config.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def accuracy(self) -> float:
        """Share of the held-out latents (posterior means) whose class is the likeliest one."""
        self.model.eval()
        correct = 0
        for indices in self.data.held_out_entries.split(4 * self.config.batch_size):
            with self._autocast():
                logits = self.model(self.data.held_out.latents(indices).to(self.device))
            correct += int((logits.argmax(dim=1).cpu() == self.data.held_out.labels[indices]).sum())
        return correct / len(self.data.held_out_entries)

    def largest_class(self) -> float:
        """Share of the held-out latents that belong to their commonest class: what is right without looking."""
        labels = self.data.held_out.labels[self.data.held_out_entries]
        return int(labels.bincount().max()) / len(labels)

    def save(self, folder: Path, identity: Any) -> Path:
        """Writes a checkpoint into the folder of checkpoints, whole or not at all; the one before it is removed.

        Raises:
            TrainingDiverged: a weight is not finite.
        """
        weights = self.model.state_dict()
        if not all(bool(value.isfinite().all()) for value in weights.values()):
            raise TrainingDiverged(
                f"step {self.step}: the classifier's weights are NaN or infinite; lower its learning_rate"
            )
        tensors = {"model": weights, "optimizer": flatten_optimizer(self.optimizer, self.model)}
        return save_checkpoint(
            folder, self.step, tensors, {"seconds": self.clock.seconds, "identity": identity}, keep=1
        )

    def restore(self, checkpoint: Path) -> None:
        """Puts back everything that `save` wrote."""
        state = read_state(checkpoint)
        self.model.load_state_dict(load_tensors(checkpoint, "model"))
        restore_optimizer(self.optimizer, self.model, load_tensors(checkpoint, "optimizer"))
        self.clock = TrainingClock(state["seconds"])
        self.step = state["step"]

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        cache, size = self.data.train, self.config.batch_size
        indices = self.data.entries[batch_indices(len(self.data.entries), size, self.config.seed, step - 1)]
        generator = seeded_generator(self.config.seed, step)
        flips = (torch.rand(size, generator=generator) < 0.5) & cache.info.key.flips
        latents = cache.latents(indices, flips, generator)
        latents = shifted(latents, round(self.config.max_shift * latents.shape[-1]), generator)
        return latents.to(self.device, memory_format=torch.channels_last), cache.labels[indices].to(self.device)

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")


def shifted(latents: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Latents (B, C, h, w), each moved by up to `most` positions along both sides; what comes in repeats the edge."""
    if most == 0:
        return latents
    height, width = latents.shape[-2:]
    padded = functional.pad(latents, (most,) * 4, mode="replicate")
    offsets = torch.randint(2 * most + 1, (len(latents), 2), generator=generator).tolist()
    return torch.stack(
        [image[:, top : top + height, left : left + width] for image, (top, left) in zip(padded, offsets, strict=True)]
    )
