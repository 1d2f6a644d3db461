"""What the latent perceptual loss costs, against the floor of three bare passes of the decoder's blocks.

python -m benchmarks.perceptual_loss                                # SD's decoder, 128² batch 2 and 256² batch 1
python -m benchmarks.perceptual_loss --size 128 --batch 4 --peer other.py --json out.json
python -m benchmarks.perceptual_loss --check                        # exits with 1 where a target is missed
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lpl.errors import explained

from .decoders import DECODERS
from .environment import environment, hardware_line
from .measure import LATENT_PIXELS, Case, Result, measure
from .modes import EXACT, FLOOR, MODES, PLAIN, Mode, peer_mode
from .tables import Table, console, mebibytes, number, percent, show, small, write_markdown
from .targets import TARGETS, verdicts

CASES = ((128, 2), (256, 1))  # pixels a side, batch
ALWAYS = (FLOOR, PLAIN, EXACT)  # what others are measured against

COLUMNS = (
    "mode",
    "seconds",
    "time / floor",
    "speed-up over plain",
    "kept, MiB",
    "kept / floor",
    "peak, MiB",
    "FLOPs / floor",
    "gradient cosine",
    "gradient error",
    "loss error",
)
NOTES = (
    "Medians of interleaved repeats (smallest–largest). Floor: three bare passes of the same dtype and layout.",
    "Kept: for backward at once, weights excluded; its ratio and that of FLOPs are to the float32 floor.",
    "Peak: memory beyond weights and inputs. Cosine and errors: to the plain implementation in float64.",
    "Estimators: of one draw, in bfloat16; every 2nd step: the mean of two calls, at the cost of each.",
)


def main(
    size: Annotated[list[int] | None, typer.Option(help="Pixels a side; may be given several times.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Samples, one number for each size.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of every mode, interleaved.")] = 5,
    runs: Annotated[int, typer.Option(min=1, help="Times to measure everything.")] = 1,
    decoder: Annotated[str, typer.Option(help=f"Whose decoder: {', '.join(DECODERS)}.")] = "sd",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda" if torch.cuda.is_available() else "cpu",
    only: Annotated[list[str] | None, typer.Option(help="Measure only modes whose name contains this.")] = None,
    peer_file: Annotated[
        Path | None, typer.Option("--peer", help="File with a class LatentPerceptualLoss(vae) and get_loss.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, latents and the order of repeats.")] = 0,
    peak: Annotated[bool, typer.Option(help="Measure peak memory too, in the first run.")] = True,
    references: Annotated[
        Path | None, typer.Option(help="Folder to keep the float64 references in, which take a while.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where to write every number.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Where to write the tables for a page.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 where a target is missed.")] = False,
) -> None:
    """Measure the loss's modes, side by side, and print a table for each size."""
    torch.backends.cudnn.allow_tf32 = False  # float32 modes are compared with float64: they are to compute in float32
    with explained(), tempfile.TemporaryDirectory() as temporary:
        cases = _cases(size, batch, decoder, seed, device)
        modes = _selected([*MODES, *([peer_mode(peer_file)] if peer_file else [])], only)
        folder = references or Path(temporary)
        results = [measure(case, modes, repeats, peak and run == 0, folder) for run in range(runs) for case in cases]
    about = environment(torch.device(device))
    tables = [table for number, result in enumerate(results) for table in _tables(result, number // len(cases), runs)]
    if runs > 1:
        tables.append(_between_runs(results, len(cases)))
    for table in tables:
        show(table)
    console().print(hardware_line(about), highlight=False)
    if json_file is not None:
        _write_json(json_file, results, about, repeats)
    if markdown is not None:
        pages = [table.markdown() for table in tables]
        write_markdown(markdown, "perceptual_loss", "\n".join([*pages, f"{hardware_line(about)}; seed {seed}.", ""]))
    if check and not _checked(results):
        raise typer.Exit(1)


def _cases(size: list[int] | None, batch: list[int] | None, decoder: str, seed: int, device: str) -> list[Case]:
    if decoder not in DECODERS:
        raise ValueError(f"--decoder: got {decoder!r}, takes {', '.join(DECODERS)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: got cuda, but torch sees no GPU here; takes cpu")
    sizes, batches = (
        size or [pixels for pixels, _ in CASES],
        batch or ([1] * len(size) if size else [n for _, n in CASES]),
    )
    if len(sizes) != len(batches):
        raise ValueError(f"--batch: given {len(batches)} times for {len(sizes)} sizes, takes one for each")
    wrong = [pixels for pixels in sizes if pixels < 1 or pixels % LATENT_PIXELS]
    if wrong:
        raise ValueError(f"--size: got {wrong[0]}, takes a positive multiple of {LATENT_PIXELS}")
    return [Case(decoder, pixels, number, seed, device) for pixels, number in zip(sizes, batches, strict=True)]


def _selected(modes: list[Mode], only: list[str] | None) -> list[Mode]:
    """The modes asked for, with those that they are measured against."""
    if not only:
        return modes
    wanted = [mode for mode in modes if any(word in mode.name for word in only)]
    if not wanted:
        raise ValueError(
            f"--only: no mode's name contains {' or '.join(only)}; there are: {'; '.join(m.name for m in modes)}"
        )
    needed = {*ALWAYS, *(mode.name for mode in wanted), *(mode.floor for mode in wanted)}
    return [mode for mode in modes if mode.name in needed]


def _tables(result: Result, run: int, runs: int) -> list[Table]:
    title = f"{result.case}" + (f" (run {run + 1} of {runs})" if runs > 1 else "")
    rows = [
        (
            row.mode,
            number(row.seconds, 3),
            number(row.time_over_floor),
            number(row.speedup, unit="×"),
            mebibytes(row.kept_bytes),
            number(row.kept_over_floor),
            mebibytes(row.peak_bytes),
            number(row.flops_over_floor),
            number(row.gradient_cosine, 6),
            small(row.gradient_error),
            small(row.loss_error),
        )
        for row in result.rows
    ]
    missing = [f"Not measured: {name}: {reason}." for name, reason in result.missing.items()]
    shares = [
        (
            share.mode,
            number(share.seconds, 3),
            number(share.mask_seconds, 3),
            percent(share.over_decoder),
            percent(share.over_floor),
        )
        for share in result.shares
    ]
    columns = ("mode", "comparison, seconds", "of it outlier masks", "/ decoder passes", "/ floor")
    note = (
        "Comparison: masks, statistics and distances with their gradient, alone, on features computed beforehand; "
        "over the mode's own passes of the decoder, and over the floor's."
    )
    return [
        Table(f"The latent perceptual loss: {title}", COLUMNS, rows, [*NOTES, *missing]),
        Table(f"What is not the decoder: {title}", columns, shares, [note]),
    ]


def _between_runs(results: list[Result], cases: int) -> Table:
    """Medians of every mode in each run, and how far apart they are."""
    rows = []
    for first in range(cases):
        same = results[first::cases]
        for rows_of_mode in zip(*(result.rows for result in same), strict=True):
            ratio = [row.time_over_floor.median for row in rows_of_mode]
            seconds = [row.seconds.median for row in rows_of_mode]
            apart = (max(seconds) - min(seconds)) / min(seconds)
            texts = (", ".join(f"{value:.3f}" for value in seconds), ", ".join(f"{value:.2f}" for value in ratio))
            rows.append((f"{same[0].case}: {rows_of_mode[0].mode}", *texts, percent(apart)))
    columns = ("mode", "seconds, by run", "time / floor, by run", "seconds apart")
    return Table("Between runs: medians of each", columns, rows)


def _write_json(file: Path, results: list[Result], about: dict[str, Any], repeats: int) -> None:
    content = {"environment": about, "repeats": repeats, "results": [result.plain_values() for result in results]}
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _checked(results: list[Result]) -> bool:
    """Prints every target, missed ones last; whether all are reached."""
    judged = sorted(verdicts(results, TARGETS), key=lambda verdict: not verdict.reached)
    for verdict in judged:
        console().print("reached:" if verdict.reached else "MISSED: ", str(verdict), highlight=False)
    return all(verdict.reached for verdict in judged)


if __name__ == "__main__":
    typer.run(main)
