"""What the loss costs a training run: throughput and peak memory of ℓ2, of exact LPL and of its estimators.

    python -m benchmarks.training      # a GPU: MMDiT-XL/2 at 512² with SDXL's decoder, bfloat16, torch.compile
    python -m benchmarks.training --preset T --size 64 --batch 4 --device cpu --no-compile --steps 1

The largest batch that ℓ2 and exact LPL both fit with, not compiled, is found first; then every arm's peak memory is
measured alone, and its throughput side by side with the others'. Weights are random: what a step costs does not depend
on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lpl.errors import explained

from .arms import ARMS, EXACT, L2, Bench, Settings, out_of_memory
from .environment import environment, hardware_line
from .interleaved import Spread, interleaved_rounds, progress, ratios, spread
from .tables import Table, console, number, percent, show, write_markdown

PAPER = {EXACT: (0.58, 1.75)}  # throughput and memory over ℓ2's: appendix, MMDiT-XL/2 at 512² on A100s
TARGETS = {EXACT: (0.62, 1.10)}
BEST_ESTIMATOR = (0.85, 1.05)  # for the best of them
HEADROOM = 0.94  # share of a GPU's memory that a batch may take: fragments and other batches want some
LARGEST = 4096


def main(
    preset: Annotated[str, typer.Option(help="Size of the denoiser: T, S, B, L or XL.")] = "XL",
    patch: Annotated[int, typer.Option(help="Latent pixels a token's side.")] = 2,
    size: Annotated[int, typer.Option(help="Pixels a side.")] = 512,
    decoder: Annotated[str, typer.Option(help="Whose decoder, as benchmarks.perceptual_loss takes it.")] = "sdxl",
    batch: Annotated[int | None, typer.Option(min=1, help="Samples a step; by default the largest that fits.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each arm a round.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds, interleaved.")] = 5,
    precision: Annotated[str, typer.Option(help="bf16 or no (float32), of the denoiser.")] = "bf16",
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile the denoiser.")] = True,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda" if torch.cuda.is_available() else "cpu",
    seed: Annotated[int, typer.Option(help="Of weights, batches and the order of rounds.")] = 0,
    only: Annotated[list[str] | None, typer.Option(help="Measure only arms whose name contains this, and ℓ2.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for training.md and training.json.")] = Path("runs/benchmarks"),
    markdown: Annotated[Path | None, typer.Option(help="A page to write the table into, too.")] = None,
) -> None:
    """Measure training with and without the loss, as ratios, and write a table beside the paper's figures."""
    with explained():
        settings = Settings(preset, patch, size, decoder, precision, compiled, device, seed)
        bench = Bench(settings)
        names = [name for name in ARMS if name == L2 or not only or any(word in name for word in only)]
        batch = batch or _largest_batch(bench)
    bench.compile()
    output.mkdir(parents=True, exist_ok=True)
    about = environment(bench.device)
    for result in _measured(bench, names, batch, steps, repeats):  # written after each round: a GPU may be taken away
        drawn = _table(result, settings, hardware_line(about))
        (output / "training.md").write_text(drawn.markdown(), encoding="utf-8")
        content = json.dumps({"environment": about, "settings": vars(settings), **result}, indent=1, ensure_ascii=False)
        (output / "training.json").write_text(content + "\n", encoding="utf-8")
    show(drawn)
    if markdown is not None:
        write_markdown(markdown, "training", drawn.markdown())
    console().print(f"written: {output / 'training.md'}, {output / 'training.json'}", highlight=False)


def largest(fits: Callable[[int], bool], limit: int = LARGEST) -> int:
    """The largest batch that fits, up to an eighth of it: doubled while it fits, then halved in on.

    Raises:
        ValueError: not even one sample fits.
    """
    if not fits(1):
        raise ValueError("--batch: not even one sample fits this device's memory; take a smaller preset or size")
    low, high = 1, 2
    while high <= limit and fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _largest_batch(bench: Bench) -> int:
    """The largest batch that both ℓ2 and exact LPL fit on this GPU with."""
    if bench.device.type != "cuda":
        raise ValueError("--batch: needed on a CPU, whose memory says nothing about a GPU's; takes a number of samples")
    total = torch.cuda.get_device_properties(bench.device).total_memory
    with progress() as bar:
        task = bar.add_task("largest batch", total=None)

        def fits(batch: int) -> bool:
            bar.update(task, description=f"largest batch: trying {batch}")
            peaks = [bench.peak_bytes(name, batch) for name in (EXACT, L2)]
            return all(peak is not None and peak <= HEADROOM * total for peak in peaks)

        return largest(fits)


def _measured(bench: Bench, names: list[str], batch: int, steps: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Peak memory and throughput of the arms, after each round; a batch that turns out too large is made smaller."""
    while True:
        try:
            yield from _measured_at(bench, names, batch, steps, repeats)
            return
        except Exception as error:
            if not out_of_memory(error) or batch == 1:
                raise
            batch = max(1, int(batch * 0.9))
        bench.free()


def _measured_at(bench: Bench, names: list[str], batch: int, steps: int, repeats: int) -> Iterator[dict[str, Any]]:
    failed: dict[str, str] = {}
    peaks = _peaks(bench, names, batch, failed)
    works: dict[str, Callable[[], None]] = {}
    counts = {name: -(-steps // ARMS[name].period) * ARMS[name].period for name in peaks}
    with progress() as bar:
        for name in bar.track(list(peaks), description=f"first steps at batch {batch}"):
            works[name] = bench.rounds(name, batch, counts[name])
    denoiser, perceptual = bench.operations(EXACT)
    about = {
        "batch": batch,
        "steps": steps,
        "parameters": bench.parameters,
        "operations": {"denoiser": denoiser, "perceptual": perceptual},
    }
    for rounds in interleaved_rounds(works, repeats, bench.device, bench.settings.seed):
        seconds = {name: [value / counts[name] for value in values] for name, values in rounds.items()}  # of a step
        arms = [
            {
                "arm": name,
                "images_per_second": spread([batch / value for value in seconds[name]]),
                "throughput": ratios(seconds[L2], seconds[name]),
                "peak_bytes": peaks[name],
                "memory": peaks[name] / peaks[L2],
                "passed": bench.share_passed(name),
            }
            for name in peaks
        ]
        yield {**about, "repeats": len(seconds[L2]), "arms": arms, "failed": failed}


def _peaks(bench: Bench, names: list[str], batch: int, failed: dict[str, str]) -> dict[str, int]:
    """Peak memory by arm. Whatever is wrong with one arm is noted in `failed` and does not cost the others.

    Raises:
        torch.OutOfMemoryError: the batch is too large for ℓ2 or for exact LPL.
    """
    peaks: dict[str, int] = {}
    with progress() as bar:
        for name in bar.track(names, description=f"memory at batch {batch}"):
            try:
                peak = bench.peak_bytes(name, batch)
            except Exception as error:
                if name == L2:
                    raise
                failed[name] = f"{type(error).__name__}: {error}"
                continue
            if peak is not None:
                peaks[name] = peak
            elif name in (L2, EXACT):
                raise torch.OutOfMemoryError(f"{name} at batch {batch}: out of memory")
            else:
                failed[name] = "out of memory"
    return peaks


def _table(result: dict[str, Any], settings: Settings, hardware: str) -> Table:
    rows = []
    for arm in result["arms"]:
        paper, target = PAPER.get(arm["arm"]), TARGETS.get(arm["arm"])
        rows.append(
            (
                arm["arm"],
                number(arm["images_per_second"], 2),
                number(arm["throughput"], 3),
                f"{arm['peak_bytes'] / 2**30:.2f}",
                number(arm["memory"], 3),
                percent(arm["passed"], 0),
                _pair(paper),
                _pair(target),
                _verdict(arm, target),
            )
        )
    best = _best_estimator(result)
    if best is not None:
        rows.append(
            (
                f"best estimator: {best['arm']}",
                "",
                "",
                "",
                "",
                "",
                "",
                _pair(BEST_ESTIMATOR),
                _verdict(best, BEST_ESTIMATOR),
            )
        )
    notes = [
        f"Batch {result['batch']}, {result['repeats']} rounds of {result['steps']} steps, or of whole periods; "
        "medians (smallest–largest).",
        _bound(result),
        "Passed: samples that passed the gate. Paper and target: throughput and peak memory over ℓ2's.",
        *(f"Not measured: {name}: {reason}" for name, reason in result["failed"].items()),
        hardware,
    ]
    columns = (
        "arm", "images/s", "throughput / ℓ2", "peak, GiB", "memory / ℓ2", "passed", "paper", "target", "reached",
    )  # fmt: skip
    return Table(f"Training with the latent perceptual loss: {settings}", columns, rows, notes)


def _bound(result: dict[str, Any]) -> str:
    """What the operations alone would allow."""
    denoiser, perceptual = (result["operations"][name] for name in ("denoiser", "perceptual"))
    passed = next((arm["passed"] for arm in result["arms"] if arm["arm"] == EXACT), None)
    counted = f"{denoiser / 1e12:.3g} TFLOP a sample in the denoiser, {perceptual / 1e12:.3g} in exact LPL if it passes"
    if passed is None:
        return f"Operations: {counted}."
    allowed = denoiser / (denoiser + passed * perceptual)
    return (
        f"Operations: {counted}; at the same operations a second exact LPL would have {allowed:.2f} of ℓ2's throughput."
    )


def _best_estimator(result: dict[str, Any]) -> dict[str, Any] | None:
    """The fastest of the estimators."""
    arms = [arm for arm in result["arms"] if arm["arm"] not in (L2, EXACT) and ARMS[arm["arm"]].estimator]
    return max(arms, key=lambda arm: arm["throughput"].median, default=None)


def _pair(values: tuple[float, float] | None) -> str:
    return "" if values is None else f"{values[0]:.2f}, {values[1]:.2f}"


def _verdict(arm: dict[str, Any], target: tuple[float, float] | None) -> str:
    """Whether throughput and memory reach the target."""
    if target is None:
        return ""
    throughput: Spread = arm["throughput"]
    return f"{_yes(throughput.median >= target[0])}, {_yes(arm['memory'] <= target[1])}"


def _yes(reached: bool) -> str:
    return "yes" if reached else "no"


if __name__ == "__main__":
    typer.run(main)
