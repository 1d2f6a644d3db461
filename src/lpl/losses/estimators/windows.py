"""The loss inside a random window of the latents, decoded with a margin around it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...autoencoders.receptive_field import receptive_field
from ..perceptual import LatentPerceptualLoss, PerceptualTerms
from .base import Estimator, gate, scaled


@dataclass(frozen=True)
class Span:
    """A window along one axis, in latent positions.

    Attributes:
        start: first position compared.
        stop: behind the last position compared.
        first: first position decoded.
        last: behind the last position decoded.
    """

    start: int
    stop: int
    first: int
    last: int

    @property
    def decoded(self) -> slice:
        """Which latents are decoded."""
        return slice(self.first, self.last)

    def inside(self, factor: int) -> slice:
        """Which of the decoded features are compared, `factor` of them a latent position."""
        return slice((self.start - self.first) * factor, (self.stop - self.first) * factor)


def spans(length: int, window: int, margin: int) -> list[Span]:
    """Cuts an axis into the fewest windows of at most `window` positions, their lengths differing by 1 at most.

    Every position is in one window, and so equally likely to be drawn, at the border as in the middle. Margins end at
    the border, where the decoder pads the whole latent, too.
    """
    number = -(-length // window)
    edges = [length * index // number for index in range(number + 1)]
    pairs = zip(edges[:-1], edges[1:], strict=True)
    return [Span(start, stop, max(0, start - margin), min(length, stop + margin)) for start, stop in pairs]


class RandomWindows(Estimator):
    """Decodes one window of the latents, the same for the whole batch, with a margin, and compares inside the window.

    The latents are cut into windows of about `window` positions a side, one is drawn with probability p, and its loss
    is multiplied by 1/p (and, under reduction "mean", by its share of the area). Cost and memory are those of the
    window with its margin.

    With a margin of at least the decoder's receptive field, local operations (convolutions, upsampling, activations)
    give inside the window exactly what they give in the whole decode. For a decoder of these alone, with
    normalization="none" or "unit" and outliers="none", the estimate is unbiased, value and gradient. Biased it is by
    - group normalisation: its statistics are those of the window and its margin;
    - attention in the mid block: positions see the window and its margin only;
    - per-channel statistics ("prediction", "target", "independent"): those of the window, whose variance is smaller
      than the whole map's, so that flat regions weigh more;
    - Algorithm 1: its quantiles and standard deviation are those of the window; under reduction "mean", the number of
      positions it keeps is, too;
    - a margin smaller than the receptive field.
    `statistics="target"` takes the first one's statistics from the target. `lpl.analysis.gradient_agreement` measures
    what remains.

    Args:
        loss: the exact loss.
        window: side of a window in latent positions.
        margin: positions decoded around it. None: the decoder's receptive field, see `receptive_field`; for Stable
            Diffusion's decoder that is 18, which only pays where latents are much larger. Less is cheaper and biased.
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
        importance: Literal["uniform", "error"] = "uniform",
        uniform_share: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(loss, seed)
        if not isinstance(loss, LatentPerceptualLoss):
            raise ValueError(
                f"loss: got {type(loss).__name__}, takes a LatentPerceptualLoss; wrap this estimator instead"
            )
        if window < 1:
            raise ValueError(f"window: got {window}, takes a positive integer")
        if margin is not None and margin < 0:
            raise ValueError(f"margin: got {margin}, takes an integer from 0, or None for the receptive field")
        if importance not in ("uniform", "error"):
            raise ValueError(f"importance: got {importance!r}, takes 'uniform' or 'error'")
        if not 0 < uniform_share <= 1:
            raise ValueError(f"uniform_share: got {uniform_share}, takes a number above 0, at most 1")
        self.window = window
        self.margin = receptive_field(loss.features).margin if margin is None else margin
        self.importance = importance
        self.uniform_share = uniform_share

    def windows(self, height: int, width: int) -> list[tuple[Span, Span]]:
        """The windows that latents of this size are cut into, each as its rows and columns."""
        rows, columns = (spans(length, self.window, self.margin) for length in (height, width))
        return [(row, column) for row in rows for column in columns]

    def estimate(self, prediction: Tensor, target: Tensor, sigma: Tensor | float | None) -> PerceptualTerms:
        """The loss inside the window drawn, over its probability."""
        windows = self.windows(*prediction.shape[-2:])
        if len(windows) == 1:
            return self.loss(prediction, target, sigma, return_terms=True)
        probabilities = self._probabilities(prediction, target, sigma, windows)
        index = int(torch.multinomial(probabilities, 1, generator=self.generator()))
        return scaled(self.inside(windows[index], prediction, target, sigma), 1 / float(probabilities[index]))

    def inside(
        self, window: tuple[Span, Span], prediction: Tensor, target: Tensor, sigma: Tensor | float | None
    ) -> PerceptualTerms:
        """What a window contributes to the loss: the sum over all windows is the loss, but for the biases named above."""
        rows, columns = window
        crop = (..., rows.decoded, columns.decoded)
        # The exact loss, its options and all, on features that are cut to the window.
        loss: Any = copy.copy(self.loss)
        loss._modules = {**self.loss._modules, "features": CutFeatures(self.loss.features, rows, columns)}
        terms = loss(prediction[crop], target[crop], sigma, return_terms=True)
        height, width = prediction.shape[-2:]
        share = (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        return scaled(terms, share if self.loss.reduction == "mean" else 1.0)

    def _probabilities(
        self, prediction: Tensor, target: Tensor, sigma: Tensor | float | None, windows: list[tuple[Span, Span]]
    ) -> Tensor:
        """p of each window, float64 on the CPU."""
        even = torch.full((len(windows),), 1 / len(windows), dtype=torch.float64)
        passed = gate(self.loss, prediction, sigma)
        if self.importance == "uniform" or len(passed) == 0:
            return even
        squares = (prediction.detach()[passed] - target[passed]).float().square().sum(dim=(0, 1))
        sizes = [squares[rows.start : rows.stop, columns.start : columns.stop].sum() for rows, columns in windows]
        norms = torch.stack(sizes).double().sqrt().cpu()
        if not 0 < float(norms.sum()) < float("inf"):
            return even
        return self.uniform_share * even + (1 - self.uniform_share) * norms / norms.sum()

    def extra_repr(self) -> str:
        """The options, for `print(loss)`."""
        return (
            f"window={self.window}, margin={self.margin}, importance={self.importance!r}, "
            f"uniform_share={self.uniform_share}, seed={self.seed}"
        )


class CutFeatures(nn.Module):
    """A decoder's features of latents with a margin, cut to the window inside; otherwise the `DecoderFeatures` given.

    Args:
        features: the decoder.
        rows: the window along the height.
        columns: the window along the width.
    """

    def __init__(self, features: nn.Module, rows: Span, columns: Span) -> None:
        super().__init__()
        self.whole: Any = features
        self.rows = rows
        self.columns = columns

    def __getattr__(self, name: str) -> Any:
        modules = self.__dict__["_modules"]
        return modules[name] if name in modules else getattr(modules["whole"], name)

    @property
    def upscaling(self) -> float | None:
        """Image pixels in the window for each latent position decoded: what is compared is smaller than what is given."""
        upscaling = self.whole.upscaling
        rows = self.rows
        return None if upscaling is None else upscaling * (rows.stop - rows.start) / (rows.last - rows.first)

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        """Features by block name, inside the window."""
        return {name: self._cut(maps, latents) for name, maps in self.whole(latents).items()}

    def _cut(self, maps: Tensor, latents: Tensor) -> Tensor:
        factors = [size // given for size, given in zip(maps.shape[-2:], latents.shape[-2:], strict=True)]
        if any(factor * given != size for factor, given, size in zip(factors, latents.shape[-2:], maps.shape[-2:])):
            raise ValueError(
                f"window: a map of {tuple(maps.shape[-2:])} positions for {tuple(latents.shape[-2:])} latent ones can't "
                "be cut; windows need a whole multiple"
            )
        return maps[..., self.rows.inside(factors[0]), self.columns.inside(factors[1])]
