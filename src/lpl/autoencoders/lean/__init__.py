"""The input gradient of frozen networks in a third of the memory.

Automatic differentiation keeps every convolution's input for the gradient of its weight, even where the weight is
frozen, and every activation's input beside it. `make_lean` replaces the forward computation of the modules it knows so
that only what the input's gradient needs is kept: one tensor a normalisation, one byte a value for a ReLU, nothing for
a convolution. No convolution is computed twice, and the values are those of the plain modules up to rounding.
"""

from .measure import KeptBytes, count_flops, count_kept_bytes, kept_bytes
from .replacement import make_lean

__all__ = ["KeptBytes", "count_flops", "count_kept_bytes", "kept_bytes", "make_lean"]
