"""The features of any module: its own decode, watched."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import layout_of
from .frozen import frozen_copy


class HookedDecoder(nn.Module):
    """Any module: its own decode, watched by hooks on a frozen copy and ended after the last block wanted.

    The first decode is preceded by a whole one of one sample, without gradients, which tells what a decode that is
    ended can't: whether a block runs again, and whether its output is written over later on.
    """

    def __init__(self, autoencoder: nn.Module, wanted: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(wanted)
        self.model = frozen_copy(autoencoder)
        if hasattr(type(self.model), "decode"):
            vars(self.model).pop("decode", None)  # a compiled one, say, which would run the original
        for disable in ("disable_tiling", "disable_slicing"):
            if hasattr(self.model, disable):
                getattr(self.model, disable)()
        layout = layout_of(autoencoder)
        self.options = dict(layout.decode_options) if layout is not None else {}
        self._overwritten: frozenset[str] | None = None

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        """Features by block name, in the order that the names were given."""
        if self._overwritten is None:
            self._overwritten = self._overwritten_later(latents)
        watch = _Watch(self.names, copied=self._overwritten, ends=True)
        self._decode(latents, watch)
        features = {name: watch.outputs[name] for name in self.names}
        if torch.is_grad_enabled() and latents.requires_grad:
            self._check_gradients(features)
        return features

    def _overwritten_later(self, latents: Tensor) -> frozenset[str]:
        """The blocks whose output is changed in place after they ran, as by `x += y`."""
        watch = _Watch(self.names)
        with torch.inference_mode(False), torch.no_grad():
            self._decode(latents[:1].clone(), watch)
        return frozenset(name for name in self.names if _version(watch.outputs[name]) != watch.versions[name])

    def _decode(self, latents: Tensor, watch: _Watch) -> None:
        decode = getattr(self.model, "decode", None) or getattr(self.model, "decoder", None) or self.model
        hooks = [
            self.model.get_submodule(name).register_forward_hook(partial(watch.remember, name)) for name in self.names
        ]
        try:
            decode(latents, **self.options)
        except _AllSeenError:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        missing = [name for name in self.names if name not in watch.outputs]
        if missing:
            raise ValueError(
                f"blocks: decoding did not run {', '.join(missing)}; takes submodules that "
                f"{type(self.model).__name__} runs latents through"
            )

    def _check_gradients(self, features: dict[str, Tensor]) -> None:
        """Refuses what would train nothing without a word."""
        without = [name for name, maps in features.items() if not maps.requires_grad]
        if without:
            raise ValueError(
                f"blocks: no gradient reaches the latents from {', '.join(without)}, so that nothing would be trained; "
                f"{type(self.model).__name__} decodes under torch.no_grad() or detaches: give the module inside that "
                "does not, or call it under torch.no_grad() if no gradient is wanted"
            )


class _AllSeenError(Exception):
    """Ends a decode once the last block wanted has run."""


class _Watch:
    """What blocks output during one decode.

    Args:
        names: of the blocks.
        copied: those whose output is copied, since what comes later writes over it.
        ends: whether to end the decode when all have run.
    """

    def __init__(self, names: Sequence[str], copied: Collection[str] = (), ends: bool = False) -> None:
        self.names, self.copied, self.ends = names, copied, ends
        self.outputs: dict[str, Tensor] = {}
        self.versions: dict[str, int] = {}

    def remember(self, name: str, module: nn.Module, arguments: Any, output: Any) -> None:
        """A forward hook of the block called `name`."""
        value = output[0] if isinstance(output, tuple) else output
        if not isinstance(value, Tensor):
            raise ValueError(f"blocks: {name} outputs {type(output).__name__}, features are tensors")
        if name in self.outputs:
            raise ValueError(
                f"blocks: {name} runs more than once in a decode, and the loss would see its first output alone; "
                "takes blocks that run once, such as one around it"
            )
        last = self.ends and len(self.outputs) == len(self.names) - 1
        self.outputs[name] = value.clone() if name in self.copied and not last else value
        self.versions[name] = _version(value)
        if last:
            raise _AllSeenError


def _version(value: Tensor) -> int:
    """How often the tensor was written to in place; not counted of tensors made under `torch.inference_mode()`."""
    return 0 if value.is_inference() else value._version
