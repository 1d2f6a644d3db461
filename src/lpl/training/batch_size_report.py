"""The search for a batch size in words: what was tried, and the settings that it leads to."""

from __future__ import annotations

import re

from ..config import Recipe
from .batch_probe import BatchSizeError
from .batch_size import BatchSizeSearch, Probe, with_batch_size

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"([\d.]+)\s*([KMGT]?I?)B?", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """A size such as 4GiB, 500 MB or 1000000 as a number of bytes.

    Raises:
        BatchSizeError: it is not one.
    """
    match = _SIZE.fullmatch(text.strip())
    try:
        count = float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    except (ValueError, KeyError):
        count = 0.0
    if count < 1:
        raise BatchSizeError(f"memory: got {text!r}, takes a size such as 4GiB, 500MB or a number of bytes")
    return int(count)


def probe_line(probe: Probe) -> str:
    """One size that was tried."""
    taken = "out of memory" if probe.peak_bytes is None else _size(probe.peak_bytes)
    return f"batch {probe.batch_size:,}: {taken}, {'fits' if probe.fits else 'too large'}"


def search_summary(recipe: Recipe, found: BatchSizeSearch) -> str:
    """The result, with the settings for the command line."""
    changed, given = with_batch_size(recipe, found.batch_size).training, recipe.training
    return (
        f"{recipe.name}: the largest batch is {found.batch_size:,}, with {_size(found.peak_bytes)} of "
        f"{_size(found.limit_bytes)} ({found.memory_of})\n"
        f"learning rate in proportion, from {given.learning_rate:g} at batch {given.batch_size}:\n"
        f"training.batch_size={changed.batch_size} training.learning_rate={changed.learning_rate:.6g}"
    )


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
