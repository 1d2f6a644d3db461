"""Kernels run on a GPU where there is one, and under Triton's interpreter otherwise."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch

from lpl.kernels import launch

pytest.importorskip("triton")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where the kernels' tensors are."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def with_bounds_of_loops(tensor: Any, scope: Any) -> None:
        """The interpreter's own turns arrays of one number into integers, which NumPy 2.4 no longer does."""
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def with_bits(reduction: Any, values: Any) -> Any:
        """The interpreter's own combines values one by one, in Python."""
        if reduction.combine_fn.fn.__name__ != "either":
            return combined(reduction, values)
        return [
            reduction.to_tensor(numpy.bitwise_or.reduce(values[0].handle.data, axis=reduction.axis), values[0].dtype)
        ]

    combined = interpreter.ReduceOps.generic_reduce
    monkeypatch.setattr(interpreter.ReduceOps, "generic_reduce", with_bits)
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", with_bounds_of_loops)
    monkeypatch.setattr(launch, "ON_CPU", True)
    return torch.device("cpu")
