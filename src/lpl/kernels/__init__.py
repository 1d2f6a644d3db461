"""Triton kernels for channels-last feature maps on a GPU.

Each does in one pass over memory what PyTorch's own operations take several for, and is tested against the plain
computation that stands in for it everywhere else. `fused` says which tensors they take; the other modules need Triton,
and are imported where it has said yes.
"""

from .launch import Mask, fused, laid_out

__all__ = ["Mask", "fused", "laid_out"]
