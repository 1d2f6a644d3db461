"""How the loss's cost grows with samples and pixels, and what samples that fail the gate cost.

python -m benchmarks.scaling                     # writes docs/images/scaling.png; about four minutes on two cores
python -m benchmarks.scaling --size 64 --size 128 --markdown scaling.md
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from lpl.analysis.figures.style import COLOURS, QUIET, styled
from lpl.errors import explained

from .decoders import DECODERS
from .environment import environment, hardware_line
from .interleaved import Spread, interleaved, progress, spread, timed
from .measure import LATENT_PIXELS, Case
from .memory import peak_kept
from .modes import Inputs, package
from .tables import Table, console, mebibytes, number, show, write_markdown

SIZES = (64, 128, 256, 512, 1024)
BATCHES = (1, 2, 4, 8)
GATED = (0, 2, 4, 6, 8)  # samples of 8 that pass
LARGE = 512  # pixels a side above which a point is measured once, without a run before
CLOSED = 100.0  # a σ_t that no gate passes


@dataclass(frozen=True)
class Point:
    """A measured point.

    Attributes:
        x: samples, pixels a side, or samples that pass the gate.
        seconds: of a forward and backward pass.
        kept_bytes: for backward, at most at once.
    """

    x: int
    seconds: Spread
    kept_bytes: int


@dataclass(frozen=True)
class Scaling:
    """The three series."""

    pixels: list[Point]
    samples: list[Point]
    gate: list[Point]


def measure(case: Case, sizes: Sequence[int], rounds: int) -> Scaling:
    """Measures all series; points of one round are timed in shuffled order.

    Args:
        case: decoder, seed and device; its size is that of the series over samples and over the gate.
        sizes: pixels a side.
        rounds: repeats of every point up to `LARGE`.
    """
    autoencoder = case.autoencoder()
    loss = package(autoencoder, dtype=torch.bfloat16)
    works: dict[str, Callable[[], Any]] = {}
    for size in sizes:
        works[f"pixels {size}"] = partial(loss.run, replace(case, size=size, batch=1).inputs(autoencoder))
    for batch in BATCHES:
        works[f"samples {batch}"] = partial(loss.run, replace(case, batch=batch).inputs(autoencoder))
    for passed in GATED:
        works[f"gate {passed}"] = partial(loss.run, _gated(replace(case, batch=max(GATED)).inputs(autoencoder), passed))
    device = torch.device(case.device)
    kept: dict[str, int] = {}
    seconds: dict[str, list[float]] = {}
    with progress() as bar:
        for name, work in bar.track(works.items(), description="first runs"):
            with peak_kept(*loss.frozen) as count:
                first = timed(work, device)
            kept[name], seconds[name] = count.peak, [first]
    small = {
        name: work for name, work in works.items() if name not in {f"pixels {size}" for size in sizes if size > LARGE}
    }
    seconds |= interleaved(small, rounds, device, case.seed)

    def series(kind: str, values: Sequence[int]) -> list[Point]:
        return [Point(x, spread(seconds[f"{kind} {x}"]), kept[f"{kind} {x}"]) for x in values]

    return Scaling(series("pixels", sizes), series("samples", BATCHES), series("gate", GATED))


def _gated(inputs: Inputs, passed: int) -> Inputs:
    """The first `passed` samples pass the gate."""
    sigma = torch.full_like(inputs.sigma, CLOSED)
    sigma[:passed] = 1.0
    return inputs._replace(sigma=sigma)


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """p of y ∝ x^p, by least squares on logarithms; NaN for fewer than two points."""
    if len(x) < 2:
        return math.nan
    a, b = ([math.log(value) for value in values] for values in (x, y))
    centre_a, centre_b = sum(a) / len(a), sum(b) / len(b)
    slope = sum((u - centre_a) * (v - centre_b) for u, v in zip(a, b, strict=True))
    return slope / sum((u - centre_a) ** 2 for u in a)


def exponents(scaling: Scaling) -> dict[str, float]:
    """Fitted exponents of time and kept bytes over pixels, and of time over samples and over samples that pass."""
    area = [point.x**2 for point in scaling.pixels]
    open_gate = [point for point in scaling.gate if point.x]
    return {
        "time over pixels": exponent(area, [point.seconds.median for point in scaling.pixels]),
        "kept bytes over pixels": exponent(area, [point.kept_bytes for point in scaling.pixels]),
        "time over samples": exponent(*_curve(scaling.samples)),
        "time over samples that pass": exponent(*_curve(open_gate)),
    }


def _curve(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.x for point in points], [point.seconds.median for point in points]


@styled
def figure(scaling: Scaling, case: Case) -> Figure:
    """Cost over pixels, over samples and over samples that pass the gate."""
    drawn = Figure(figsize=(9.6, 3.1))
    over_pixels, over_samples, over_gate = drawn.subplots(1, 3)
    fitted = exponents(scaling)
    _points(over_pixels, [point.x**2 for point in scaling.pixels], scaling.pixels, logarithmic=True)
    over_pixels.set_xticks([point.x**2 for point in scaling.pixels], [f"{point.x}²" for point in scaling.pixels])
    over_pixels.set(
        title=f"Pixels (time ∝ pixels$^{{{fitted['time over pixels']:.2f}}}$)", xlabel="pixels", ylabel="seconds"
    )
    _points(over_samples, [point.x for point in scaling.samples], scaling.samples, logarithmic=True)
    over_samples.set_xticks([point.x for point in scaling.samples], [str(point.x) for point in scaling.samples])
    over_samples.set(
        title=f"Samples (time ∝ samples$^{{{fitted['time over samples']:.2f}}}$)", xlabel=f"samples of {case.size}²"
    )
    _points(over_gate, [100 * point.x / max(GATED) for point in scaling.gate], scaling.gate, logarithmic=False)
    over_gate.set(title="Samples that pass the gate", xlabel=f"% of {max(GATED)} samples of {case.size}²")
    return drawn


def _points(axes: Axes, x: Sequence[float], points: Sequence[Point], logarithmic: bool) -> None:
    """Medians with their range, and a line of exponent 1 through the last."""
    medians = [point.seconds.median for point in points]
    below = [point.seconds.median - point.seconds.low for point in points]
    above = [point.seconds.high - point.seconds.median for point in points]
    axes.plot(x, [medians[-1] * value / x[-1] for value in x], color=QUIET, lw=0.8, ls="--", label="linear")
    axes.errorbar(x, medians, yerr=(below, above), color=COLOURS[0], marker="o", ms=4, lw=1.2, label="measured")
    if logarithmic:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0)
    axes.legend()


def table(scaling: Scaling, case: Case) -> Table:
    """All points, with the fitted exponents below."""
    rows = []
    for name, points in (("pixels", scaling.pixels), ("samples", scaling.samples), ("pass the gate", scaling.gate)):
        for point in points:
            label = {
                "pixels": f"1 sample of {point.x}²",
                "samples": f"{point.x} sample{'s' if point.x > 1 else ''} of {case.size}²",
                "pass the gate": f"{point.x} of {max(GATED)} samples of {case.size}² pass the gate",
            }[name]
            per = _megapixels(name, point, case)
            each = number(point.seconds.median / per, 2) if per else ""
            rows.append((label, number(point.seconds, 4), each, mebibytes(point.kept_bytes)))
    notes = [f"Exponent of {name}: {value:.2f}." for name, value in exponents(scaling).items()]
    notes.append(f"Points above {LARGE}² were measured once, in their first run.")
    columns = ("what", "seconds", "seconds a megapixel", "kept, MiB")
    return Table(f"Scaling of the default mode, bfloat16: decoder {case.decoder}", columns, rows, notes)


def _megapixels(name: str, point: Point, case: Case) -> float:
    return (point.x**2 if name == "pixels" else point.x * case.size**2) / 1e6


def main(
    size: Annotated[list[int] | None, typer.Option(help="Pixels a side; may be given several times.")] = None,
    batch_size: Annotated[int, typer.Option(help="Pixels a side for the series over samples and the gate.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help=f"Repeats of every point up to {LARGE}².")] = 3,
    decoder: Annotated[str, typer.Option(help=f"Whose decoder: {', '.join(DECODERS)}.")] = "sd",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda" if torch.cuda.is_available() else "cpu",
    seed: Annotated[int, typer.Option(help="Of weights, latents and the order of repeats.")] = 0,
    picture: Annotated[Path, typer.Option(help="Where to write the plot.")] = Path("docs/images/scaling.png"),
    markdown: Annotated[Path | None, typer.Option(help="Where to write the table for a page.")] = None,
) -> None:
    """Measure the loss over pixels, samples and the gate; print a table and write a plot."""
    with explained():
        sizes = sorted(size or SIZES)
        wrong = [pixels for pixels in [*sizes, batch_size] if pixels < 1 or pixels % LATENT_PIXELS]
        if wrong:
            raise ValueError(f"--size: got {wrong[0]}, takes a positive multiple of {LATENT_PIXELS}")
        if decoder not in DECODERS:
            raise ValueError(f"--decoder: got {decoder!r}, takes {', '.join(DECODERS)}")
        case = Case(decoder, batch_size, 1, seed, device)
        scaling = measure(case, sizes, repeats)
    drawn = table(scaling, case)
    show(drawn)
    about = hardware_line(environment(torch.device(device)))
    console().print(about, highlight=False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure(scaling, case).savefig(picture, dpi=150)
    console().print(f"plot: {picture}", highlight=False)
    if markdown is not None:
        write_markdown(markdown, "scaling", f"{drawn.markdown()}\n{about}; seed {seed}.\n")


if __name__ == "__main__":
    typer.run(main)
