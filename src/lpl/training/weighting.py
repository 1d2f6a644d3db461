"""A perceptual term with its weight, which is a number or is matched to the diffusion loss by variance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..config import PerceptualTermConfig
from ..losses.matching import VarianceMatchedWeight
from ..user_code import UserCodeError
from .terms import PERCEPTUAL_TERMS, LatentPrediction, PerceptualTerm, TermError, TermParts, TermValues


class NonFiniteLoss(FloatingPointError):
    """A term of the loss became NaN or infinite; `term` is its name in the metrics."""

    def __init__(self, term: str) -> None:
        super().__init__(f"{term} is NaN or infinite")
        self.term = term


class WeightedTerm:
    """A perceptual term and w.

    Args:
        config: the recipe's section for the term.
        parts: what it is made from.
        gauge: the term is not trained with: it serves to measure eq. (15)'s gain w · Var(L_perceptual)/Var(ℓ2), and is
            let go once that is known.

    Raises:
        TermError: the term can't be made; the message begins with the recipe's key.
    """

    def __init__(self, config: PerceptualTermConfig, parts: TermParts, gauge: bool = False) -> None:
        self.config = config
        self.term: PerceptualTerm | None = None
        try:
            self.term = PERCEPTUAL_TERMS[type(config)](config, parts)
        except (TermError, UserCodeError) as error:
            raise TermError(f"objective.{'gate_perceptual' if gauge else 'perceptual'}.{error}") from error
        self.facts: Mapping[str, Any] = getattr(self.term, "facts", {})
        self.gauge = gauge
        self.matched: VarianceMatchedWeight | None = None
        if gauge or config.weight == "matched":
            self.matched = VarianceMatchedWeight(config.variance_fraction, config.matching_batches)
        self._unmatched: list[tuple[Tensor, Tensor]] = []  # per-sample losses of this step's batches

    @property
    def weight(self) -> float:
        """w as of now; 0 while it is being matched."""
        if self.config.weight != "matched":
            return self.config.weight
        assert self.matched is not None
        return self.matched.value

    @property
    def gain(self) -> float:
        """w · Var(L_perceptual)/Var(ℓ2), eq. (15)'s; 0 until both variances have been measured."""
        if self.matched is None or not self.matched.fixed:
            return 0.0
        return self.weight * self.matched.variance_ratio

    def __call__(self, prediction: LatentPrediction, errors: Tensor) -> TermValues:
        """The term's value, before its weight; without a graph where that is 0, as it is while being matched.

        Args:
            prediction: what to compare.
            errors: ℓ2 loss of each sample, (B,).

        Raises:
            NonFiniteLoss: the prediction is not finite, and the term refuses to compare it.
        """
        values = self._compute(prediction, with_gradient=self.weight > 0)
        if self.matched is not None and not self.matched.fixed:
            self._unmatched.append((errors.detach(), values.per_sample.detach().to(errors)))
        return values

    def measure(self, prediction: LatentPrediction, errors: Tensor) -> None:
        """Of a gauge: takes in a batch, as long as the gain is not known.

        Raises:
            NonFiniteLoss: the prediction is not finite, and the term refuses to compare it.
        """
        if self.term is not None:
            values = self._compute(prediction, with_gradient=False)
            self._unmatched.append((errors.detach(), values.per_sample.detach().to(errors)))

    def end_step(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Takes this step's batches into a weight that is still being matched; otherwise does nothing.

        Args:
            gather: concatenates a tensor (N, …) of every process along its first dimension, as `Accelerator.gather`.

        Raises:
            NonFiniteLoss: a sample's loss is not finite.
        """
        if self.matched is None or self.matched.fixed or not self._unmatched:
            return
        losses = torch.stack([torch.cat(column) for column in zip(*self._unmatched, strict=True)], dim=1)
        every = gather(losses)
        batches = len(self._unmatched) * (len(every) // len(losses))
        self._unmatched.clear()
        for name, column in (("loss/diffusion", every[:, 0]), ("loss/perceptual", every[:, 1])):
            if not bool(torch.isfinite(column).all()):
                raise NonFiniteLoss(name)
        self.matched.update(every[:, 0], every[:, 1], batches)
        self._let_go()

    def state_dict(self) -> dict[str, float]:
        """The matched weight, or what has been measured for it so far; plain numbers."""
        return {} if self.matched is None else self.matched.state_dict()

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continues from `state_dict()`'s numbers."""
        if self.matched is not None:
            self.matched.load_state_dict(state)
            self._let_go()

    def _compute(self, prediction: LatentPrediction, with_gradient: bool) -> TermValues:
        assert self.term is not None
        try:
            with torch.set_grad_enabled(torch.is_grad_enabled() and with_gradient):
                return self.term(prediction)
        except ValueError as error:
            # A term may refuse latents that are not finite; that is a run that diverged, not a mistake of the caller.
            if bool(torch.isfinite(prediction.predicted).all()):
                raise
            raise NonFiniteLoss("loss/diffusion") from error

    def _let_go(self) -> None:
        """Frees a gauge's term, a decoder for instance, once the gain is known."""
        if self.gauge and self.matched is not None and self.matched.fixed:
            self.term = None
