"""Measures every mode of the loss on one decoder, image size and batch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .comparison import Comparison
from .decoders import make_autoencoder
from .flops import FlopCounter
from .interleaved import Spread, interleaved, progress, ratios, spread
from .memory import in_fresh_process, peak_device_bytes, peak_kept, peak_resident_bytes
from .modes import DEFAULT, EXACT, FLOOR, PLAIN, Inputs, Mode, Outcome, Pass, Unavailable, latent_channels, plain

LATENT_PIXELS = 8  # image pixels a latent position, for all of `DECODERS`
ERROR = 0.3  # standard deviation of ẑ0 − z0, of latents of unit variance


@dataclass(frozen=True)
class Case:
    """What is measured on.

    Attributes:
        decoder: name in `DECODERS`.
        size: pixels a side.
        batch: samples, all of which pass the gate.
        seed: of weights and latents.
        device: "cpu" or "cuda".
    """

    decoder: str
    size: int
    batch: int
    seed: int = 0
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.decoder}, {self.size}², batch {self.batch}"

    def autoencoder(self) -> torch.nn.Module:
        """The autoencoder, frozen, in float32."""
        return make_autoencoder(self.decoder, self.seed).to(self.device)

    def inputs(self, autoencoder: Any, size: int | None = None) -> Inputs:
        """Latents of unit variance, and predictions that are off by a fraction of it."""
        channels = latent_channels(autoencoder)
        side = (size or self.size) // LATENT_PIXELS
        generator = torch.Generator().manual_seed(self.seed)
        target = torch.randn(self.batch, channels, side, side, generator=generator)
        error = torch.randn(target.shape, generator=generator)
        values = (target + ERROR * error, target, torch.ones(self.batch))
        return Inputs(*(value.to(self.device) for value in values))


@dataclass(frozen=True)
class Row:
    """What one mode costs and gives.

    Attributes:
        mode: its name.
        kind: as `Mode.kind`.
        seconds: of a forward and backward pass.
        time_over_floor: to the floor of the same dtype and layout.
        speedup: over the plain implementation in float32.
        kept_bytes: the most that was kept for backward at once.
        kept_over_floor: to what the float32 floor keeps.
        kept_over_sample: to what the exact float32 mode keeps of one sample.
        peak_bytes: the most memory in use beyond weights and inputs; None where it was not measured.
        flops_over_floor: multiplications and additions of convolutions and matrix products, to the floor's.
        gradient_cosine: between its gradient and the float64 reference's.
        gradient_error: ‖difference‖/‖reference‖.
        loss_error: |difference|/reference.
        difference_to_exact: ‖difference of gradients‖/‖gradient‖ to the exact float32 mode.
    """

    mode: str
    kind: str
    seconds: Spread
    time_over_floor: Spread
    speedup: Spread | None
    kept_bytes: int
    kept_over_floor: float
    kept_over_sample: float | None
    peak_bytes: int | None
    flops_over_floor: float
    gradient_cosine: float | None
    gradient_error: float | None
    loss_error: float | None
    difference_to_exact: float | None


@dataclass(frozen=True)
class Share:
    """Of a mode's time, the part that is not the decoder's: masks, statistics and distances, with their gradients.

    Attributes:
        mode: its name.
        seconds: of that part, measured alone on features computed beforehand.
        mask_seconds: of the outlier masks among it.
        over_decoder: the part, to the rest of the mode's time, its own passes of the decoder.
        over_floor: the part, to the floor of the mode's type and layout, PyTorch's passes of the decoder.
    """

    mode: str
    seconds: Spread
    mask_seconds: Spread
    over_decoder: Spread
    over_floor: Spread


@dataclass(frozen=True)
class Result:
    """All that was measured on a case; `missing` says why a mode could not be."""

    case: Case
    rows: list[Row]
    shares: list[Share]
    missing: dict[str, str]

    def plain_values(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


@dataclass(frozen=True)
class _Inspection:
    """One pass looked at closely."""

    outcome: Outcome
    kept: int
    flops: float


def measure(
    case: Case, modes: Sequence[Mode], rounds: int, peak: bool = True, references: Path | None = None
) -> Result:
    """Measures the modes side by side.

    Args:
        case: what on.
        modes: which; they must include the floors that they refer to, the plain implementation and the exact mode.
        rounds: repeats of each, interleaved.
        peak: whether to measure peak memory too, on a CPU in a fresh process for each mode.
        references: folder where the float64 reference is kept from one call to the next.
    """
    autoencoder = case.autoencoder()
    inputs = case.inputs(autoencoder)
    reference = _reference(case, autoencoder, inputs, references)
    passes, missing = _build(modes, autoencoder)
    names = list(passes)
    inspections: dict[str, _Inspection] = {}
    peaks: dict[str, int] = {}
    with progress() as bar:
        for name in bar.track(names, description=f"{case}: memory and exactness"):
            inspections[name] = _inspect(passes[name], inputs)
            if peak:
                mode = next(mode for mode in modes if mode.name == name)
                peaks[name] = _peak_bytes(case, mode, passes[name], inputs)
    gc.collect()
    functions: dict[str, Callable[[], Any]] = {name: partial(work.run, inputs) for name, work in passes.items()}
    parts = {name: Comparison(autoencoder, inputs, dtype) for name, dtype in _COMPARED.items() if name in passes}
    for name, part in parts.items():
        functions |= {f"{name}: comparison": part.run, f"{name}: masks": part.masks}
    seconds = interleaved(functions, rounds, inputs.prediction.device, case.seed)
    for name, work in passes.items():
        seconds[name] = [value / work.calls for value in seconds[name]]
    kept = [mode for mode in modes if mode.name in passes]
    rows = [_row(mode, case, seconds, inspections, peaks, reference) for mode in kept]
    return Result(case, rows, [_share(mode, seconds) for mode in kept if mode.name in parts], missing)


_COMPARED = {EXACT: torch.float32, DEFAULT: torch.bfloat16}


def _build(modes: Sequence[Mode], autoencoder: torch.nn.Module) -> tuple[dict[str, Pass], dict[str, str]]:
    passes: dict[str, Pass] = {}
    missing: dict[str, str] = {}
    for mode in modes:
        try:
            passes[mode.name] = mode.build(autoencoder)
        except Unavailable as reason:
            missing[mode.name] = str(reason)
    return passes, missing


def _reference(case: Case, autoencoder: torch.nn.Module, inputs: Inputs, folder: Path | None) -> Outcome:
    """The plain implementation in float64."""
    file = None if folder is None else folder / f"{case.decoder}-{case.size}-{case.batch}-{case.seed}.pt"
    if file is not None and file.is_file():
        loss, gradient = torch.load(file)
        return Outcome(loss.to(case.device), gradient.to(case.device))
    with progress() as bar:
        task = bar.add_task(f"{case}: float64 reference", total=1)
        outcome = plain(autoencoder, torch.float64).run(inputs)
        bar.advance(task)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save((outcome.loss, outcome.gradient), file)
    return outcome


def _inspect(work: Pass, inputs: Inputs) -> _Inspection:
    with peak_kept(*work.frozen) as kept, FlopCounter() as counter:
        outcome = work.run(inputs)
    return _Inspection(outcome, kept.peak, counter.total / work.calls)


def _peak_bytes(case: Case, mode: Mode, work: Pass, inputs: Inputs) -> int:
    if case.device == "cuda":
        return peak_device_bytes(lambda: work.run(inputs), inputs.prediction.device)
    return int(in_fresh_process(resident_peak, case, mode))


def resident_peak(case: Case, mode: Mode) -> int:
    """The most resident memory that one pass takes beyond what the process held; it has run on small latents before."""
    autoencoder = case.autoencoder()
    work = mode.build(autoencoder)
    work.run(case.inputs(autoencoder, size=4 * LATENT_PIXELS))
    inputs = case.inputs(autoencoder)
    gc.collect()
    return peak_resident_bytes(lambda: work.run(inputs))


def _row(
    mode: Mode,
    case: Case,
    seconds: dict[str, list[float]],
    inspections: dict[str, _Inspection],
    peaks: dict[str, int],
    reference: Outcome,
) -> Row:
    own, exact = inspections[mode.name], inspections[EXACT]
    loss = own.outcome.loss is not None
    judged = loss and mode.judged
    return Row(
        mode=mode.name,
        kind=mode.kind,
        seconds=spread(seconds[mode.name]),
        time_over_floor=ratios(seconds[mode.name], seconds[mode.floor]),
        speedup=ratios(seconds[PLAIN], seconds[mode.name]) if loss else None,
        kept_bytes=own.kept,
        kept_over_floor=own.kept / inspections[FLOOR].kept,
        kept_over_sample=own.kept / (exact.kept / case.batch) if loss else None,
        peak_bytes=peaks.get(mode.name),
        flops_over_floor=own.flops / inspections[FLOOR].flops,
        gradient_cosine=_cosine(own.outcome.gradient, reference.gradient) if judged else None,
        gradient_error=_relative(own.outcome.gradient, reference.gradient) if judged else None,
        loss_error=_relative(own.outcome.loss, reference.loss) if judged else None,
        difference_to_exact=_relative(own.outcome.gradient, exact.outcome.gradient) if judged else None,
    )


def _share(mode: Mode, seconds: dict[str, list[float]]) -> Share:
    comparison = seconds[f"{mode.name}: comparison"]
    rest = [whole - part for whole, part in zip(seconds[mode.name], comparison, strict=True)]
    return Share(
        mode=mode.name,
        seconds=spread(comparison),
        mask_seconds=spread(seconds[f"{mode.name}: masks"]),
        over_decoder=ratios(comparison, rest),
        over_floor=ratios(comparison, seconds[mode.floor]),
    )


def _cosine(value: Tensor, reference: Tensor) -> float:
    a, b = value.double().flatten(), reference.double().flatten()
    return float(torch.dot(a, b) / (a.norm() * b.norm()))


def _relative(value: Tensor | None, reference: Tensor | None) -> float:
    assert value is not None
    assert reference is not None
    return float((value.double() - reference.double()).norm() / reference.double().norm())
