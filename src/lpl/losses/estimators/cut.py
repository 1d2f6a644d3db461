"""Windows of latents, and decoders that see one: their features cut to what is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


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

    def compared(self, factor: int) -> slice:
        """Which features of the whole decode are compared, `factor` of them a latent position."""
        return slice(self.start * factor, self.stop * factor)

    def inside(self, factor: int) -> slice:
        """Which of the features decoded from the window and its margin are compared."""
        return slice((self.start - self.first) * factor, (self.stop - self.first) * factor)


@dataclass(frozen=True)
class Window:
    """A rectangle of latent positions.

    Attributes:
        rows: along the height.
        columns: along the width.
    """

    rows: Span
    columns: Span

    @property
    def area(self) -> int:
        """Positions compared."""
        return (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)

    def crop(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) of the window and its margin."""
        return latents[..., self.rows.decoded, self.columns.decoded]

    def inside(self, maps: Tensor, decoded: Tensor) -> Tensor:
        """Maps of the latents `decoded`, the window and its margin, without the margin."""
        factors = _factors(maps, decoded)
        return maps[..., self.rows.inside(factors[0]), self.columns.inside(factors[1])]

    def of_whole(self, maps: Tensor, latents: Tensor) -> Tensor:
        """Maps of the whole latents, cut to the window."""
        factors = _factors(maps, latents)
        return maps[..., self.rows.compared(factors[0]), self.columns.compared(factors[1])]


def _factors(maps: Tensor, latents: Tensor) -> list[int]:
    """Features a latent position, along the height and the width."""
    factors = [size / given for size, given in zip(maps.shape[-2:], latents.shape[-2:], strict=True)]
    if not all(factor.is_integer() for factor in factors):
        raise ValueError(
            f"window: latents of {tuple(latents.shape[-2:])} give a map of {tuple(maps.shape[-2:])} positions, which "
            "can't be cut; windows need a whole multiple"
        )
    return [int(factor) for factor in factors]


class CutFeatures(nn.Module):
    """A decoder's features of latents with a margin, cut to the window inside; otherwise the `DecoderFeatures` given.

    Args:
        features: the decoder.
        window: what is compared.
        scales: what features are multiplied by, by block; None: nothing.
    """

    def __init__(self, features: nn.Module, window: Window, scales: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.whole: Any = features
        self.window = window
        self.scales = scales

    def __getattr__(self, name: str) -> Any:
        modules = self.__dict__["_modules"]
        return modules[name] if name in modules else getattr(modules["whole"], name)

    @property
    def upscaling(self) -> float | None:
        """Image pixels compared for each latent position given, along the height: fewer than are decoded."""
        upscaling = self.whole.upscaling
        rows = self.window.rows
        return None if upscaling is None else upscaling * (rows.stop - rows.start) / (rows.last - rows.first)

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        """Features by block name, inside the window."""
        maps = {name: self.window.inside(values, latents) for name, values in self.whole(latents).items()}
        return maps if self.scales is None else {name: values * self.scales[name] for name, values in maps.items()}
