"""What each block adds to the cost of the perceptual loss: time and floating-point operations."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..autoencoders.lean import count_flops
from ..losses import LatentPerceptualLoss
from .distances import DEFAULT, Comparison


@dataclass(frozen=True)
class BlockCost:
    """Cost of one loss and gradient for one sample, with this block as the last one used.

    Attributes:
        seconds: of wall time, the fastest of some repeats.
        gigaflops: 10⁹ multiplications and additions of convolutions and matrix products, both forward passes and the
            gradient to ẑ0.
        added_seconds: over the block before.
        added_gigaflops: over the block before.
    """

    seconds: float
    gigaflops: float
    added_seconds: float
    added_gigaflops: float


def block_costs(
    autoencoder: nn.Module,
    blocks: tuple[str, ...],
    latents: Tensor,
    comparison: Comparison = DEFAULT,
    repeats: int = 3,
) -> dict[str, BlockCost]:
    """Measures the loss with more and more blocks.

    Args:
        autoencoder: what `LatentPerceptualLoss` takes.
        blocks: names, in the order they run.
        latents: (B, C, h, w) to measure with.
        comparison: how features are normalised.
        repeats: of which the fastest counts.
    """
    costs: dict[str, BlockCost] = {}
    before = BlockCost(0.0, 0.0, 0.0, 0.0)
    for count in range(1, len(blocks) + 1):
        perceptual = LatentPerceptualLoss(
            autoencoder,
            list(blocks[:count]),
            sigma_threshold=None,
            normalization=comparison.normalization,
            variance_floor=comparison.variance_floor,
        )
        perceptual.to(latents.device)
        flops = count_flops(partial(_step, perceptual, latents)) / len(latents) / 1e9
        seconds = min(_seconds(perceptual, latents) for _ in range(repeats)) / len(latents)
        before = BlockCost(seconds, flops, seconds - before.seconds, flops - before.gigaflops)
        costs[blocks[count - 1]] = before
    return costs


def _seconds(perceptual: LatentPerceptualLoss, latents: Tensor) -> float:
    _synchronize(latents)
    start = time.perf_counter()
    _step(perceptual, latents)
    _synchronize(latents)
    return time.perf_counter() - start


def _step(perceptual: LatentPerceptualLoss, latents: Tensor) -> None:
    prediction = (latents + 0.1).requires_grad_()
    perceptual(prediction, latents).backward()


def _synchronize(latents: Tensor) -> None:
    if latents.is_cuda:
        torch.cuda.synchronize(latents.device)
