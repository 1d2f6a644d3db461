"""The decoder's internal features φ_l: frozen, truncated after the last block used, equal to those inside `decode`."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels import laid_out
from .blocks import DecoderLayout, known_autoencoders, layout_of
from .codec import Autoencoder
from .frozen import frozen_copy
from .hooked import HookedDecoder
from .lean import make_lean
from .lean.modules import Lean
from .scaling import LatentScaling, scaling_of


class DecoderFeatures(nn.Module):
    """Runs an autoencoder's decoder part of the way and returns what its blocks output.

    The features equal those a forward hook sees inside `autoencoder.decode(z)`, where z is the latent after undoing the
    scaling that the diffusion model applies; `post_quant_conv`, quantisation and packing included. Nothing past the
    last block used is run. The caller's autoencoder is left as it was: this module keeps a frozen copy of the blocks'
    structure that shares the weights' memory until either is moved or cast.

    Args:
        autoencoder: a diffusers AutoencoderKL, AsymmetricAutoencoderKL, AutoencoderTiny, VQModel, AutoencoderDC or
            AutoencoderKLFlux2, a `TAEF2`, an `Autoencoder` of one of them, or any other module, given the names of its
            blocks. Another module is run by its `decode` method where it has one, else by its `decoder`, else by
            calling it; its first decode is preceded by one of a single sample, which goes past the last block. Weights
            are shared: those that change later on count, but for changes on a GPU that autograd does not see (by
            fused optimizers, or through `.data`), after which features are to be made anew.
        blocks: names of the blocks to return, in any order; by default every block of a known kind, or, given a
            number, the first so many of them. For any other module, paths of submodules relative to it, such as
            "decoder.up.3".
        scaling: how the diffusion model's latents relate to the autoencoder's; by default as its configuration says.
        upscaling: image pixels per latent position along a side. Known for the known kinds; for any other module the
            finest block asked for is taken to be at full resolution unless this says otherwise.
        dtype: floating-point type to run the blocks in, such as torch.bfloat16; by default the weights' own, but
            float32 for float16 weights whose configuration says that they overflow (`force_upcast`).
        lean: keep for backward only what the gradient to the latents needs, which is exact and takes a third of the
            memory; see `lpl.autoencoders.lean`. False: plain autograd.

    Raises:
        ValueError: `blocks` names a block that does not exist, or names none for an autoencoder of unknown kind.

    Example:
        >>> features = DecoderFeatures(vae, blocks=["mid_block", "up_blocks.0"])
        >>> maps = features(latents)  # {"mid_block": (B, 512, h, w), "up_blocks.0": (B, 512, 2h, 2w)}
    """

    @torch.inference_mode(False)  # what is made here may be trained through, wherever it is made
    def __init__(
        self,
        autoencoder: nn.Module,
        blocks: Sequence[str] | int | None = None,
        scaling: LatentScaling | None = None,
        upscaling: int | None = None,
        dtype: torch.dtype | None = None,
        lean: bool = True,
    ) -> None:
        super().__init__()
        autoencoder = getattr(autoencoder, "_orig_mod", autoencoder)  # of a compiled one, which runs the same modules
        _check_types(autoencoder, dtype)
        if isinstance(autoencoder, Autoencoder):
            scaling = autoencoder.scaling if scaling is None else scaling
            autoencoder = autoencoder.model
        layout = layout_of(autoencoder)
        self.scaling = copy.deepcopy(scaling) if scaling is not None else scaling_of(autoencoder)
        self.upscaling = upscaling if upscaling is not None else (layout.upscaling if layout else None)
        self.kind = type(autoencoder).__name__
        chosen = _check_blocks(autoencoder, layout, blocks)
        self.decoder: TruncatedDecoder | HookedDecoder
        if layout is not None and all(name in layout.blocks for name in chosen):
            self.decoder = TruncatedDecoder(layout, chosen)
        else:
            self.decoder = HookedDecoder(autoencoder, chosen)
        if dtype is not None or self._must_upcast(autoencoder):
            lay_channels_last(self.decoder.to(dtype or torch.float32))
        if lean:
            make_lean(self.decoder)
        self.scaling.to(self.device)  # the caller's autoencoder may be on a GPU already
        self.eval()

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the blocks returned, in the order they run (as given, for a module of unknown kind)."""
        return self.decoder.names

    @property
    def dtype(self) -> torch.dtype:
        """The weights' floating-point type, which latents are cast to."""
        return next((p.dtype for p in self.decoder.parameters() if p.is_floating_point()), torch.float32)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((p.device for p in self.decoder.parameters()), self.scaling.mean.device)

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        """Features by block name, in the order the blocks run.

        Args:
            latents: (B, C, h, w) as the diffusion model sees them, on the decoder's device, of any floating type.
                Frames of a video that an image decoder takes one by one go into the batch.

        Returns:
            name → (B, C_l, H_l, W_l), in the decoder's dtype (autocast's, where it is active).

        Raises:
            ValueError: latents of the wrong rank, type, device or number of channels; or, of a module of unknown kind,
                a block that the decode does not run, runs more than once, or runs without gradients where they are
                wanted.
        """
        self.check_latents(latents, "latents")
        # The affine map is done in float32 at least: half precision would lose digits of the statistics.
        unscaled = self.scaling.to_autoencoder(latents.to(torch.promote_types(latents.dtype, torch.float32)))
        return self.decoder(unscaled.to(self.dtype))

    def check_latents(self, latents: Tensor, name: str) -> None:
        """Refuses latents that the decoder can't take, in a message that calls them `name`."""
        if not isinstance(latents, Tensor) or not latents.is_floating_point():
            kind = latents.dtype if isinstance(latents, Tensor) else type(latents).__name__
            raise ValueError(f"{name}: got {kind}, takes a floating-point tensor")
        channels = self.scaling.channels
        if latents.ndim != 4 or (channels is not None and latents.shape[1] != channels):
            wanted = f"(B, {channels if channels is not None else 'C'}, h, w)"
            frames = "; frames of a video go into the batch, each as an image" if latents.ndim == 5 else ""
            raise ValueError(f"{name}: got shape {tuple(latents.shape)}, {self.kind} takes {wanted}{frames}")
        if latents.device != self.device:
            raise ValueError(
                f"{name}: on {latents.device}, but the decoder's copy is on {self.device}; "
                f"move the loss or features with .to({str(latents.device)!r})"
            )

    def train(self, mode: bool = True) -> DecoderFeatures:
        """Stays in evaluation mode: the decoder is frozen."""
        return super().train(False)

    def _must_upcast(self, autoencoder: nn.Module) -> bool:
        """Whether the weights overflow in the half precision they are in (SDXL's do)."""
        config: Any = getattr(autoencoder, "config", None)
        return self.dtype == torch.float16 and bool(getattr(config, "force_upcast", False))


class TruncatedDecoder(nn.Module):
    """Stem and blocks of a known layout, up to the last block wanted."""

    def __init__(self, layout: DecoderLayout, wanted: Sequence[str]) -> None:
        super().__init__()
        order = list(layout.blocks)
        self.names = tuple(name for name in order if name in wanted)
        last = order.index(self.names[-1])
        self.block_names = tuple(order[: last + 1])
        self.takes_context = layout.takes_context
        self.stem = frozen_copy(layout.stem)
        self.stages = frozen_copy(nn.ModuleList(layout.blocks[name] for name in self.block_names))

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        hidden, context = self.stem(laid_out(latents))
        features: dict[str, Tensor] = {}
        for name, block in zip(self.block_names, self.stages, strict=True):
            hidden = block(hidden, context) if self.takes_context else block(hidden)
            if name in self.names:
                features[name] = hidden
        return features


def plain_copy(features: DecoderFeatures) -> DecoderFeatures:
    """A copy that computes as the original modules do, without lean ones, so that its modules may be replaced freely.

    It shares the weights' memory, and stays apart from the original otherwise, hooks included.
    """
    copied: Any = copy.copy(features)
    copied._modules = {"scaling": copy.deepcopy(features.scaling)}
    copied.decoder = frozen_copy(features.decoder)
    for module in copied.decoder.modules():
        if isinstance(module, Lean):
            module.__class__ = module.plain  # type: ignore[assignment]
    return copied


def lay_channels_last(module: Any) -> None:
    """Lays out weights for the faster convolutions of CPUs and of GPUs with tensor cores."""
    module.to(memory_format=torch.channels_last)


def _check_types(autoencoder: Any, dtype: Any) -> None:
    """Refuses what is no module, and no floating-point type."""
    if not isinstance(autoencoder, nn.Module):
        raise ValueError(
            f"autoencoder: got {type(autoencoder).__name__}, takes a module; load it first, for example by "
            "diffusers.AutoencoderKL.from_pretrained(…)"
        )
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype: got {dtype!r}, takes a floating-point type, such as torch.bfloat16")


def _check_blocks(
    autoencoder: nn.Module, layout: DecoderLayout | None, blocks: Sequence[str] | int | None
) -> list[str]:
    """The blocks to use, each known to exist, or a message that says which there are."""
    if isinstance(blocks, bool):
        raise ValueError(f"blocks: got {blocks}, takes a number of blocks, or their names")
    if blocks is None or isinstance(blocks, int):
        if layout is None:
            kind = type(autoencoder)
            raise ValueError(
                f"blocks: needed for {kind.__name__} of {kind.__module__}, whose blocks are not known; name submodules "
                f"that its decode runs through (known without: {', '.join(known_autoencoders())}, of diffusers or lpl)"
            )
        if blocks is not None and not 1 <= blocks <= len(layout.blocks):
            raise ValueError(f"blocks: got {blocks}, {type(autoencoder).__name__} has 1 to {len(layout.blocks)}")
        return list(layout.blocks)[:blocks]
    names_alone = isinstance(blocks, Sequence) and all(isinstance(name, str) for name in blocks)
    if isinstance(blocks, str) or not names_alone or not blocks or len(set(blocks)) != len(blocks):
        raise ValueError(f"blocks: got {blocks!r}, takes a non-empty list of different block names")
    modules: Mapping[str, nn.Module] = dict(autoencoder.named_modules())
    for name in blocks:
        if not (layout and name in layout.blocks) and (name == "" or name not in modules):
            names = list(layout.blocks) if layout else [path for path in modules if path]
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            shown = ", ".join(names[:40]) + (", …" if len(names) > 40 else "")
            raise ValueError(f"blocks: {type(autoencoder).__name__} has no block {name!r}{hint} It has: {shown}")
    if layout and any(name in layout.blocks for name in blocks) and not all(name in layout.blocks for name in blocks):
        raise ValueError(f"blocks: got {list(blocks)!r}, takes either block names or submodule paths, not a mixture")
    return list(blocks)
