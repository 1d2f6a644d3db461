"""Memory layouts that several tests need."""

from __future__ import annotations

import torch


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    """In the layout that the fast convolutions of GPUs, and the kernels, take."""
    return tensor.contiguous(memory_format=torch.channels_last)
