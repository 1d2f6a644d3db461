"""The loss at one step in k."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from .base import Estimator, Terms, scaled


class EveryKth(Estimator):
    """Computes the loss at every k-th step, or at each step with probability 1/k, and multiplies it by k.

    At other steps it is a zero that belongs to the prediction's graph, without entering the decoder. At random steps
    the estimate is unbiased at every step. At regular ones it is unbiased over k steps in which the denoiser hardly
    changes. Either way its variance at one step is (k − 1) times the squared loss, or gradient, more than the exact
    loss's; an optimiser that normalises gradients, as Adam does, takes smaller steps for it.

    Args:
        loss: an exact loss or another estimator.
        k: at least 1; one step in k pays for the loss.
        at_random: whether steps are drawn rather than counted. Every rank of a distributed run must have the same
            `seed`, so that none waits for another.
        rescale: multiply by k. False leaves the estimate at 1/k of the loss on average, which is the loss at a smaller
            weight.
        seed: of the draws.

    Raises:
        ValueError: k is not a positive integer.

    Example:
        >>> perceptual = EveryKth(LatentPerceptualLoss(vae), k=4)
        >>> loss = mse + 0.1 * perceptual(clean_hat, clean, sigma)
    """

    def __init__(self, loss: nn.Module, k: int, at_random: bool = False, rescale: bool = True, seed: int = 0) -> None:
        super().__init__(loss, seed)
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"k: got {k}, takes a positive integer")
        self.k = k
        self.at_random = at_random
        self.rescale = rescale

    @property
    def computes(self) -> bool:
        """Whether the loss is computed at `step`."""
        if self.at_random:
            return bool(torch.randint(self.k, (), generator=self.generator()) == 0)
        return self.step % self.k == 0

    def estimate(self, prediction: Tensor, target: Tensor, sigma: Tensor | float | None) -> Terms:
        """k times the loss, or zero."""
        if self.computes:
            terms = self.loss(prediction, target, sigma, return_terms=True)
            return scaled(terms, self.k) if self.rescale else terms
        # Of no samples the loss is a zero that is part of the prediction's graph.
        terms = self.loss(prediction[:0], target[:0], 0.0, return_terms=True)
        return dataclasses.replace(terms, per_sample=terms.loss.detach().expand(len(prediction)))

    def extra_repr(self) -> str:
        """The options, for `print(loss)`."""
        return f"k={self.k}, at_random={self.at_random}, rescale={self.rescale}, seed={self.seed}"
