"""`kind: custom`, a loss of one's own from a file."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...config import CustomTermConfig
from ...losses.gate import nothing_passed, over_batch, passing
from ...user_code import load_from_file
from .base import LatentPrediction, TermError, TermParts, Terms, TermValues


class CustomTerm:
    """Runs a class of FILE.py on the samples that pass the gate.

    The class is made as `CLASS(parts, **settings)` with `TermParts`, and called with a `LatentPrediction`. It returns
    each sample's loss, (B,) with its gradient; or `TermValues`, where it has more to log. An `nn.Module` is moved to
    the device, frozen and put into evaluation mode.
    """

    def __init__(self, config: CustomTermConfig, parts: TermParts) -> None:
        self.name = config.term
        self.sigma_threshold = config.sigma_threshold
        made = load_from_file(config.term, "term")
        if not callable(made):
            raise TermError(f"term={self.name}: is a {type(made).__name__}, takes a class")
        self._check_settings(made, config.settings, parts)
        try:
            self.term: Any = made(parts, **config.settings)
        except (TypeError, ValueError) as error:
            raise TermError(f"term={self.name}: can't be made: {error}") from error
        if not callable(self.term):
            raise TermError(f"term={self.name}: needs a __call__(prediction), or forward")
        if isinstance(self.term, nn.Module):
            if parts.denoiser is not None and any(module is parts.denoiser for module in self.term.modules()):
                raise TermError(
                    f"term={self.name}: keeps the denoiser that is about to be trained; keep a copy.deepcopy of it"
                )
            self.term.to(parts.device).requires_grad_(False).eval()
        source = Path(config.term.rpartition(":")[0]).expanduser().read_bytes()
        self.facts: Mapping[str, Any] = {"source_sha256": hashlib.sha256(source).hexdigest()}

    def __call__(self, prediction: LatentPrediction) -> TermValues:
        """See `PerceptualTerm`."""
        passed = passing(prediction.sigma, self.sigma_threshold, prediction.predicted)
        count, gated = len(prediction.sigma), self.sigma_threshold is not None
        details: Terms = {"passed": len(passed) / count} if gated else {}
        if len(passed) == 0:
            nothing = nothing_passed(prediction.predicted)
            return TermValues(nothing.loss, nothing.per_sample, details)
        values = self.term(prediction.part(passed) if len(passed) < count else prediction)
        if isinstance(values, TermValues):
            _, scattered = over_batch(values.per_sample, passed, count)
            return TermValues(values.loss * (len(passed) / count), scattered, {**details, **values.details})
        self._check_losses(values, len(passed))
        loss, scattered = over_batch(values, passed, count)
        return TermValues(loss, scattered, details)

    def _check_settings(self, made: Any, settings: Mapping[str, Any], parts: TermParts) -> None:
        """Refuses arguments that the class does not take, before it is made."""
        try:
            signature = inspect.signature(made)
        except ValueError:  # of a class written in C
            return
        try:
            signature.bind(parts, **settings)
        except TypeError as error:
            taken = [str(parameter) for parameter in signature.parameters.values()][1:]
            raise TermError(
                f"settings: {error}; {self.name} takes, after its parts: {', '.join(taken) or 'nothing'}"
            ) from None

    def _check_losses(self, losses: Any, count: int) -> None:
        if isinstance(losses, Tensor) and losses.shape == (count,) and losses.is_floating_point():
            return
        given = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        raise TermError(
            f"term={self.name}: returned {given}, takes one loss a sample, floats of shape ({count},), or TermValues"
        )
