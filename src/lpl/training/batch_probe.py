"""The peak memory of training steps with a given batch size: in a process of its own on a CPU, in this one on a GPU."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, Protocol

import psutil
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from scipy.stats import binom
from torch import Tensor

from ..autoencoders import load_autoencoder
from ..config import PerceptualConfig, Recipe
from ..data import build_latent_cache
from ..data.order import seeded_generator
from ..diffusion import DiffusionPath, make_path
from ..errors import LplError
from .objective import TrainingBatch
from .preparation import make_accelerator, prepare
from .run_folder import RunFolder, peak_memory
from .trainer import compute_gradients

STEPS = 2  # the optimiser's state is there from the second on
RARE = 0.01  # probability that in some iteration of the run more samples pass the gate than are tried
TIMES = 4096  # drawn to take those within and beyond the gate from
PATIENCE = 10  # seconds that a process which has answered may take to end
SHARE_OF_FREE = 0.9  # of the machine's free memory, where no limit is given


class BatchSizeError(LplError, RuntimeError):
    """No batch fits, or none can be tried; the message says why."""


class MemoryProbe(Protocol):
    """Measures the memory of a recipe's steps.

    Attributes:
        memory_of: what is counted.
    """

    memory_of: str

    def peak(self, batch_size: int) -> int | None:
        """The peak in bytes, or None where memory ran out."""

    def available(self) -> int:
        """Bytes that there are."""


class ProcessProbe:
    """The peak resident memory of a process that does nothing but a recipe's steps.

    Args:
        recipe: its images are encoded by the first process that needs them, before any other.
    """

    memory_of = "process, resident"

    def __init__(self, recipe: Recipe) -> None:
        _encode(recipe)
        self.values = recipe.model_dump()
        # Processes are forked from one that has imported everything, and has used no memory of its own yet.
        kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self.context: Any = multiprocessing.get_context(kind)
        self.context.set_forkserver_preload(["lpl.training.batch_probe"])

    def peak(self, batch_size: int) -> int | None:
        """The peak in bytes, or None where memory ran out or the system ended the process.

        Raises:
            BatchSizeError: a step failed for another reason.
        """
        ours, theirs = self.context.Pipe(duplex=False)
        arguments = (theirs, self.values, batch_size, torch.get_num_threads())
        child = self.context.Process(target=_answer, args=arguments, daemon=True)
        child.start()
        theirs.close()
        try:
            peak, error = ours.recv()
        except EOFError:  # it was killed, as systems do that are short of memory
            return None
        finally:
            child.join(PATIENCE)  # one that has answered ends by itself, and gives back what the system lent it
            child.kill()
            child.join()
        if error is not None:
            raise BatchSizeError(f"a step with a batch of {batch_size} failed: {error}")
        return peak

    def available(self) -> int:
        """Nine tenths of what the machine has free."""
        return int(SHARE_OF_FREE * psutil.virtual_memory().available)


class GpuProbe:
    """The peak of the tensors on a GPU during a recipe's steps.

    Args:
        recipe: what is trained.
        limit: bytes that may be allocated; None: all that the GPU has.
    """

    memory_of = "GPU tensors"

    def __init__(self, recipe: Recipe, limit: int | None) -> None:
        _encode(recipe)
        self.recipe = recipe
        self.limit = limit

    def peak(self, batch_size: int) -> int | None:
        """The peak in bytes, or None where memory ran out."""
        torch.cuda.reset_peak_memory_stats()
        with self._limited():
            try:
                return peak_of_steps(self.recipe, batch_size)
            except Exception as error:
                if not should_reduce_batch_size(error):
                    raise
        return None

    def available(self) -> int:
        """What the GPU has free."""
        return int(torch.cuda.mem_get_info()[0])

    @contextmanager
    def _limited(self) -> Iterator[None]:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, self.limit / total) if self.limit else 1.0)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
            clear_device_cache(garbage_collection=True)


def peak_of_steps(recipe: Recipe, batch_size: int) -> int:
    """Takes steps as training does, in the worst case that it meets, and returns this process's peak in bytes."""
    recipe = worst_case(recipe, batch_size)
    accelerator = make_accelerator(recipe.training)
    state, batches = prepare(recipe, accelerator, RunFolder(recipe, write=False), None)
    model, optimizer = accelerator.prepare(state.denoiser, state.optimizer)
    timesteps = worst_timesteps(recipe)
    for step in range(1, STEPS + 1):
        micro_batches = [_at(batch, timesteps) for batch in batches.step(step)]
        terms = compute_gradients(accelerator, model, state.objective, micro_batches, gradient_ratio=True)
        accelerator.clip_grad_norm_(state.denoiser.parameters(), recipe.training.clip_norm or float("inf"))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.end_step(terms, accelerator.gather)
    peak = peak_memory(accelerator.device)["peak_memory_bytes"]
    if peak is None:
        raise BatchSizeError("this system does not say how much memory a process took")
    return int(peak)


def worst_case(recipe: Recipe, batch_size: int) -> Recipe:
    """The recipe with a batch, and with a perceptual term that counts at the first step and at every other."""
    training = recipe.training.model_copy(update={"batch_size": batch_size})
    objective, term = recipe.objective, recipe.objective.perceptual
    if term is not None and term.weight == "matched":
        term = term.model_copy(update={"weight": 1.0})
    if isinstance(term, PerceptualConfig):
        term = term.model_copy(update={"estimator": term.estimator.model_copy(update={"every": 1})})
    objective = objective.model_copy(update={"perceptual": term})
    return recipe.model_copy(update={"training": training, "objective": objective})


def worst_timesteps(recipe: Recipe) -> Tensor:
    """Times of a batch in which as many samples pass the gate as in the worst iteration of a run, (B,)."""
    path, training = make_path(recipe.diffusion), recipe.training
    drawn = path.sample_timesteps(TIMES, seeded_generator(recipe.seed))
    threshold = recipe.objective.perceptual.sigma_threshold if recipe.objective.perceptual is not None else None
    if threshold is None:
        return drawn.repeat(-(-training.batch_size // TIMES))[: training.batch_size]
    count = most_passing(path, threshold, training.batch_size, training.steps * training.accumulation)
    within = path.sigma(drawn) <= threshold
    return torch.cat([_some(drawn[within], count), _some(drawn[~within], training.batch_size - count)])


def most_passing(path: DiffusionPath, threshold: float, batch_size: int, batches: int) -> int:
    """How many samples pass the gate at most, but for a hundredth of runs of so many batches."""
    share = path.probability_below(threshold)
    return int(binom.isf(RARE / batches, batch_size, share)) if 0 < share < 1 else round(share * batch_size)


def _some(times: Tensor, count: int) -> Tensor:
    """`count` of some times, each as often as it takes; of none there are none to take."""
    return times.repeat(-(-count // max(1, len(times))))[:count]


def _at(batch: TrainingBatch, timesteps: Tensor) -> TrainingBatch:
    return replace(batch, timesteps=timesteps.to(batch.timesteps))


def _encode(recipe: Recipe) -> None:
    """Encodes the images beforehand: what that takes is not training's."""
    config = recipe.autoencoder
    dtype, device = getattr(torch, config.precision), "cuda" if torch.cuda.is_available() else "cpu"
    codec = load_autoencoder(config.path, config.subfolder, dtype, device)
    build_latent_cache(recipe.data, codec, config.batch_size)


def _answer(pipe: Connection, values: dict[str, Any], batch_size: int, threads: int) -> None:
    """What a process does: sends the peak, or what went wrong."""
    torch.set_num_threads(threads)
    try:
        pipe.send((peak_of_steps(Recipe.model_validate(values), batch_size), None))
    except Exception as error:
        out_of_memory = isinstance(error, MemoryError) or should_reduce_batch_size(error)
        pipe.send((None, None if out_of_memory else f"{type(error).__name__}: {error}"))
