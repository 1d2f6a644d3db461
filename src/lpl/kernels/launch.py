"""Which tensors the kernels take, how maps are cut into programs, and how a kernel is launched."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from typing import Any, NamedTuple

import torch
from torch import Tensor

HAS_TRITON = importlib.util.find_spec("triton") is not None  # PyTorch for GPUs brings it, on Linux
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.uint8)
FEWEST = 256  # positions of a chunk
PROGRAMS = 2048  # of a kernel, about: some for each of a GPU's multiprocessors, however many samples there are
MOST_STEPS = 128  # of a program, so that sums of a few numbers each keep their digits
TILE = 4096  # numbers that a program works on at once
WIDE = {"num_warps": 8}  # for kernels whose threads would otherwise hold so much that few of them fit on a GPU
ON_CPU = False  # for tests, under Triton's interpreter


def fused(*maps: Tensor) -> bool:
    """Whether the kernels take these maps: channels-last (B, C, H, W) of types up to float32 on a GPU, not compiled.

    A compiler makes kernels of its own.
    """
    if not HAS_TRITON or torch.compiler.is_compiling():
        return False
    return all(_taken(value) for value in maps)


def laid_out(maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) of half precision channels-last where the kernels run, anything else as it is.

    A convolution of such maps gives such maps, whatever its weight's layout.
    """
    if not HAS_TRITON or torch.compiler.is_compiling() or not _here(maps) or maps.ndim != 4 or maps.itemsize != 2:
        return maps
    return maps.contiguous(memory_format=torch.channels_last)


def _here(maps: Tensor) -> bool:
    return maps.is_cuda or (ON_CPU and maps.is_cpu)


def _taken(maps: Tensor) -> bool:
    return (
        _here(maps)
        and maps.ndim == 4
        and maps.dtype in DTYPES
        and maps.numel() > 0
        and maps.movedim(1, -1).is_contiguous()
    )


class Mask(NamedTuple):
    """Which positions of maps (B, C, H, W) count.

    Attributes:
        kept: uint8 of the maps' shape, channels-last; 0 where a position does not count, and 1 elsewhere.
        number: how many positions count, int32 (B, C), so that what has no masked position need not read where.
    """

    kept: Tensor
    number: Tensor


class Tiling(NamedTuple):
    """How programs share the work: each has a chunk of a sample's positions and a block of its channels.

    Attributes:
        grid: (chunks, samples, blocks of channels).
        positions: H·W of a sample.
        channels: C.
        steps: so many times a program takes `rows` positions, the last chunk's excepted; a power of two.
        rows: positions at once.
        block: channels at once, a power of two.
        even: whether every program has as many positions and channels, so that none need be left out.
    """

    grid: tuple[int, int, int]
    positions: int
    channels: int
    steps: int
    rows: int
    block: int
    even: bool

    @property
    def chunk(self) -> int:
        """Positions of a program, the last chunk's excepted."""
        return self.steps * self.rows


def tiling(maps: Tensor, tile: int | None = None) -> Tiling:
    """For channels-last maps (B, C, H, W), with `tile` numbers at once in place of `TILE`."""
    samples, channels, height, width = maps.shape
    return _tiling(samples, channels, height * width, tile or TILE)


@functools.lru_cache(maxsize=1024)
def _tiling(samples: int, channels: int, positions: int, tile: int) -> Tiling:
    block = min(next_power(channels), 128)
    rows, blocks = max(tile // block, 1), -(-channels // block)
    chunk = max(FEWEST, positions * samples * blocks // PROGRAMS)
    steps = min(next_power(-(-chunk // rows)), MOST_STEPS)
    even = positions % (steps * rows) == 0 and channels % block == 0
    return Tiling((-(-positions // (steps * rows)), samples, blocks), positions, channels, steps, rows, block, even)


def next_power(number: int) -> int:
    """The smallest power of two that is not below the number."""
    return 1 << max(number - 1, 0).bit_length()


_HERE = contextlib.nullcontext()


def on(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Makes the tensor's GPU the one that kernels run on."""
    elsewhere = tensor.is_cuda and tensor.device.index != torch.cuda.current_device()
    return torch.cuda.device(tensor.device) if elsewhere else _HERE
