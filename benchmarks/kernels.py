"""The Triton kernels one by one, on a GPU: how fast each reads and writes, beside a copy of the same maps.

python -m benchmarks.kernels
python -m benchmarks.kernels --size 256 --channels 512 --markdown docs/performance.md
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor

from lpl.errors import explained

from .environment import environment, hardware_line
from .tables import Table, console, show, write_markdown

WARMUP, REPEATS = 10, 50  # milliseconds, as Triton's own timing takes them
GROUPS = 32


class Work(NamedTuple):
    """A kernel, or a few that do one thing together.

    Attributes:
        bytes: that have to be read and written, for each value of half-precision maps.
        run: does it.
    """

    bytes: int
    run: Callable[[], Any]


def works(maps: Tensor, groups: int = GROUPS) -> dict[str, Work]:
    """What is timed, by name.

    Args:
        maps: channels-last (B, C, H, W), of half precision; nothing that is timed changes them.
        groups: of group normalisation.
    """
    from lpl.kernels import addition, distance, group_norm, outliers, statistics

    other, sums, positions = torch.randn_like(maps), torch.zeros_like(maps), maps.shape[2] * maps.shape[3]
    weight, ones = torch.ones_like(maps[0, :, 0, 0]), maps.new_ones(maps.shape[:2], dtype=torch.float32)
    _, levels, steps = distance.difference_levels(maps, other)
    _, found = group_norm.forward(maps, weight, weight, weight, groups, 1e-6, "silu")
    ranks = max(positions // 50, 1), max(positions - positions // 50, 1)
    normalise = maps, weight, weight, weight, groups, 1e-6, "silu"
    backward = maps, other, weight, weight, weight, found, "silu"
    return {
        "copy": Work(4, lambda: sums.copy_(maps)),
        "group normalisation, SiLU": Work(6, lambda: group_norm.forward(*normalise)),
        "its gradient": Work(10, lambda: group_norm.backward(*backward)),
        "bias and residual": Work(6, lambda: addition.add_(sums, weight, maps)),
        "means and variances": Work(2, lambda: statistics.map_moments(maps)),
        "Algorithm 1, up to where order statistics lie": Work(4, lambda: outliers.look(maps, ranks, 2.0, 3)),
        "Algorithm 1, windows of 3 and 5": Work(4, lambda: outliers.find_mask(maps, ranks, 2.0, 3, 5)),
        "Algorithm 1, windows of 1 and 3": Work(4, lambda: outliers.find_mask(maps, ranks, 2.0, 1, 3)),
        "differences, their squares' sums and bytes": Work(5, lambda: distance.difference_levels(maps, other)),
        "differences back from bytes": Work(3, lambda: distance.from_levels(levels, steps, ones, maps.dtype)),
    }


def main(
    size: Annotated[int, typer.Option(min=1, help="Positions a side of the feature maps.")] = 512,
    channels: Annotated[int, typer.Option(min=GROUPS, help=f"Of the feature maps, a multiple of {GROUPS}.")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="Samples.")] = 6,
    seed: Annotated[int, typer.Option(help="Of the maps.")] = 0,
    markdown: Annotated[Path | None, typer.Option(help="A file or page to write the table into.")] = None,
) -> None:
    """Time each on normally distributed maps of bfloat16, and print a table."""
    with explained():
        _check(channels)
        maps = _maps((batch, channels, size, size), seed)
        rows = _rows(works(maps), maps.numel())
    columns = ("kernels", "bytes a value", "ms", "TB/s", "of a copy's speed")
    title = f"Kernels, on maps of {batch} × {channels} × {size} × {size} in bfloat16"
    note = "Medians. Bytes: what has to be read and written; histograms and masks of Algorithm 1 are not counted."
    table = Table(title, columns, rows, [note])
    show(table)
    about = hardware_line(environment(torch.device("cuda")))
    console().print(about, highlight=False)
    if markdown is not None:
        write_markdown(markdown, "kernels", f"{table.markdown()}\n{about}; seed {seed}.\n")


def _check(channels: int) -> None:
    if channels % GROUPS:
        raise ValueError(f"--channels: got {channels}, takes a multiple of {GROUPS}")
    if not torch.cuda.is_available():
        raise ValueError("torch sees no GPU here, and the kernels run on nothing else")


def _maps(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    maps = torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16)
    return maps.contiguous(memory_format=torch.channels_last)


def _rows(timed: dict[str, Work], values: int) -> list[tuple[str, ...]]:
    from triton.testing import do_bench

    rows: list[tuple[str, ...]] = []
    fastest = 0.0
    for name, work in timed.items():
        milliseconds = do_bench(work.run, warmup=WARMUP, rep=REPEATS, return_mode="median")
        speed = work.bytes * values / milliseconds / 1e9
        fastest = fastest or speed  # the copy comes first
        rows.append((name, str(work.bytes), f"{milliseconds:.3f}", f"{speed:.2f}", f"{speed / fastest:.0%}"))
    return rows


if __name__ == "__main__":
    typer.run(main)
