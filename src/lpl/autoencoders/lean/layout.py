"""Memory layouts of feature maps."""

from __future__ import annotations

import torch
from torch import Tensor


def memory_format(tensor: Tensor) -> torch.memory_format:
    """The tensor's channels-last format where it is laid out so and not contiguous; otherwise the contiguous format."""
    if tensor.ndim in (4, 5) and not tensor.is_contiguous():
        last = torch.channels_last if tensor.ndim == 4 else torch.channels_last_3d
        if tensor.is_contiguous(memory_format=last):
            return last
    return torch.contiguous_format


def dense(tensor: Tensor) -> Tensor:
    """The tensor in the layout that `memory_format` names, copied only where it is in neither format."""
    layout = memory_format(tensor)
    if layout == torch.contiguous_format:
        return tensor.contiguous()
    # A single sample passes for channels-last whatever its batch stride, but kernels that look at strides refuse it.
    last = tensor.movedim(1, -1)
    return last.flatten().view(last.shape).movedim(-1, 1) if last.shape[0] == 1 else tensor
