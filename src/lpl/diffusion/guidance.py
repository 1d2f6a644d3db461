"""Classifier-free guidance, on an interval of time.

Reference: Ho & Salimans, *Classifier-Free Diffusion Guidance*, 2022; Kynkäänniemi et al., *Applying Guidance in a
Limited Interval Improves Sample and Distribution Quality*, 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""denoiser(latents (B, C, h, w), conditioning (B,) in [0, 1000], labels (B,)) -> output (B, C, h, w)."""


def guided(
    denoiser: Any,
    guidance_scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
    null_label: int | None = None,
) -> Denoiser:
    """A denoiser whose output is o_∅ + scale · (o_class − o_∅), computed in one batch of 2B.

    Scale 1 is no guidance and 0 ignores the class. Samples whose time is outside the interval get o_class, and at
    scale 1 all do; neither then costs more than the bare denoiser.

    Args:
        denoiser: called as `denoiser(latents, conditioning, labels)`.
        guidance_scale: 0 or more.
        interval: first and last time that are guided, in [0, 1]: 0 is data and 1 is noise.
        null_label: the label for no class; by default `denoiser.null_label`.

    Returns:
        A function called as the denoiser is; it combines outputs in float32. At scale 1, the denoiser itself.

    Raises:
        ValueError: a negative scale, an interval that is not within [0, 1], or a null label that is needed and unknown.

    Example:
        >>> latents = sample_latents(path, guided(denoiser, 2.0, (0.1, 0.8)), noise, labels)
    """
    low, high = interval
    if not 0 <= guidance_scale < float("inf"):
        raise ValueError(f"guidance_scale: got {guidance_scale}, takes 0 or more; 1 is no guidance")
    if not 0 <= low <= high <= 1:
        raise ValueError(f"interval: got {interval}, takes two times with 0 <= first <= last <= 1 (0 data, 1 noise)")
    if null_label is None:
        null_label = getattr(denoiser, "null_label", None)
    if guidance_scale == 1:
        plain: Denoiser = denoiser
        return plain
    if null_label is None:
        raise ValueError(
            f"null_label: {type(denoiser).__name__} has no null_label, so give the label that stands for no class; "
            "only guidance_scale=1 does without"
        )
    return _guided(denoiser, guidance_scale, 1000 * low, 1000 * high, null_label)


def _guided(denoiser: Any, scale: float, low: float, high: float, null_label: int) -> Denoiser:
    """`low` and `high` are in the units of the conditioning."""

    def predict(latents: Tensor, conditioning: Tensor, labels: Tensor) -> Tensor:
        rows = ((conditioning >= low) & (conditioning <= high)).nonzero().flatten()
        nothing = torch.full_like(labels[rows], null_label)
        outputs: Tensor = denoiser(
            torch.cat([latents, latents[rows]]),
            torch.cat([conditioning, conditioning[rows]]),
            torch.cat([labels, nothing]),
        )
        if not len(rows):
            return outputs
        with_class, without = outputs.float().split([len(latents), len(rows)])
        # Linear in both, so that scale 0 gives exactly the output without a class.
        return with_class.index_copy(0, rows, without + scale * (with_class[rows] - without))

    return predict
