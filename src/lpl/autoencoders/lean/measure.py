"""What a computation costs: the bytes it keeps for its backward pass, and its floating-point operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class KeptBytes:
    """What has been kept for backward: each storage counted once and whole, however many views of it were kept.

    Attributes:
        tensors: shapes and dtypes of the counted tensors, in the order they were kept.
    """

    def __init__(self) -> None:
        self._storages: dict[int, int] = {}
        self.tensors: list[tuple[torch.Size, torch.dtype]] = []

    @property
    def bytes(self) -> int:
        """The sum over distinct storages, in bytes."""
        return sum(self._storages.values())

    def add(self, tensor: Tensor) -> None:
        """Counts a tensor's storage unless it has been counted."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._storages:
            self._storages[storage.data_ptr()] = storage.nbytes()
            self.tensors.append((tensor.shape, tensor.dtype))


def _weights(modules: tuple[nn.Module, ...]) -> set[int]:
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@contextmanager
def count_kept_bytes(*frozen: nn.Module) -> Iterator[KeptBytes]:
    """Counts what is kept for backward by the computations inside the `with` block.

    Args:
        frozen: modules whose parameters and buffers are not counted: they are in memory anyway.

    Yields:
        The running count.

    Example:
        >>> with count_kept_bytes(decoder) as kept:
        ...     features = decoder(latents)
        >>> kept.bytes
    """
    kept = KeptBytes()

    def pack(tensor: Tensor) -> Tensor:
        # Weights are looked up late: a module may derive a buffer from its weight on its first call.
        if tensor.untyped_storage().data_ptr() not in _weights(frozen):
            kept.add(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def kept_bytes(function: Callable[[], Any], *frozen: nn.Module) -> int:
    """The bytes that `function()` keeps for its backward pass, parameters and buffers of `frozen` not counted.

    The function's result stays alive until the count is taken, so that no storage is missed because its address was
    used again.
    """
    with torch.enable_grad(), count_kept_bytes(*frozen) as kept:
        result = function()
    total = kept.bytes
    del result
    return total


def count_flops(function: Callable[[], Any]) -> int:
    """The floating-point operations of `function()`, as torch's `FlopCounterMode` sees them run.

    A multiply-add counts as two. Convolutions, matrix products and attention count, in forward and backward passes,
    within autograd functions of one's own too; whatever goes element by element does not. Attention is taken apart into
    its two products, so that the count does not depend on the kernel that a device would choose: those that keep no
    attention matrix compute one product a second time in the backward pass.

    On tensors of the device "meta" nothing is computed and no memory is taken.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())
