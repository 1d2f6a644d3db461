"""How a process's allocator treats memory that tensors have freed."""

from __future__ import annotations

import ctypes
import os

# glibc's numbers for mallopt(3)
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
NEVER = -1  # as a threshold for trimming
LARGEST_THRESHOLD = 32 * 2**20  # bytes; glibc takes no larger one, and maps larger tensors page by page each time
GROWTH = 64 * 2**20  # bytes that the heap grows by at a time

CHOSEN_BY_USER = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed_memory() -> bool:
    """Has this process keep the memory of freed tensors for the next ones, for as long as it lives.

    By default glibc hands freed memory back to the operating system, which must clear each page before the next tensor
    can have it: a training step on a CPU, which frees and asks for the same gigabytes every time, waits for that. It is
    a setting of the whole process, so it is for programs rather than for libraries to choose.

    Returns:
        Whether it took effect. It doesn't with another allocator than glibc's, or where the environment already says
        what glibc's should do.
    """
    if any(name in os.environ for name in CHOSEN_BY_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS and musl have no such function, Windows no such library
        return False
    settings = ((M_MMAP_THRESHOLD, LARGEST_THRESHOLD), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, GROWTH))
    return all(mallopt(option, value) == 1 for option, value in settings)
