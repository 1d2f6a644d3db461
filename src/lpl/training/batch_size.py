"""The largest batch that fits into memory, and the learning rate that goes with it (the paper's Table 7).

Reference: Berrada et al., *Boosting Latent Diffusion with Perceptual Objectives*, ICLR 2025, A.6: both runs take the
largest batch that fits, and the learning rate is scaled linearly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..config import Recipe
from .batch_probe import BatchSizeError, GpuProbe, MemoryProbe, ProcessProbe

START = 8  # samples tried first
GROWTH = 4  # times the largest batch that fits, at most, to try next
TOLERANCE = 1 / 32  # of the batch, between one that fits and one that does not
MOST = 1 << 16  # samples, beyond which nobody looks

Measure = Callable[[int], int | None]  # from a batch size to the peak in bytes, or None where memory ran out


@dataclass(frozen=True)
class Probe:
    """One batch size that was tried.

    Attributes:
        batch_size: samples a forward pass.
        peak_bytes: the largest memory in use, or None where it ran out.
        fits: whether that is within the limit.
    """

    batch_size: int
    peak_bytes: int | None
    fits: bool


@dataclass(frozen=True)
class BatchSizeSearch:
    """The largest batch that fits, and how it was found.

    Attributes:
        batch_size: samples a forward pass; it was tried.
        peak_bytes: the largest memory in use with it.
        limit_bytes: what it had to fit into.
        memory_of: what is counted: "GPU tensors" or "process, resident".
        probes: every size that was tried, in order.
    """

    batch_size: int
    peak_bytes: int
    limit_bytes: int
    memory_of: str
    probes: tuple[Probe, ...]

    @property
    def smallest_too_large(self) -> int | None:
        """The smallest size tried that does not fit, or None where all fitted."""
        return min((probe.batch_size for probe in self.probes if not probe.fits), default=None)


def largest_batch_size(
    recipe: Recipe,
    memory_limit_bytes: int | None = None,
    report: Callable[[Probe], None] | None = None,
) -> BatchSizeSearch:
    """Finds the largest `training.batch_size` with which a recipe trains, by taking two steps at each size tried.

    The steps are those of training: the recipe's data, denoiser, average, optimiser, objective and precision, with a
    perceptual weight that counts from the start, the gradient ratio that logged steps measure, and as many samples
    past the gate as in the worst iteration of the run. The result is at most 3 % below the largest.

    On a GPU the steps run in this process, until memory runs out as accelerate's `find_executable_batch_size` tells it.
    On a CPU each size runs in a process of its own, whose peak resident memory is compared with the limit; in a script,
    this function must therefore be called below `if __name__ == "__main__":`.

    Args:
        recipe: its batch size is not used. The images are encoded first, where they have not been.
        memory_limit_bytes: of the GPU's tensors, or on a CPU of the whole process, the interpreter and libraries
            included; by default what the GPU has, or nine tenths of what the machine has free.
        report: called after each size tried.

    Raises:
        BatchSizeError: not even one sample fits, or a step failed for another reason than memory.
    """
    if memory_limit_bytes is not None and memory_limit_bytes <= 0:
        raise BatchSizeError(f"memory_limit_bytes: got {memory_limit_bytes}, takes a positive number of bytes")
    probe: MemoryProbe = GpuProbe(recipe, memory_limit_bytes) if torch.cuda.is_available() else ProcessProbe(recipe)
    limit = memory_limit_bytes or probe.available()
    probes = search(probe.peak, limit, report)
    best = max((found for found in probes if found.fits), key=lambda found: found.batch_size, default=None)
    if best is None or best.peak_bytes is None:
        smallest = min(probes, key=lambda found: found.batch_size)
        peak = "more than there is" if smallest.peak_bytes is None else f"{smallest.peak_bytes:,} bytes"
        raise BatchSizeError(f"{recipe.name}: a batch of {smallest.batch_size} takes {peak}, the limit is {limit:,}")
    return BatchSizeSearch(best.batch_size, best.peak_bytes, limit, probe.memory_of, tuple(probes))


def search(measure: Measure, limit: int, report: Callable[[Probe], None] | None = None) -> list[Probe]:
    """Tries batch sizes until one that fits and one that does not are next to each other, up to `TOLERANCE`.

    Memory grows nearly linearly with the batch, so each size is where the line through the sizes tried meets the limit.

    Args:
        measure: the peak of a batch size, in bytes.
        limit: in bytes.
        report: called after each size tried.

    Returns:
        What was tried, in order; nothing fits where not even a single sample does.
    """
    probes: list[Probe] = []
    candidate: int | None = START
    while candidate is not None:
        peak = measure(candidate)
        probes.append(Probe(candidate, peak, peak is not None and peak <= limit))
        if report is not None:
            report(probes[-1])
        candidate = next_candidate(probes, limit)
    return probes


def next_candidate(probes: list[Probe], limit: int) -> int | None:
    """The batch size to try next, or None where the search is over."""
    lower = max((probe.batch_size for probe in probes if probe.fits), default=0)
    upper = min((probe.batch_size for probe in probes if not probe.fits), default=None)
    step = max(1, math.floor(TOLERANCE * lower))
    predicted = _meeting(probes, limit)
    if upper is None:
        if lower >= MOST:
            return None
        # Where the limit is predicted right here, one step further tells.
        wanted = GROWTH * lower if predicted is None else max(predicted, lower + step)
        return min(wanted, GROWTH * lower, MOST)
    if upper - lower <= step:
        return None
    middle = (lower + upper) // 2
    # A tenth away from both ends, so that a wrong prediction costs no more than a few further tries.
    margin = max(step, (upper - lower) // 10)
    return min(max(middle if predicted is None else predicted, lower + margin), upper - margin)


def _meeting(probes: list[Probe], limit: int) -> int | None:
    """Where the line through the two largest sizes that were measured meets the limit, or None where it does not."""
    measured = {probe.batch_size: probe.peak_bytes for probe in probes if probe.peak_bytes is not None}
    if len(measured) < 2:
        return None
    (first, low), (second, high) = sorted(measured.items())[-2:]
    slope = (high - low) / (second - first)
    return math.floor(second + (limit - high) / slope) if slope > 0 else None


def scaled_learning_rate(learning_rate: float, batch_size: int, reference_batch_size: int) -> float:
    """The learning rate for a batch, in proportion to that of a reference batch.

    Args:
        learning_rate: of the reference batch.
        batch_size: whose rate is wanted.
        reference_batch_size: for which `learning_rate` was chosen.
    """
    if batch_size < 1 or reference_batch_size < 1:
        raise ValueError(f"batch_size, reference_batch_size: got {batch_size}, {reference_batch_size}, take 1 or more")
    return learning_rate * batch_size / reference_batch_size


def with_batch_size(recipe: Recipe, batch_size: int) -> Recipe:
    """A recipe with another batch, its learning rate scaled linearly from the one it has."""
    training = recipe.training
    rate = scaled_learning_rate(training.learning_rate, batch_size, training.batch_size)
    changed = training.model_copy(update={"batch_size": batch_size, "learning_rate": rate})
    return recipe.model_copy(update={"training": changed})
