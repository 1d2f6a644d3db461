"""Exponential moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """θ̄ ← d_n θ̄ + (1 − d_n) θ after every optimiser step, in float32, from step `start` on.

    The average begins as a copy of the weights at step `start` (0: the weights that training begins with), so a late
    start forgets the early ones altogether. With a warm-up its n-th update decays by
    d_n = min(decay, (1 + n)/(10 + n)), so that a young average follows the weights: with a constant 0.999, a short
    run's would still be mostly the weights it began with. Such a young average spans about the last ninth of the steps,
    which is little for a run that begins from averaged weights: without a warm-up (d_n = decay) it carries that average
    on.

    Args:
        model: whose parameters are averaged.
        decay: d in [0, 1); 0 keeps a copy of the weights.
        start: step at which the average begins.
        every: takes in the weights of every so many steps only, each time with the decays of all steps since: next to
            the same average for less of the memory's time, which a small model's steps wait for.
        warmup: whether young averages decay faster.

    Example:
        >>> ema = EMA(model, decay=0.999)
        >>> for step in range(1, steps + 1):
        ...     train_step(model)
        ...     ema.update(step)
        >>> with ema.swapped():
        ...     sample(model)  # with the averaged weights
    """

    def __init__(
        self, model: nn.Module, decay: float = 0.999, start: int = 0, every: int = 1, warmup: bool = True
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay: got {decay}, takes a number from 0 to below 1")
        if start < 0:
            raise ValueError(f"start: got {start}, takes a step, 0 or later")
        if every < 1:
            raise ValueError(f"every: got {every}, takes a number of steps, 1 or more")
        self.model = model
        self.decay = decay
        self.start = start
        self.every = every
        self.warmup = warmup
        self._names = [name for name, _ in model.named_parameters()]
        self._parameters = list(model.parameters())
        self._averages: list[Tensor] = []
        self.update(0)

    @property
    def started(self) -> bool:
        """Whether there is an average yet."""
        return bool(self._averages)

    def decay_at(self, step: int) -> float:
        """The decay applied after optimiser step `step`."""
        if not self.warmup:
            return self.decay
        updates = step - self.start
        return min(self.decay, (1 + updates) / (10 + updates))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights that optimiser step `step` (1, 2, …) produced; does nothing before `start`.

        Nor does it between the steps `start`, `start + every` and so on.
        """
        if step < self.start or (step - self.start) % self.every != 0:
            return
        if not self._averages:
            self._averages = [parameter.detach().float().clone() for parameter in self._parameters]
            return
        current = [parameter.detach().float() for parameter in self._parameters]  # float32 ones are not copied
        decay = math.prod(self.decay_at(one) for one in range(step - self.every + 1, step + 1))
        torch._foreach_lerp_(self._averages, current, 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[nn.Module]:
        """The model holds the averaged weights within the block, and its own again after it, even on an error."""
        self._require_started()
        own = [parameter.detach().clone() for parameter in self._parameters]
        self._assign(self._averages)
        try:
            yield self.model
        finally:
            self._assign(own)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages in float32 with the model's buffers: all of a model's weights; empty before the start."""
        if not self._averages:
            return {}
        averages = dict(zip(self._names, self._averages, strict=True))
        return {name: averages.get(name, value) for name, value in self.model.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over averages saved by `state_dict`; an empty state means that averaging has not started."""
        if not state:
            self._averages = []
            return
        missing = [name for name in self._names if name not in state]
        if missing:
            raise ValueError(f"the saved average lacks {', '.join(missing)}")
        pairs = zip(self._names, self._parameters, strict=True)
        self._averages = [state[name].to(parameter.device, torch.float32).clone() for name, parameter in pairs]

    @torch.no_grad()
    def _assign(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)

    def _require_started(self) -> None:
        if not self._averages:
            raise RuntimeError(f"the average starts at step {self.start}, which training has not reached")
