"""Hidden states of a frozen denoiser: what one of its blocks puts out, and nothing after it.

Used by the Self-Perceptual loss (appendix A.4), which compares at different depths of the network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

Depth = Literal["shallow", "middle", "deep"] | int

# Of the blocks: 8, 16 and 28 of the paper's 28 (MMDiT-XL/2).
SHARES = {"shallow": 8 / 28, "middle": 16 / 28, "deep": 1.0}
# Conditions that a model embeds as the numbers they are, at its own precision: sizes, positions, scales.
NUMBERS = ("time_ids", "resolution", "aspect_ratio", "txt_ids", "img_ids", "guidance")
BLOCK_LISTS = ("transformer_blocks", "single_transformer_blocks")  # of transformers, in the order they run


class HiddenBlock(NamedTuple):
    """Where a denoiser's hidden states are read.

    Attributes:
        path: of the submodule.
        number: of the block, from 1; None for a U-Net's mid block.
        unused: submodules that run after it.
    """

    path: str
    number: int | None
    unused: list[nn.Module]


class HiddenStates(nn.Module):
    """A frozen copy of a denoiser that ends after one block: z_t → that block's output.

    The copy has weights of its own, so that training the original leaves it alone, and lacks the large modules that run
    after the block. Called as the denoiser is: `hidden(latents, conditioning, labels, **condition)`.

    Args:
        denoiser: as all denoisers here are called; copied before it is compiled or wrapped.
        block: whose output to return.
        dtype: floating-point type to run in; by default the weights' own.
    """

    def __init__(self, denoiser: nn.Module, block: HiddenBlock, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        without: dict[int, Any] = {id(module): nn.Identity() for module in block.unused}
        self.denoiser = copy.deepcopy(denoiser, without).requires_grad_(False).eval().to(dtype)
        modules: Iterable[Any] = self.denoiser.modules()
        for module in modules:
            if getattr(module, "gradient_checkpointing", False):
                module.gradient_checkpointing = False  # blocks that are not all run can't be run again
        self.block = block.path
        self.number = block.number
        self.denoiser.get_submodule(block.path).register_forward_hook(_end_here)

    @property
    def dtype(self) -> torch.dtype:
        """The weights' floating-point type, which latents and conditions are cast to."""
        return next(parameter.dtype for parameter in self.denoiser.parameters() if parameter.is_floating_point())

    def forward(self, latents: Tensor, conditioning: Tensor, labels: Tensor | None = None, **condition: Any) -> Tensor:
        """The block's output: tokens (B, N, width) of a transformer, the context's left out; maps of a U-Net.

        Args:
            latents: z_t, (B, C, h, w).
            conditioning: `path.conditioning(timesteps)`, (B,).
            labels: int64 (B,), for denoisers that take a class.
            condition: what else the denoiser takes.
        """
        try:
            self.denoiser(latents.to(self.dtype), conditioning, labels, **_cast(condition, self.dtype))
        except _BlockReachedError as reached:
            return reached.output
        raise RuntimeError(f"{self.block}: the denoiser did not run it")

    def train(self, mode: bool = True) -> HiddenStates:
        """Stays in evaluation mode: the copy is frozen."""
        return super().train(False)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors in `dtype`, within mappings and lists too, but for `NUMBERS`."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {name: some if name in NUMBERS else _cast(some, dtype) for name, some in value.items()}
    if isinstance(value, list | tuple):
        return [_cast(some, dtype) for some in value]
    return value


def hidden_states(denoiser: nn.Module, depth: Depth = "middle", dtype: torch.dtype | None = None) -> HiddenStates:
    """A frozen copy of a denoiser's first blocks.

    Args:
        denoiser: a `ClassConditionalMMDiT`, or a diffusers model behind its `Adapter`.
        depth: the number of a transformer's block, from 1; or "shallow" (8/28 of the blocks), "middle" (16/28) or
            "deep" (the last one). A U-Net has "middle", its mid block.
        dtype: floating-point type to run in; by default the weights' own.

    Raises:
        ValueError: the denoiser has no such block.

    Example:
        >>> hidden = hidden_states(denoiser, depth="shallow")
        >>> tokens = hidden(noisy, path.conditioning(timesteps), labels)
    """
    return HiddenStates(denoiser, find_block(denoiser, depth), dtype)


def find_block(denoiser: nn.Module, depth: Depth) -> HiddenBlock:
    """The block at a depth; see `hidden_states`."""
    for name in ("transformer", "model"):  # ours, an adapter's
        network = getattr(denoiser, name, None)
        if network is None:
            continue
        blocks = [
            (f"{name}.{part}.{index}", block)
            for part in BLOCK_LISTS
            for index, block in enumerate(getattr(network, part, None) or ())
        ]
        if blocks:
            return _transformer_block(blocks, depth)
        if getattr(network, "mid_block", None) is not None:
            return _mid_block(f"{name}.mid_block", network, depth)
    raise ValueError(
        f"denoiser: {type(denoiser).__name__} has neither transformer blocks nor a mid block whose hidden states could "
        "be compared"
    )


def _transformer_block(blocks: list[tuple[str, nn.Module]], depth: Depth) -> HiddenBlock:
    share = SHARES.get(depth) if isinstance(depth, str) else None
    number = depth if share is None else max(1, round(share * len(blocks)))
    if not isinstance(number, int) or not 1 <= number <= len(blocks):
        raise ValueError(
            f"depth: got {depth}, this denoiser takes the number of a block, 1 to {len(blocks)}, or {', '.join(SHARES)}"
        )
    return HiddenBlock(blocks[number - 1][0], number, [block for _, block in blocks[number:]])


def _mid_block(path: str, network: Any, depth: Depth) -> HiddenBlock:
    if depth != "middle":
        raise ValueError(f"depth: got {depth}, {type(network).__name__} takes middle, its mid block")
    return HiddenBlock(path, None, list(network.up_blocks))


class _BlockReachedError(Exception):
    """Carries a block's output out of the denoiser, so that nothing after it is run."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


def _end_here(module: nn.Module, arguments: Any, output: Any) -> None:
    # Blocks with a stream for the text give (context, image tokens).
    raise _BlockReachedError(output[-1] if isinstance(output, tuple) else output)
