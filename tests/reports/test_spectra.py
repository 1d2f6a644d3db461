from __future__ import annotations

import json

import numpy as np

from lpl.reports.runs import load_runs
from lpl.reports.spectra import BANDS, spectrum_view


def spectrum_of(folder):
    entry = json.loads((folder / "metrics.json").read_text())["sets"]["default"]["spectrum"]
    return tuple(np.array(entry[key]) for key in ("frequency", "samples", "reference"))


def change(folder, **columns):
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["sets"]["default"]["spectrum"].update(columns)
    (folder / "metrics.json").write_text(json.dumps(metrics))


def test_power_and_its_ratio_to_the_data(two_runs):
    power, ratio = spectrum_view(load_runs(two_runs)).charts
    assert [line.label for line in power.lines] == ["data", "l2", "lpl", "reconstruction"]
    frequency, samples, reference = spectrum_of(two_runs[1])
    np.testing.assert_allclose(power.lines[2].y, samples)
    np.testing.assert_allclose(power.lines[0].y, reference)
    np.testing.assert_allclose(ratio.lines[1].y, samples / reference)
    np.testing.assert_allclose(ratio.lines[1].x, frequency)
    assert (power.x.scale, power.y.scale, ratio.guide) == ("log", "log", 1.0)


def test_bands_are_geometric_means(two_runs):
    view = spectrum_view(load_runs(two_runs))
    frequency, samples, reference = spectrum_of(two_runs[0])
    for text, (low, high) in zip(view.bands[0].ratios, BANDS.values(), strict=True):
        inside = (frequency > low) & (frequency <= high)
        expected = np.prod((samples / reference)[inside]) ** (1 / inside.sum())
        assert text == f"×{expected:.2f}"


def test_frequencies_without_power_are_left_out_of_logarithms(make_run):
    folder = make_run("run")
    frequency, samples, _ = spectrum_of(folder)
    change(folder, samples=[0.0, *samples[1:].tolist()])
    line = spectrum_view(load_runs([folder])).charts[0].lines[1]
    np.testing.assert_allclose(line.x, frequency[1:])


def test_other_reference_data_are_said(two_runs):
    change(two_runs[1], reference=(2 * spectrum_of(two_runs[1])[2]).tolist())
    (note,) = spectrum_view(load_runs(two_runs)).notes
    assert note.startswith("lpl was measured against other data than l2")


def test_columns_of_unequal_length_or_kind_are_no_spectrum(make_run):
    folders = [make_run("short"), make_run("text")]
    change(folders[0], samples=[1.0, 2.0])
    change(folders[1], frequency="high")
    assert spectrum_view(load_runs(folders)).charts == ()
