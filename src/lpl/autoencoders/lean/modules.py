"""The lean forward computations, as classes mixed in front of the plain ones.

Each takes its plain class's attributes as they are and calls the plain forward wherever a precondition that can change
after replacement (a weight that requires a gradient, a hook on an inner module, a conditioning input) no longer holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .activation import MaskedReLU
from .convolution import Geometry, fold_upsampling, frozen_convolution
from .normalization import ACTIVATIONS, RMSNormalization, group_norm_activation

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def observed(module: nn.Module) -> bool:
    """Whether hooks watch the module, so that it has to be called rather than computed along with its neighbours."""
    return any(getattr(module, hooks) for hooks in _HOOKS)


def frozen(module: nn.Module) -> bool:
    """Whether none of the module's own parameters asks for a gradient."""
    return not any(parameter.requires_grad for parameter in module.parameters(recurse=False))


class Lean(nn.Module):
    """A lean forward computation.

    Attributes:
        plain: the class it stands in front of.
        lean: the class it comes from, which defines the lean computation.
    """

    plain: type[nn.Module]
    lean: type[Lean]

    @classmethod
    def accepts(cls, module: Any) -> bool:
        """Whether a module of the plain class, its inner modules already lean, can be computed this way."""
        return True

    def prepare(self) -> None:
        """Adds what the lean computation needs besides the plain module's attributes."""


def plain_type(module: nn.Module) -> type[nn.Module]:
    """The module's class, or the one it had before it was made lean."""
    return module.plain if isinstance(module, Lean) else type(module)


class LeanConvolution(Lean):
    """A frozen convolution, plain or transposed, of one to three dimensions, padded with zeros."""

    weight: Tensor
    bias: Tensor | None
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int
    fold: bool
    _folded: Tensor | None
    _folded_from: tuple[Any, ...]
    _folded_sample: Tensor

    @classmethod
    def accepts(cls, module: Any) -> bool:
        """Padding is a number of zeros for each dimension."""
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)

    def prepare(self) -> None:
        """Makes room for the kernel with a doubling folded in: a buffer, so that it counts as a weight."""
        self.register_buffer("_folded", None, persistent=False)
        self._folded_from = ()
        self.fold = True

    def forward(self, input: Tensor, *arguments: Any, **named: Any) -> Tensor:
        """As the plain convolution's."""
        if arguments or named or not frozen(self) or input.ndim != self.weight.ndim:
            return super().forward(input, *arguments, **named)
        return self.fused(input)

    def fused(self, input: Tensor, residual: Tensor | None = None, relu: bool = False, biased: bool = True) -> Tensor:
        """The convolution, with or without its bias, then optionally `+ residual`, then optionally ReLU."""
        geometry = Geometry(self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups)
        return frozen_convolution(input, self.weight, self.bias if biased else None, geometry, residual, relu)

    @property
    def folds_upsampling(self) -> bool:
        """Whether a doubling by nearest neighbour right before can be folded into the kernel."""
        plain = self.stride == (1, 1) and self.dilation == (1, 1) and self.groups == 1 and not self.transposed
        square = len(self.kernel_size) == 2 and self.kernel_size[0] == self.kernel_size[1]
        return self.fold and plain and square and max(self.padding) < self.kernel_size[0] and frozen(self)

    def upsampled(self, input: Tensor, relu: bool = False) -> Tensor:
        """The convolution of the input doubled by nearest neighbour: (B, C, H, W) → (B, C', 2H, 2W)."""
        rest = self.kernel_size[0] - 1
        padding = tuple(rest - padding for padding in self.padding)
        geometry = Geometry((2, 2), padding, (1, 1), True, (0, 0), 1)
        return frozen_convolution(input, self._folded_weight(), self.bias, geometry, relu=relu)

    def _folded_weight(self) -> Tensor:
        """The weight with a doubling folded in, of the weight as it is now; folding costs a few per cent of a decode.

        Whoever writes to a weight behind autograd's back, as fused optimizers and `weight.data.copy_` do, leaves its
        version as it was. On a CPU some of its values are therefore compared too; a GPU would have to be waited for.
        """
        if torch.compiler.is_compiling():
            return fold_upsampling(self.weight)
        version = None if self.weight.is_inference() else self.weight._version
        source = (self.weight.data_ptr(), version, self.weight.dtype, self.weight.device)
        sample = self.weight[:: max(len(self.weight) // 16, 1), :: max(self.weight.shape[1] // 16, 1)]
        watched = sample.device.type == "cpu"
        same = self._folded_from == source and not (watched and not torch.equal(self._folded_sample, sample))
        if self._folded is None or not same:
            with torch.inference_mode(False), torch.no_grad():  # a later training step uses it too
                self._folded = fold_upsampling(self.weight)
                self._folded_sample = sample.clone()
            self._folded_from = source
        return self._folded


class LeanReLU(Lean):
    """max(x, 0) that keeps one byte per value."""

    @classmethod
    def accepts(cls, module: Any) -> bool:
        """Not where it overwrites its input, which others may read."""
        return not module.inplace

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        return MaskedReLU.apply(input)


class LeanRMSNorm(Lean):
    """diffusers' RMSNorm, over the last dimension."""

    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(…, C) → (…, C)."""
        if not frozen(self):
            return super().forward(hidden_states)
        return RMSNormalization.apply(hidden_states, self.weight, self.bias, self.eps)


def run_sequence(modules: Sequence[nn.Module], input: Tensor) -> Tensor:
    """Applies modules in turn, neighbours that have a lean joint computation together."""
    position = 0
    while position < len(modules):
        fused = None
        if position + 1 < len(modules):
            fused = _fused_pair(modules[position], modules[position + 1], input)
        input = modules[position](input) if fused is None else fused
        position += 1 if fused is None else 2
    return input


def _fused_pair(first: nn.Module, second: nn.Module, input: Tensor) -> Tensor | None:
    """The pair's joint computation, or None where it has none."""
    if observed(first) or observed(second):
        return None
    activation = ACTIVATIONS.get(plain_type(second))
    if type(first) is nn.GroupNorm and activation is not None and frozen(first):
        return group_norm_activation(input, first, activation)
    if isinstance(first, LeanConvolution) and plain_type(second) is nn.ReLU and frozen(first):
        return first.fused(input, relu=True)
    if doubles(first) and isinstance(second, LeanConvolution) and second.folds_upsampling and input.ndim == 4:
        return second.upsampled(input)
    return None


def doubles(module: nn.Module) -> bool:
    """Whether the module doubles both sides of a map by nearest neighbour."""
    if type(module) is not nn.Upsample or module.mode != "nearest" or module.size is not None:
        return False
    return module.scale_factor in (2, (2, 2))


class LeanSequential(Lean, nn.Sequential):
    """A sequence whose neighbours are computed jointly where that keeps less."""

    def forward(self, input: Any) -> Any:
        """As the plain sequence's."""
        return run_sequence(list(self), input)
