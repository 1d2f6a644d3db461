"""Memory of a computation: what it keeps for its backward pass, and the most that it occupies."""

from __future__ import annotations

import multiprocessing
import platform
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PRELOADED = ["benchmarks.measure"]


class PeakKept:
    """The largest number of bytes that were kept for backward at any one time.

    `lpl.autoencoders.lean.count_kept_bytes` adds up all that is ever kept. A loss that handles one sample after the
    other keeps little at a time, so here what is released is taken off again.

    Attributes:
        bytes: kept now; each storage counts once and whole, however many views of it are kept.
        peak: the largest value that `bytes` had.
    """

    def __init__(self, frozen: tuple[nn.Module, ...]) -> None:
        self.bytes = 0
        self.peak = 0
        self._frozen = frozen
        self._holders: dict[int, int] = {}

    def pack(self, tensor: Tensor) -> Tensor | _Kept:
        """Takes in a tensor that is kept."""
        if tensor.untyped_storage().data_ptr() in self._weights():
            return tensor
        return _Kept(self, tensor)

    def hold(self, tensor: Tensor) -> None:
        """One more holder of a storage."""
        storage = tensor.untyped_storage()
        holders = self._holders.get(storage.data_ptr(), 0)
        self._holders[storage.data_ptr()] = holders + 1
        if not holders:
            self.bytes += storage.nbytes()
            self.peak = max(self.peak, self.bytes)

    def release(self, tensor: Tensor) -> None:
        """One holder less."""
        storage = tensor.untyped_storage()
        self._holders[storage.data_ptr()] -= 1
        if not self._holders[storage.data_ptr()]:
            self.bytes -= storage.nbytes()

    def _weights(self) -> set[int]:
        # Looked up late: a module may derive a buffer from its weight on its first call.
        tensors = [tensor for module in self._frozen for tensor in (*module.parameters(), *module.buffers())]
        return {tensor.untyped_storage().data_ptr() for tensor in tensors}


class _Kept:
    """A tensor in autograd's keeping; autograd lets go of it when its backward is done or its graph is dropped."""

    def __init__(self, count: PeakKept, tensor: Tensor) -> None:
        self.count = count
        self.tensor = tensor
        count.hold(tensor)

    def __del__(self) -> None:
        self.count.release(self.tensor)


@contextmanager
def peak_kept(*frozen: nn.Module) -> Iterator[PeakKept]:
    """Measures what the computations within the block keep for backward.

    Tensors that a custom `autograd.Function` hands to `save_for_backward` count; ones that it hides in attributes of
    its context do not, and neither do those that activation checkpointing keeps: the peak memory shows both.

    Args:
        frozen: modules whose parameters and buffers are not counted: they are in memory anyway.
    """
    count = PeakKept(frozen)
    with torch.autograd.graph.saved_tensors_hooks(count.pack, lambda kept: getattr(kept, "tensor", kept)):
        yield count


def peak_device_bytes(function: Callable[[], Any], device: torch.device) -> int:
    """The most GPU memory in use at once by `function()` beyond what was in use before it."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    function()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def peak_resident_bytes(function: Callable[[], Any]) -> int:
    """The most resident memory of this process during `function()` beyond what was resident before it."""
    if reset_peak_resident():
        before = resident_bytes()
        function()
        return max(0, peak_resident() - before)
    before = peak_resident()
    function()
    return max(0, peak_resident() - before)


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `function(*arguments)` in a process that has computed nothing else.

    Such processes are forks of one that has imported this package's modules and done no more, so they start at once.

    Args:
        function: importable by name.
        arguments: picklable.

    Raises:
        RuntimeError: the process died, as it does where memory runs out.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(sender, torch.get_num_threads(), function, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__name__}: its process ended with exit code {process.exitcode}") from None
    finally:
        process.join()


def _report(sender: Any, threads: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(threads)
    sender.send(function(*arguments))


def reset_peak_resident() -> bool:
    """Makes the peak begin at what is resident now; whether the system knows how to (Linux does)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def resident_bytes() -> int:
    """Resident memory of this process (Linux)."""
    return _status("VmRSS")


def peak_resident() -> int:
    """The peak of this process's resident memory."""
    if Path("/proc/self/status").is_file():
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
