"""The loss inside a random window of the latents, decoded with a margin around it."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from typing import Any, Literal

import torch
from torch import Tensor

from ...autoencoders.receptive_field import receptive_field
from ..gate import passing
from ..moments import wide_type
from ..normalization import channel_norm, masked_statistics
from ..perceptual import LatentPerceptualLoss, PerceptualTerms
from .base import Estimator, scaled
from .cut import CutFeatures, Span, Window


def spans(length: int, window: int, margin: int) -> list[Span]:
    """Cuts an axis into the fewest windows of at most `window` positions, their lengths differing by 1 at most.

    Every position is in one window, and so equally likely to be drawn, at the border as in the middle. Margins end at
    the border, where the decoder pads the whole latent, too.
    """
    number = -(-length // window)
    edges = [length * index // number for index in range(number + 1)]
    pairs = itertools.pairwise(edges)
    return [Span(start, stop, max(0, start - margin), min(length, stop + margin)) for start, stop in pairs]


class RandomWindows(Estimator):
    """Decodes one window of the latents, the same for the whole batch, with a margin, and compares inside the window.

    The latents are cut into windows of about `window` positions a side, one is drawn with probability p, and its loss
    is multiplied by 1/p (and, under reduction "mean", by its share of the area). Cost and memory are those of the
    window with its margin.

    With a margin of at least the decoder's receptive field, local operations (convolutions, upsampling, activations)
    give inside the window exactly what they give in the whole decode. For a decoder of these alone, with
    normalization="none" or "unit" and outliers="none", the estimate is unbiased, value and gradient. Biased it is by

    1. group normalisation: its statistics are those of the window and its margin;
    2. attention in the mid block: positions see the window and its margin only;
    3. per-channel statistics ("prediction", "target", "independent"): those of the window, whose variance is smaller
       than the whole map's, so that flat regions weigh more;
    4. Algorithm 1: its quantiles and standard deviation, and the number of positions kept, are those of the window;
    5. a margin smaller than the receptive field.

    With `statistics="target"` the target is decoded whole, without gradient, and 3 and 4 are exact, so that a local
    decoder's estimate is unbiased under normalization="target" and with masks, too. For 1 there is no such remedy: to
    normalise the prediction by the target's group statistics is worse than by the window's, since it takes away what
    the prediction's own do to it. `lpl.analysis.agreement` measures what remains, which for decoders like Stable
    Diffusion's is much.

    Args:
        loss: the exact loss.
        window: side of a window in latent positions.
        margin: positions decoded around it. None: the decoder's receptive field, see `receptive_field`; for Stable
            Diffusion's decoder that is 18, which only pays where latents are much larger. Less is cheaper and biased.
        statistics: whose 3 and 4 are: the "window"'s own, or the whole "target"'s, for losses whose normalization is
            "target", "unit" or "none". That adds one whole pass without gradient to the window's three.
        importance: "uniform", or "error": windows are drawn in proportion to ‖ẑ0 − z0‖ in them, over the samples that
            pass the gate.
        uniform_share: share of p that is the same for all windows, in (0, 1].
        seed: of the draws.

    Raises:
        ValueError: an argument outside its range, or, without a margin, a decoder that is not known to be local.

    Example:
        >>> perceptual = RandomWindows(LatentPerceptualLoss(vae), window=32)
        >>> loss = mse + 0.1 * perceptual(clean_hat, clean, sigma)
    """

    def __init__(
        self,
        loss: LatentPerceptualLoss,
        window: int,
        margin: int | None = None,
        statistics: Literal["window", "target"] = "window",
        importance: Literal["uniform", "error"] = "uniform",
        uniform_share: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(loss, seed)
        if not isinstance(loss, LatentPerceptualLoss):
            given = type(loss).__name__
            raise ValueError(f"loss: got {given}, takes a LatentPerceptualLoss; wrap this estimator in others instead")
        if window < 1:
            raise ValueError(f"window: got {window}, takes a positive integer")
        if margin is not None and margin < 0:
            raise ValueError(f"margin: got {margin}, takes an integer from 0, or None for the receptive field")
        if statistics not in ("window", "target"):
            raise ValueError(f"statistics: got {statistics!r}, takes 'window' or 'target'")
        if statistics == "target" and loss.normalization not in ("target", "unit", "none"):
            raise ValueError(
                f"statistics: 'target' can't give those of normalization={loss.normalization!r}, which are the whole "
                "prediction's; takes a loss whose normalization is 'target', 'unit' or 'none'"
            )
        if importance not in ("uniform", "error"):
            raise ValueError(f"importance: got {importance!r}, takes 'uniform' or 'error'")
        if not 0 < uniform_share <= 1:
            raise ValueError(f"uniform_share: got {uniform_share}, takes a number above 0, at most 1")
        self.window = window
        self.margin = receptive_field(loss.features).margin if margin is None else margin
        self.statistics = statistics
        self.importance = importance
        self.uniform_share = uniform_share

    def windows(self, height: int, width: int) -> list[Window]:
        """The windows that latents of this size are cut into."""
        rows, columns = (spans(length, self.window, self.margin) for length in (height, width))
        return [Window(row, column) for row in rows for column in columns]

    def estimate(self, prediction: Tensor, target: Tensor, sigma: Tensor | float | None) -> PerceptualTerms:
        """The loss inside the window drawn, over its probability."""
        windows = self.windows(*prediction.shape[-2:])
        if len(windows) == 1:
            return self.loss(prediction, target, sigma, return_terms=True)
        probabilities = self._probabilities(prediction, target, sigma, windows)
        index = int(torch.multinomial(probabilities, 1, generator=self.generator()))
        return scaled(self.inside(windows[index], prediction, target, sigma), 1 / float(probabilities[index]))

    def inside(
        self, window: Window, prediction: Tensor, target: Tensor, sigma: Tensor | float | None
    ) -> PerceptualTerms:
        """What a window contributes: over all windows this sums to the loss, but for the biases named above."""
        share = window.area / math.prod(prediction.shape[-2:]) if self.loss.reduction == "mean" else 1.0
        if self.statistics == "window":
            loss = self._exact_on(CutFeatures(self.loss.features, window))
            return scaled(loss(window.crop(prediction), window.crop(target), sigma, return_terms=True), share)
        passed = passing(sigma, self.loss.sigma_threshold, prediction)
        if len(passed) == 0:
            return self.loss(prediction, target, sigma, return_terms=True)
        terms = scaled(self._by_target(window, prediction[passed], target[passed].detach()), share)
        whole = scaled(terms, len(passed) / len(prediction))
        scattered = terms.per_sample.new_zeros(len(prediction)).index_copy(0, passed, terms.per_sample)
        return dataclasses.replace(whole, per_sample=scattered)

    def _exact_on(self, features: CutFeatures, **options: Any) -> Any:
        """The exact loss, its options and all, on other features."""
        loss: Any = copy.copy(self.loss)
        loss._modules = {**self.loss._modules, "features": features}
        for name, value in options.items():
            setattr(loss, name, value)
        return loss

    def _by_target(self, window: Window, prediction: Tensor, target: Tensor) -> PerceptualTerms:
        """What a window contributes for samples that passed the gate, with the whole target's statistics."""
        with torch.no_grad():
            whole = self.loss.features(target)
        full = self.loss._full_height(target, whole)
        scales, share = {}, {}
        for name in list(whole):
            true = whole.pop(name)  # not held longer than needed
            outliers = self.loss._outliers(true, full / true.shape[-2])
            scales[name], share[name] = self._scale(window, true, target, outliers)
        loss = self._exact_on(
            CutFeatures(self.loss.features, window, scales),
            normalization="none",
            outliers="none",
            sigma_threshold=None,
            micro_batch=None,
        )
        terms = loss(window.crop(prediction), window.crop(target), return_terms=True)
        return dataclasses.replace(terms, outlier_share=share)

    def _scale(self, window: Window, true: Tensor, target: Tensor, outliers: Any) -> tuple[Tensor, Tensor]:
        """What features are multiplied by, so that plain squares become the loss's, and the share of outliers.

        That is ρ over the standard deviation, or over the norm over channels; and, so that a mean over all positions
        becomes one over those kept, the square root of their ratio.
        """
        if self.loss.normalization == "target":
            _, std = masked_statistics(true, outliers, self.loss.variance_floor)
            scale = std.reciprocal()[..., None, None]
        elif self.loss.normalization == "unit":
            scale = window.of_whole(channel_norm(true), target).reciprocal()
        else:
            scale = true.new_ones((), dtype=wide_type(true.dtype))
        if outliers is None:
            return scale, true.new_zeros(())
        if self.loss.reduction == "mean":
            kept = outliers.positions().to(scale.dtype) / math.prod(true.shape[-2:])
            scale = scale * kept.rsqrt()[..., None, None]
        return scale * window.of_whole(outliers.mask(), target), outliers.share()

    def _probabilities(
        self, prediction: Tensor, target: Tensor, sigma: Tensor | float | None, windows: list[Window]
    ) -> Tensor:
        """p of each window, float64 on the CPU."""
        even = torch.full((len(windows),), 1 / len(windows), dtype=torch.float64)
        passed = passing(sigma, self.loss.sigma_threshold, prediction)
        if self.importance == "uniform" or len(passed) == 0:
            return even
        squares = (prediction.detach()[passed] - target[passed]).float().square().sum(dim=(0, 1))
        sizes = [squares[window.rows.compared(1), window.columns.compared(1)].sum() for window in windows]
        norms = torch.stack(sizes).double().sqrt().cpu()
        if not 0 < float(norms.sum()) < float("inf"):
            return even
        return self.uniform_share * even + (1 - self.uniform_share) * norms / norms.sum()

    def extra_repr(self) -> str:
        """The options, for `print(loss)`."""
        return (
            f"window={self.window}, margin={self.margin}, statistics={self.statistics!r}, "
            f"importance={self.importance!r}, uniform_share={self.uniform_share}, seed={self.seed}"
        )
