"""How far a decoder's features look: their receptive field in latent positions, and what has none because it is global.

Convolutions, upsampling and activations are local: a feature depends on the latents within some distance. Group
normalisation and attention are not: their statistics and weights run over the whole map. The distance is measured with
those out of the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .features import DecoderFeatures, plain_copy

FIRST_LENGTH = 65  # latent positions of the strip that is probed first
LONGEST = 1025  # where even this strip is reached from end to end, the decoder is taken to be global

# By name, so that no library need be imported to recognise its modules. Each mixes all positions of a map.
GLOBAL_MODULES = (
    "GroupNorm",
    "InstanceNorm2d",
    "SpatialNorm",
    "Attention",
    "AttnBlock",
    "SanaMultiscaleLinearAttention",
)


@dataclass(frozen=True)
class ReceptiveField:
    """What a decoder's features depend on.

    Attributes:
        margins: block → how many latent positions beyond its own, to either side, a feature depends on by way of local
            operations; the larger of both axes.
        global_modules: paths, within the decoder, of the modules that mix all positions. Where there is one, features
            also depend on every latent, through its statistics or its attention.
    """

    margins: dict[str, int]
    global_modules: tuple[str, ...]

    @property
    def margin(self) -> int:
        """That of the block which looks furthest."""
        return max(self.margins.values())

    @property
    def is_local(self) -> bool:
        """Whether the margins are all there is to it."""
        return not self.global_modules


@torch.no_grad()
def receptive_field(features: DecoderFeatures) -> ReceptiveField:
    """Measures how far each block looks.

    A copy of the decoder gets positive constants for weights, no biases, and the identity for its global modules.
    Nothing can then cancel or be cut off, and a pulse in one latent position reaches exactly the features that depend
    on it. Strips of one position across keep this cheap. Depth-dependent padding, strides and dilations need no
    special care.

    Args:
        features: the decoder and its blocks, not changed. The copy takes twice its memory, in float64, for a moment.

    Returns:
        Margins in positions of the latents that the diffusion model sees.

    Raises:
        ValueError: a block still depends on latents all over the longest strip that is tried, so that some module
            which is not known mixes all positions; or a block's resolution is not a multiple of the latents'.

    Example:
        >>> receptive_field(DecoderFeatures(vae)).margins
        {'mid_block': 5, 'up_blocks.0': 12, 'up_blocks.1': 15, 'up_blocks.2': 17, 'up_blocks.3': 18}
    """
    probe = _positive_copy(features)
    names = tuple(name for name, _ in _global_modules(features.decoder))
    along_height = _margins(probe, upright=True)
    along_width = _margins(probe, upright=False)
    return ReceptiveField({name: max(along_height[name], along_width[name]) for name in along_height}, names)


def _margins(probe: DecoderFeatures, upright: bool) -> dict[str, int]:
    """Along one axis, on strips that are doubled until no block reaches both ends."""
    length = FIRST_LENGTH
    while True:
        reach = {name: _reach(maps, length) for name, maps in _pulse_response(probe, length, upright).items()}
        if max(reach.values()) < length // 2:
            return reach
        if length >= LONGEST:
            furthest = max(reach, key=lambda name: reach[name])
            raise ValueError(
                f"features: {furthest} depends on latents more than {length // 2} positions away; some module of "
                f"{probe.kind} mixes all positions, so that its features can't be had from a window"
            )
        length = 2 * length - 1


def _pulse_response(probe: DecoderFeatures, length: int, upright: bool) -> dict[str, Tensor]:
    """What a pulse in the middle of a strip reaches: block → (positions,), True where a feature changed."""
    channels = probe.scaling.channels or _input_channels(probe.decoder)
    latents = torch.zeros(1, channels, length, 1, dtype=torch.float64, device=probe.device)
    latents[:, :, length // 2] = 1.0
    responses = probe(latents if upright else latents.mT).items()
    return {name: (maps if upright else maps.mT).ne(0).transpose(1, 2).flatten(2).any(2)[0] for name, maps in responses}


def _reach(changed: Tensor, length: int) -> int:
    """Latent positions from the middle of the strip to the furthest feature changed."""
    factor, rest = divmod(len(changed), length)
    if rest or factor == 0:
        raise ValueError(
            f"features: a map has {len(changed)} positions for {length} latent ones; windows need a whole multiple"
        )
    positions = changed.nonzero().flatten() // factor
    return int((positions - length // 2).abs().max()) if len(positions) else 0


def _positive_copy(features: DecoderFeatures) -> DecoderFeatures:
    """The decoder in float64 with positive weights and without its global modules, never differentiated."""
    probe = plain_copy(features)
    probe.scaling.mean, probe.scaling.std = torch.zeros_like(probe.scaling.mean), torch.ones_like(probe.scaling.std)
    for module in probe.decoder.modules():
        for name, parameter in module.named_parameters(recurse=False):
            # The mean over inputs: a pulse fades by no more than the activations make it fade.
            value = 0.0 if name == "bias" else 1.0 if parameter.ndim == 1 else 1.0 / parameter.shape[1]
            parameter.data = torch.full_like(parameter, value, dtype=torch.float64)
        # Both are local, but would give a background that is not zero.
        if isinstance(module, nn.BatchNorm2d):
            module.forward = _unchanged  # type: ignore[method-assign]
        elif type(module).__name__ == "VectorQuantizer":
            module.forward = _unquantized
    for _, module in _global_modules(probe.decoder):
        module.forward = _unchanged
    return probe


def _global_modules(decoder: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules that mix all positions, by path."""
    found: list[str] = []
    for path, module in list(decoder.named_modules()):
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if not inside and any(kind.__name__ in GLOBAL_MODULES for kind in type(module).__mro__):
            found.append(path)
            yield path, module


def _input_channels(decoder: nn.Module) -> int:
    """Of the first convolution or linear layer, for modules whose configuration does not say."""
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise ValueError("features: the decoder has no convolution, so that its number of channels is not known")


def _unchanged(input: Tensor, *arguments: Any, **named: Any) -> Tensor:
    """In the place of a normalisation or an attention, whatever else it is called with."""
    return input


def _unquantized(input: Tensor) -> tuple[Tensor, None, None]:
    """In the place of a codebook."""
    return input, None, None
