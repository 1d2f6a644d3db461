"""The learning rate, as a function of the step alone."""

from __future__ import annotations

import math

from ..config import TrainingConfig


def learning_rate(step: int, config: TrainingConfig) -> float:
    """The learning rate of optimiser step `step` (1, 2, …, `config.steps`).

    It rises linearly over the first `warmup_steps`, the last of which has it whole; then it stays ("constant") or falls
    to zero along half a cosine ("cosine"), which it would reach one step after the last.
    """
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - 1 - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
