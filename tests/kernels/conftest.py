"""Kernels run on a GPU where there is one, and under Triton's interpreter otherwise."""

from __future__ import annotations

import pytest
import torch

from lpl.kernels import launch

pytest.importorskip("triton")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where the kernels' tensors are."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    monkeypatch.setattr(launch, "ON_CPU", True)
    return torch.device("cpu")
