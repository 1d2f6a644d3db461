"""The loss's pieces one by one, each against the plain way of computing the same: time and bytes kept for backward.

python -m benchmarks.pieces
python -m benchmarks.pieces --size 64 --channels 512
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from lpl.autoencoders.lean import make_lean
from lpl.losses.distance import squared_distance
from lpl.losses.moments import moments
from lpl.losses.outliers import find_outliers

from . import plain
from .environment import environment, hardware_line
from .interleaved import interleaved, progress, ratios, spread
from .memory import peak_kept
from .tables import Table, console, mebibytes, number, show, write_markdown

Piece = Callable[[Tensor], Any]
LAYOUTS = {
    "float32": (torch.float32, torch.contiguous_format),
    "bfloat16 channels-last": (torch.bfloat16, torch.channels_last),
}


def modules(channels: int) -> dict[str, nn.Module]:
    """Pieces of decoders, by name."""
    return {
        "convolution 3×3": nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1)),
        "doubling, convolution 3×3": nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="nearest"), nn.Conv2d(channels, channels, 3, padding=1)
        ),
        "group normalisation, SiLU": nn.Sequential(nn.GroupNorm(min(32, channels), channels), nn.SiLU()),
        "ReLU": nn.Sequential(nn.ReLU()),
    }


def functions(maps: Tensor) -> dict[str, tuple[Piece, Piece]]:
    """Pieces of the comparison, by name: the plain way and the package's."""
    target = maps.detach() + 0.1

    def plain_mask(x: Tensor) -> Tensor:
        return plain.outlier_mask(x.detach(), down_f=1.0)

    def plain_moments(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.var_mean(x.detach().float(), dim=(2, 3), correction=0)

    def plain_distance(x: Tensor) -> Tensor:
        return (x.float() - target.float()).square().sum(dim=(2, 3))

    return {
        "outlier masks": (plain_mask, lambda x: find_outliers(x.detach(), down_f=1.0)),
        "means and variances": (plain_moments, lambda x: moments(x.detach())),
        "squared distance": (plain_distance, lambda x: squared_distance(x, target, None)),
    }


def pieces(maps: Tensor, seed: int) -> dict[str, tuple[Piece, Piece, tuple[nn.Module, ...]]]:
    """All pieces: the plain way, the package's, and the modules whose weights they share."""
    torch.manual_seed(seed)
    found: dict[str, tuple[Piece, Piece, tuple[nn.Module, ...]]] = {}
    layout = torch.channels_last if not maps.is_contiguous() else torch.contiguous_format
    for name, module in modules(maps.shape[1]).items():
        ordinary: Any = module.requires_grad_(False).eval().to(maps.device, maps.dtype)
        ordinary.to(memory_format=layout)
        lean = make_lean(copy.deepcopy(ordinary))
        found[name] = (_differentiated(ordinary), _differentiated(lean), (ordinary, lean))
    for name, (theirs, ours) in functions(maps).items():
        found[name] = (_differentiated(theirs), _differentiated(ours), ())
    return found


def _differentiated(function: Callable[[Tensor], Any]) -> Piece:
    """Forward, and backward where the result has a gradient."""

    def run(maps: Tensor) -> Any:
        leaf = maps.detach().requires_grad_()
        result = function(leaf)
        if isinstance(result, Tensor) and result.requires_grad:
            result.backward(result.detach())
        return result

    return run


def main(
    size: Annotated[int, typer.Option(help="Positions a side of the feature maps.")] = 128,
    channels: Annotated[int, typer.Option(help="Of the feature maps.")] = 128,
    batch: Annotated[int, typer.Option(help="Samples.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of every piece, interleaved.")] = 7,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda" if torch.cuda.is_available() else "cpu",
    seed: Annotated[int, typer.Option(help="Of weights, maps and the order of repeats.")] = 0,
    markdown: Annotated[Path | None, typer.Option(help="A file or page to write the table into.")] = None,
) -> None:
    """Measure each piece, and print a table."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, channels, size, size, generator=generator)
    rows = []
    for label, (dtype, layout) in LAYOUTS.items():
        maps = values.to(device, dtype).to(memory_format=layout)
        rows += _rows(label, maps, repeats, seed)
    columns = ("piece", "maps", "plain, ms", "here, ms", "here / plain", "plain keeps, MiB", "here keeps, MiB")
    title = f"Pieces, forward and backward, on maps of {batch} × {channels} × {size} × {size}"
    table = Table(title, columns, rows, ["Medians of interleaved repeats (smallest–largest)."])
    show(table)
    about = hardware_line(environment(torch.device(device)))
    console().print(about, highlight=False)
    if markdown is not None:
        write_markdown(markdown, "pieces", f"{table.markdown()}\n{about}; seed {seed}.\n")


def _rows(label: str, maps: Tensor, repeats: int, seed: int) -> list[tuple[str, ...]]:
    found = pieces(maps, seed)
    kept: dict[str, tuple[int, int]] = {}
    works: dict[str, Callable[[], Any]] = {}
    with progress() as bar:
        for name, (theirs, ours, frozen) in bar.track(found.items(), description=f"{label}: first runs"):
            kept[name] = (_kept(theirs, maps, frozen), _kept(ours, maps, frozen))
            works |= {f"{name}: plain": partial(theirs, maps), f"{name}: here": partial(ours, maps)}
    seconds = interleaved(works, repeats, maps.device, seed)
    rows = []
    for name in found:
        theirs_s, ours_s = seconds[f"{name}: plain"], seconds[f"{name}: here"]
        times = (spread([1e3 * value for value in values]) for values in (theirs_s, ours_s))
        texts = [number(time, 1) for time in times]
        bytes_kept = (mebibytes(value) for value in kept[name])
        rows.append((name, label, *texts, number(ratios(ours_s, theirs_s)), *bytes_kept))
    return rows


def _kept(piece: Piece, maps: Tensor, frozen: tuple[nn.Module, ...]) -> int:
    with peak_kept(*frozen) as count:
        piece(maps)
    return count.peak


if __name__ == "__main__":
    typer.run(main)
