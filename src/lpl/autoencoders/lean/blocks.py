"""Lean forward computations of whole blocks: diffusers' residual blocks, upsamplers and gated convolutions."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...kernels import fused
from .activation import GatedSiLU
from .attention import attention, materializes
from .modules import Lean, LeanConvolution, frozen, observed, plain_type, run_sequence
from .normalization import ACTIVATIONS, group_norm_activation


def _lean_convolutions(*modules: nn.Module | None) -> bool:
    return all(module is None or isinstance(module, LeanConvolution) for module in modules)


def _unwatched(module: nn.Module) -> bool:
    """Whether the inner modules can be computed jointly: no hooks on them, no gradient for their parameters."""
    return not any(observed(child) or not frozen(child) for child in module.children())


class LeanResnetBlock(Lean):
    """x + conv₂(f(norm₂(conv₁(f(norm₁(x)))))), keeping x and conv₁'s output.

    For diffusers' ResnetBlock2D and TemporalResnetBlock without conditioning, which is how decoders use them.
    """

    norm1: nn.GroupNorm
    norm2: nn.GroupNorm
    conv1: nn.Module
    conv2: LeanConvolution
    nonlinearity: nn.Module
    conv_shortcut: nn.Module | None

    @classmethod
    def accepts(cls, module: Any) -> bool:
        """Group norms, SiLU or ReLU, no resampling, no conditioning, and no active dropout."""
        norms = type(module.norm1) is nn.GroupNorm and type(module.norm2) is nn.GroupNorm
        resamples = getattr(module, "upsample", None) is not None or getattr(module, "downsample", None) is not None
        scaled = getattr(module, "time_embedding_norm", "default") == "scale_shift"
        conditioned = module.time_emb_proj is not None or scaled
        convolutions = _lean_convolutions(module.conv1, module.conv2, module.conv_shortcut)
        return (
            norms
            and convolutions
            and plain_type(module.nonlinearity) in ACTIVATIONS
            and not resamples
            and not conditioned
        )

    def forward(self, input_tensor: Tensor, temb: Tensor | None = None, *arguments: Any, **named: Any) -> Tensor:
        """(B, C, …) → (B, C', …)."""
        if temb is not None or arguments or named or self.training or not _unwatched(self):
            return super().forward(input_tensor, temb, *arguments, **named)
        activation = ACTIVATIONS[plain_type(self.nonlinearity)]
        hidden = group_norm_activation(input_tensor, self.norm1, activation)
        if fused(hidden) and isinstance(self.conv1, LeanConvolution):  # the next kernel adds the bias as it reads
            hidden = self.conv1.fused(hidden, biased=False)
            hidden = group_norm_activation(hidden, self.norm2, activation, shift=self.conv1.bias)
        else:
            hidden = group_norm_activation(self.conv1(hidden), self.norm2, activation)
        skip = input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor)
        output = self.conv2.fused(hidden, residual=skip)
        scale = getattr(self, "output_scale_factor", 1.0)
        return output if scale == 1.0 else output / scale


class LeanTinyBlock(Lean):
    """ReLU(conv(x) + skip(x)), where conv is a sequence of convolutions and ReLUs: keeps one byte per ReLU's value.

    For diffusers' AutoencoderTinyBlock and TAEF2's block, whose `pool` branch is added to x first.
    """

    conv: nn.Sequential
    fuse: nn.Module

    @classmethod
    def accepts(cls, module: Any) -> bool:
        """Branches that end with a convolution."""
        branches = [module.conv, getattr(module, "pool", None)]
        ends = [branch[-1] for branch in branches if branch is not None]
        return plain_type(module.fuse) is nn.ReLU and _lean_convolutions(*ends)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H, W)."""
        if not _unwatched(self) or any(not _unwatched(branch) for branch in self.children()):
            return super().forward(x)
        pool, skip = getattr(self, "pool", None), getattr(self, "skip", None)
        if pool is not None:
            x = _add_branch(pool, x, x, relu=False)
        return _add_branch(self.conv, x, x if skip is None else skip(x), relu=True)


def _add_branch(branch: nn.Sequential, x: Tensor, residual: Tensor, relu: bool) -> Tensor:
    *first, last = branch
    assert isinstance(last, LeanConvolution)
    return last.fused(run_sequence(first, x), residual, relu)


class LeanUpsample2D(Lean):
    """diffusers' Upsample2D: doubling by nearest neighbour folded into the convolution after it."""

    conv: LeanConvolution

    @classmethod
    def accepts(cls, module: Any) -> bool:
        """Doubling followed by a convolution, nothing else."""
        simple = module.interpolate and module.use_conv and module.norm is None and not module.use_conv_transpose
        return simple and module.name == "conv" and isinstance(module.conv, LeanConvolution)

    def forward(self, hidden_states: Tensor, output_size: Any = None, *arguments: Any, **named: Any) -> Tensor:
        """(B, C, H, W) → (B, C', 2H, 2W)."""
        if output_size is not None or arguments or named or observed(self.conv) or not self.conv.folds_upsampling:
            return super().forward(hidden_states, output_size, *arguments, **named)
        return self.conv.upsampled(hidden_states)


class LeanAttention(Lean):
    """diffusers' Attention of a map with itself: heads too wide for a GPU's fast kernels are computed by products.

    Stable Diffusion's decoders have one head of 512 channels.
    """

    group_norm: nn.Module
    to_q: nn.Module
    to_k: nn.Module
    to_v: nn.Module
    to_out: nn.ModuleList
    heads: int
    scale: float
    rescale_output_factor: float

    @classmethod
    def accepts(cls, module: Any) -> bool:
        """One map, normalised in groups, added to itself; nothing else."""
        processor = type(module.processor).__name__
        extras = ("spatial_norm", "norm_q", "norm_k", "norm_cross", "add_k_proj", "add_q_proj")
        plain = all(getattr(module, name, None) is None for name in extras)
        return (
            plain
            and processor == "AttnProcessor2_0"
            and isinstance(module.group_norm, nn.GroupNorm)
            and module.residual_connection
            and module.to_out is not None
        )

    def forward(self, hidden_states: Tensor, *arguments: Any, **named: Any) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        extras = any(value is not None for value in (*arguments, *named.values()))
        width = hidden_states.shape[1] // self.heads
        if extras or hidden_states.ndim != 4 or self.training or not materializes(hidden_states, width):
            return super().forward(hidden_states, *arguments, **named)
        samples, size = hidden_states.shape[0], hidden_states.shape[2:]
        tokens = self.group_norm(hidden_states.flatten(2)).movedim(1, -1)
        query, key, value = (
            projection(tokens).unflatten(-1, (self.heads, -1)).movedim(2, 1).flatten(0, 1)
            for projection in (self.to_q, self.to_k, self.to_v)
        )
        mixed = attention(query, key, value, self.scale).unflatten(0, (samples, self.heads)).movedim(1, 2).flatten(2)
        output = self.to_out[0](mixed).unflatten(1, size).movedim(-1, 1)
        return (output + hidden_states) / self.rescale_output_factor


class LeanGatedConvolution(Lean):
    """diffusers' GLUMBConv: keeps the depthwise convolution's input before SiLU, and its output."""

    conv_inverted: nn.Module
    conv_depth: nn.Module
    conv_point: LeanConvolution
    nonlinearity: nn.Module
    norm: nn.Module | None
    residual_connection: bool

    @classmethod
    def accepts(cls, module: Any) -> bool:
        """Gated by SiLU."""
        return type(module.nonlinearity) is nn.SiLU and _lean_convolutions(module.conv_point)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H, W)."""
        if not _unwatched(self):
            return super().forward(hidden_states)
        gated = GatedSiLU.apply(self.conv_depth(self.nonlinearity(self.conv_inverted(hidden_states))))
        output = self.conv_point(gated)
        if self.norm is not None:
            output = self.norm(output.movedim(1, -1)).movedim(-1, 1)
        return output + hidden_states if self.residual_connection else output
