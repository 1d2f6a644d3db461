"""Counts the multiplications and additions of convolutions and matrix products, forward and backward."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class FlopCounter(TorchDispatchMode):
    """Adds up operations with PyTorch's own formulas.

    Unlike `torch.utils.flop_counter.FlopCounterMode` it does not follow modules, whose hooks forbid that a gradient is
    taken within a forward pass.

    Attributes:
        total: so far.

    Example:
        >>> with FlopCounter() as counter:
        ...     model(x).sum().backward()
        >>> counter.total
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and counts it."""
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            counted = args[:2] if func._overloadname == "dtype" else args  # `bmm` into another type: formulas take none
            self.total += count(*counted, **(kwargs or {}), out_val=result)
        return result
