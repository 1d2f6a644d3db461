"""What all estimators share: the call, what their random numbers depend on, and the gate."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..gate import GatedTerms, check_pair
from ..perceptual import PerceptualTerms

Terms = PerceptualTerms | GatedTerms
LossTerms = TypeVar("LossTerms", PerceptualTerms, GatedTerms)


class Estimator(nn.Module):
    """A loss computed in part, such that on average over its draws it is the whole, or nearly.

    In training mode a call returns the estimate and takes the count `step` one further; in evaluation mode (`.eval()`)
    a call returns the exact loss. Everything random is a function of `seed` and `step`: a loop that sets
    `estimator.step` to its own count of forward passes gets the same draws after a resumption, and one that saves the
    estimator's state dict does, too. Around another estimator, the outer one's step counts.

    Args:
        loss: an exact loss or another estimator; called as `loss(prediction, target, sigma, return_terms=True)`.
        seed: of the draws. Ranks of a distributed run should have different ones, except for `EveryKth`.

    Raises:
        ValueError: `loss` is none.

    Attributes:
        step: number of the next call, from 0; may be set at any time.
    """

    def __init__(self, loss: nn.Module, seed: int = 0) -> None:
        super().__init__()
        if not isinstance(loss, nn.Module) or not hasattr(loss, "sigma_threshold"):
            raise ValueError(f"loss: got {type(loss).__name__}, takes a loss, such as LatentPerceptualLoss(vae)")
        self.loss: Any = loss
        self.seed = seed
        self.step = 0

    def forward(
        self, prediction: Tensor, target: Tensor, sigma: Tensor | float | None = None, return_terms: bool = False
    ) -> Any:
        """As the exact loss's, see `LatentPerceptualLoss`.

        The terms are those of the loss inside. `per_sample` holds the samples' estimates: zero for those left out, and
        more than their loss for those reweighted, so that its mean is the estimate.
        """
        check_pair(prediction, target)
        if not self.training:
            return self.loss(prediction, target, sigma, return_terms=return_terms)
        if isinstance(self.loss, Estimator):
            self.loss.step = self.step
        terms = self.estimate(prediction, target, sigma)
        self.step += 1
        return terms if return_terms else terms.loss

    def estimate(self, prediction: Tensor, target: Tensor, sigma: Tensor | float | None) -> Terms:
        """The estimate at `step`."""
        raise NotImplementedError

    @property
    def sigma_threshold(self) -> float | None:
        """τ_σ of the exact loss."""
        return self.loss.sigma_threshold

    def generator(self) -> torch.Generator:
        """A CPU generator for this step's draws; unrelated for other steps, seeds and classes."""
        words = f"{type(self).__name__} {self.seed} {self.step}"
        # Four bytes: PyTorch's CPU generator is seeded by that much of a number.
        digest = hashlib.blake2b(words.encode(), digest_size=4).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little"))

    def get_extra_state(self) -> dict[str, int]:
        """For the state dict."""
        return {"step": self.step}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """From the state dict."""
        self.step = state["step"]


def sigma_of_each(prediction: Tensor, sigma: Tensor | float) -> Tensor:
    """σ_t of each sample, (B,), whether given for each or as one number for all."""
    return torch.as_tensor(sigma, device=prediction.device).reshape(-1).expand(len(prediction))


def scaled(terms: LossTerms, factor: float | Tensor) -> LossTerms:
    """The terms of `factor` times the loss."""
    values: dict[str, Any] = {"loss": terms.loss * factor, "per_sample": terms.per_sample * factor}
    return dataclasses.replace(terms, **values, **scaled_shares(terms, factor))


def scaled_shares(terms: Any, factor: float | Tensor) -> dict[str, Any]:
    """What the loss is the sum of, by the attribute's name, times `factor`: each block's, or each layer's."""
    names = [name for name in ("blocks", "layers") if hasattr(terms, name)]
    return {name: {key: value * factor for key, value in getattr(terms, name).items()} for name in names}
