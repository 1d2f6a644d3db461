"""The radial power spectrum of each run's samples against the data's, and the ratio of the two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpl.reports import wording
from lpl.reports.axes import Values, spanning
from lpl.reports.charts import Chart, Line, colours
from lpl.reports.metric_table import evaluated_set
from lpl.reports.runs import Run, mapping

FREQUENCY_LABEL = "cycles a pixel"
BANDS = {
    "to 1/16": (0.0, 0.0625),
    "to 1/4": (0.0625, 0.25),
    "to 1/2": (0.25, 0.5),
}  # cycles a pixel, lower end excluded


@dataclass(frozen=True)
class Spectrum:
    """One set of images: mean power at each frequency, each (N,) and positive."""

    name: str
    colour: str
    frequency: Values  # cycles a pixel, ascending in (0, 0.5]
    power: Values
    reference: Values
    dashed: bool = False

    def ratio_in(self, low: float, high: float) -> float | None:
        """Geometric mean of power over reference for frequencies in (low, high]; None where there are none."""
        inside = (self.frequency > low) & (self.frequency <= high)
        if not inside.any():
            return None
        return float(np.exp(np.mean(np.log(self.power[inside] / self.reference[inside]))))


@dataclass(frozen=True)
class BandRow:
    """One set of images' power relative to the data in each of `BANDS`, as text."""

    name: str
    colour: str
    ratios: tuple[str, ...]


@dataclass(frozen=True)
class SpectrumView:
    """Both charts and the ratio by band."""

    charts: tuple[Chart, ...]
    bands: tuple[BandRow, ...]
    notes: tuple[str, ...] = ()


def spectrum_view(runs: Sequence[Run]) -> SpectrumView:
    """Charts of all runs that have a spectrum; without any there is no chart."""
    spectra = list(_spectra(runs))
    judged = [spectrum for spectrum in spectra if spectrum.colour != "data"]
    if not judged:
        return SpectrumView((), ())
    return SpectrumView(
        charts=(_power_chart(spectra), _ratio_chart(spectra)),
        bands=tuple(BandRow(entry.name, entry.colour, _bands(entry)) for entry in spectra),
        notes=tuple(_notes(judged)),
    )


def _spectra(runs: Sequence[Run]) -> Iterable[Spectrum]:
    """The runs' spectra, then the first run's baselines', such as the autoencoder's reconstructions."""
    for index, (run, colour) in enumerate(zip(runs, colours("run", len(runs)), strict=True)):
        yield from _read(run.name, colour, evaluated_set(run), dashed=index >= 6)
    anchor = next((entry for run in runs if (entry := evaluated_set(run))), {})
    for name, baseline in mapping(anchor.get("baselines")).items():
        yield from _read(name, "data", mapping(baseline), dashed=True)


def _read(name: str, colour: str, entry: Mapping[str, Any], dashed: bool) -> Iterable[Spectrum]:
    spectrum = mapping(entry.get("spectrum"))
    columns = [_floats(spectrum.get(key)) for key in ("frequency", "samples", "reference")]
    if not columns[0].size or len({column.size for column in columns}) != 1:
        return
    positive = np.all([np.isfinite(column) & (column > 0) for column in columns], axis=0)  # the axes are logarithmic
    if positive.any():
        frequency, power, reference = (column[positive] for column in columns)
        yield Spectrum(name, colour, frequency, power, reference, dashed)


def _floats(values: Any) -> Values:
    usable = isinstance(values, list) and all(isinstance(value, int | float) for value in values)
    return np.array(values if usable else [], dtype=np.float64)


def _power_chart(spectra: Sequence[Spectrum]) -> Chart:
    first = spectra[0]
    data = Line("data", "data", first.frequency, first.reference)
    lines = (
        data,
        *(Line(entry.name, entry.colour, entry.frequency, entry.power, dashed=entry.dashed) for entry in spectra),
    )
    return Chart(
        title="Power",
        caption="Mean power of luminance at each spatial frequency; both axes are logarithmic.",
        lines=lines,
        x=spanning(FREQUENCY_LABEL, [line.x for line in lines], "log", margin=0.0),
        y=spanning("power", [line.y for line in lines], "log"),
    )


def _ratio_chart(spectra: Sequence[Spectrum]) -> Chart:
    lines = tuple(
        Line(entry.name, entry.colour, entry.frequency, entry.power / entry.reference, dashed=entry.dashed)
        for entry in spectra
    )
    return Chart(
        title="Power relative to the data",
        caption="1 is the data's own power; below it detail is missing, above it there is too much.",
        lines=lines,
        x=spanning(FREQUENCY_LABEL, [line.x for line in lines], "log", margin=0.0),
        y=spanning("ratio", [line.y for line in lines], "log", include=[0.8, 1.25]),
        guide=1.0,
    )


def _bands(spectrum: Spectrum) -> tuple[str, ...]:
    ratios = (spectrum.ratio_in(low, high) for low, high in BANDS.values())
    return tuple("–" if ratio is None else f"×{wording.number(ratio, 2)}" for ratio in ratios)


def _notes(spectra: Sequence[Spectrum]) -> Iterable[str]:
    first, *others = spectra
    for other in others:
        same = first.reference.shape == other.reference.shape and np.allclose(
            first.reference, other.reference, rtol=1e-6
        )
        if not same:
            yield (
                f"{other.name} was measured against other data than {first.name}: the line of the data is "
                f"{first.name}'s, and each ratio is to the run's own."
            )
