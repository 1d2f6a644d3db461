"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton: kernels then run on the CPU

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _seed() -> None:
    """What a test draws without a seed of its own is the same in every run, in whatever order tests run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of photographs and weights that some tests use and none may need."""
    folder = Path(os.environ.get("LPL_SHARED", ROOT.parent / "shared"))
    if not (folder / "weights" / "taef2").is_dir():
        pytest.skip(f"no shared data at {folder} (set LPL_SHARED to a folder that holds data/ and weights/)")
    return folder


@pytest.fixture
def kernel_device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where kernels find their tensors: a GPU where there is one, and otherwise the CPU, under Triton's interpreter."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    from triton.runtime import interpreter

    from lpl.kernels import launch

    patch = interpreter._patch_lang_tensor

    def with_bounds_of_loops(tensor: Any, scope: Any) -> None:
        """The interpreter's own turns arrays of one number into integers, which NumPy no longer does from 2.4 on."""
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
