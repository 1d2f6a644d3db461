"""Compiles every kernel for an H100 without one, which the interpreter does not: run by test_kernels_compile.py."""

from __future__ import annotations

from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from layouts import channels_last
from lpl.kernels import addition, distance, group_norm, launch, masks, outliers, statistics

HAND_ON_NAN = ("_apply", "_add")  # a GPU's maximum of NaN and zero is zero, the interpreter's is NaN


class Driver:
    """As much of a GPU's driver as compiling needs."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


def compile_only() -> set[str]:
    """Makes launches compile and do nothing else; the names of kernels that were compiled."""
    compiled, run = set(), JITFunction.run

    def compile(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        assert "cubin" in kernel.asm
        assert self.fn.__name__ not in HAND_ON_NAN or "max.f32" not in kernel.asm["ptx"], self.fn.__name__
        compiled.add(self.fn.__name__)
        return kernel

    triton.runtime.driver.set_active(Driver())
    JITFunction.run = compile
    launch.ON_CPU = True
    return compiled


def call_every_kernel(dtype: torch.dtype, channels: int, groups: int, size: int = 16) -> None:
    maps = channels_last(torch.zeros(2, channels, size, size)).to(dtype)
    numbers, values = torch.zeros(channels).to(dtype), torch.zeros(4, 2, channels).to(dtype)
    kept = torch.ones_like(maps, dtype=torch.uint8)
    for shift in (None, numbers):
        for activation in ("silu", "relu"):
            _, found = group_norm.forward(maps, shift, numbers, numbers, groups, 1e-6, activation)
            group_norm.backward(maps, maps, shift, numbers, numbers, found, activation)
    mask = launch.Mask(kept, torch.zeros(2, channels, dtype=torch.int32))
    statistics.map_moments(maps)
    statistics.map_moments(maps, mask)
    for closing, opening in ((3, 5), (1, 3), (1, 1)):
        ranks = max(size**2 // 50, 1), max(size**2 * 49 // 50, 1)
        outliers.find_mask(maps, ranks, 2.0, closing, opening)
        masks.kept_positions(maps, values[0].float(), values[1].float(), kept[:, :, 0, 0], closing, opening)
    for some in (None, mask):
        distance.difference_sums(maps, maps, some)
        _, levels, steps = distance.difference_levels(maps, maps, some)
        distance.from_levels(levels, steps, values[0].float(), dtype)
    for bias, residual in ((numbers, None), (numbers, maps), (None, maps)):
        for relu, marked in ((False, False), (True, True), (True, False)):
            addition.add_(maps, bias, residual, relu, marked)
    addition.where_positive(maps, kept)


if __name__ == "__main__":
    compiled = compile_only()
    call_every_kernel(torch.bfloat16, channels=128, groups=32)
    call_every_kernel(torch.float32, channels=6, groups=3)
    call_every_kernel(torch.bfloat16, channels=1, groups=1, size=1)  # the compiler takes ones for constants
    print(" ".join(sorted(compiled)))
