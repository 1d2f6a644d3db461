"""Which blocks a decoder has: every kind of autoencoder as a stem followed by named blocks in order.

A further kind is one function here, decorated with the name of its class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class DecoderLayout:
    """A decoder laid out as the blocks it runs through.

    Attributes:
        stem: what runs before the first block; takes the autoencoder's latents and returns (hidden states, context).
        blocks: name → module, in the order they run. Names are module paths relative to the decoder.
        upscaling: image pixels per latent position along a side.
        takes_context: whether blocks are called with the stem's context as second argument.
        decode_options: what the autoencoder's pipelines pass to its `decode` beside the latents.
    """

    stem: nn.Module
    blocks: dict[str, nn.Module]
    upscaling: int
    takes_context: bool = False
    decode_options: Mapping[str, Any] = field(default_factory=dict)


Layout = Callable[[Any], DecoderLayout]
_LAYOUTS: dict[str, tuple[Layout, str | None]] = {}


def register_layout(*class_names: str, library: str | None = None) -> Callable[[Layout], Layout]:
    """Registers the layout of autoencoder classes, by name so that their library need not be imported.

    Args:
        class_names: as in `AutoencoderKL`.
        library: the package that the classes are from, as in `diffusers`: others use the same names for classes laid
            out differently. None: any.
    """

    def decorate(layout: Layout) -> Layout:
        _LAYOUTS.update(dict.fromkeys(class_names, (layout, library)))
        return layout

    return decorate


def known_autoencoders() -> list[str]:
    """Names of the autoencoder classes whose blocks are known."""
    return sorted(_LAYOUTS)


def known_class(autoencoder: nn.Module) -> str | None:
    """The registered class that an autoencoder is of, itself or by inheritance; None where there is none."""
    for ancestor in type(autoencoder).__mro__:
        _, library = _LAYOUTS.get(ancestor.__name__, (None, ""))
        if library is None or library == ancestor.__module__.partition(".")[0]:
            return ancestor.__name__
    return None


def layout_of(autoencoder: nn.Module) -> DecoderLayout | None:
    """The layout of an autoencoder's decoder, or None where its class is not a known one."""
    name = known_class(autoencoder)
    return None if name is None else _LAYOUTS[name][0](autoencoder)


class Stem(nn.Module):
    """Modules applied in turn to the latents before the first block."""

    def __init__(self, modules: Iterable[nn.Module | None]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(module for module in modules if module is not None)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor | None]:
        for step in self.steps:
            latents = step(latents)
        return latents, None


class QuantizingStem(nn.Module):
    """VQModel's: nearest codebook entry (straight-through gradient), then as usual."""

    def __init__(self, quantize: nn.Module, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.quantize = quantize
        self.steps = nn.Sequential(*modules)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.steps(self.quantize(latents)[0]), None


class ContextStem(nn.Module):
    """MoVQ's: its spatial norms look at the latents in every block."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.steps = nn.Sequential(*modules)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.steps(latents), latents


class SoftClamp(nn.Module):
    """3·tanh(z/3), with which the TAESD family begins."""

    def forward(self, latents: Tensor) -> Tensor:
        return torch.tanh(latents / 3) * 3


class RepeatingShortcut(nn.Module):
    """AutoencoderDC's first convolution, to which the latents' own channels, repeated, are added."""

    def __init__(self, convolution: nn.Module, repeats: int) -> None:
        super().__init__()
        self.convolution = convolution
        self.repeats = repeats

    def forward(self, latents: Tensor) -> Tensor:
        return self.convolution(latents) + latents.repeat_interleave(self.repeats, dim=1)


@register_layout("AutoencoderKL", "AsymmetricAutoencoderKL", "AutoencoderKLFlux2", library="diffusers")
def _kl(autoencoder: Any) -> DecoderLayout:
    decoder = autoencoder.decoder
    stem = Stem([autoencoder.post_quant_conv, decoder.conv_in])
    return DecoderLayout(stem, _mid_and_up(decoder), upscaling=_doublings(decoder.up_blocks))


@register_layout("VQModel", library="diffusers")
def _vq(autoencoder: Any) -> DecoderLayout:
    decoder = autoencoder.decoder
    blocks, upscaling = _mid_and_up(decoder), _doublings(decoder.up_blocks)
    steps = [autoencoder.post_quant_conv, decoder.conv_in]
    if is_movq(autoencoder):
        options = {"force_not_quantize": True}
        return DecoderLayout(ContextStem(steps), blocks, upscaling, takes_context=True, decode_options=options)
    return DecoderLayout(QuantizingStem(autoencoder.quantize, steps), blocks, upscaling)


def is_movq(autoencoder: Any) -> bool:
    """Whether this is MoVQ, the VQModel with spatial norms, which Kandinsky uses unscaled and without its codebook."""
    return known_class(autoencoder) == "VQModel" and autoencoder.config.norm_type == "spatial"


@register_layout("AutoencoderTiny", library="diffusers")
def _tiny(autoencoder: Any) -> DecoderLayout:
    layers = autoencoder.decoder.layers
    ends = [position for position, layer in enumerate(layers) if _ends_stage(layers, position)]
    blocks = _segments(layers, ends, prefix="layers.")
    return DecoderLayout(Stem([SoftClamp()]), blocks, upscaling=_scale_of_upsamplers(layers))


@register_layout("TAEF2", library="lpl")
def _taef2(autoencoder: Any) -> DecoderLayout:
    layers = autoencoder.decoder
    blocks = _segments(layers, autoencoder.block_positions)
    return DecoderLayout(Stem([]), blocks, upscaling=_scale_of_upsamplers(layers))


@register_layout("AutoencoderDC", library="diffusers")
def _dc(autoencoder: Any) -> DecoderLayout:
    decoder = autoencoder.decoder
    stem = RepeatingShortcut(decoder.conv_in, decoder.in_shortcut_repeats) if decoder.in_shortcut else decoder.conv_in
    # The blocks are stored from the image inwards and run from the latents outwards; a level may be empty.
    blocks = {f"up_blocks.{index}": block for index, block in enumerate(decoder.up_blocks) if len(block) > 0}
    return DecoderLayout(Stem([stem]), dict(reversed(blocks.items())), upscaling=2 ** (len(decoder.up_blocks) - 1))


def _mid_and_up(decoder: Any) -> dict[str, nn.Module]:
    return {"mid_block": decoder.mid_block} | {f"up_blocks.{i}": block for i, block in enumerate(decoder.up_blocks)}


def _doublings(up_blocks: Iterable[Any]) -> int:
    return 2 ** sum(block.upsamplers is not None for block in up_blocks)


def _ends_stage(layers: nn.Sequential, position: int) -> bool:
    """Whether this is the last residual block before the decoder upsamples or ends."""
    following = layers[position + 1] if position + 1 < len(layers) else None
    is_block = type(layers[position]).__name__ == "AutoencoderTinyBlock"
    return is_block and type(following).__name__ != "AutoencoderTinyBlock"


def _segments(layers: nn.Sequential, ends: Iterable[int], prefix: str = "") -> dict[str, nn.Module]:
    """Cuts a sequence after each of the given positions; each piece is named by the position it ends with."""
    blocks: dict[str, nn.Module] = {}
    start = 0
    for end in ends:
        blocks[f"{prefix}{end}"] = nn.Sequential(*list(layers)[start : end + 1])
        start = end + 1
    return blocks


def _scale_of_upsamplers(layers: nn.Sequential) -> int:
    factors = [layer.scale_factor for layer in layers if isinstance(layer, nn.Upsample)]
    return round(math.prod(float(factor) for factor in factors if not isinstance(factor, tuple | None)))
