"""Kernels run on a GPU where there is one, and under Triton's interpreter otherwise."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")


@pytest.fixture
def device(kernel_device: torch.device) -> torch.device:
    """Where the kernels' tensors are."""
    return kernel_device
