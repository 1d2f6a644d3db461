from __future__ import annotations

import math

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import scaling
from benchmarks.interleaved import spread
from benchmarks.scaling import Point, Scaling, exponent, exponents


def test_exponents_of_power_laws() -> None:
    x = [1.0, 2.0, 4.0, 8.0]
    assert exponent(x, [3 * value**1.5 for value in x]) == pytest.approx(1.5)
    assert math.isnan(exponent([1.0], [1.0]))


def test_exponents_are_over_pixels_not_sides_and_leave_an_empty_gate_out() -> None:
    sides, counts = (64, 128, 256), (1, 2, 4)
    linear = Scaling(
        pixels=[Point(side, spread([side**2 * 1e-6]), 10 * side**4) for side in sides],
        samples=[Point(count, spread([0.5 * count]), 1) for count in counts],
        gate=[Point(0, spread([1e-9]), 0), *(Point(count, spread([0.1 * count**2]), 1) for count in counts)],
    )
    fitted = exponents(linear)
    assert fitted["time over pixels"] == pytest.approx(1)
    assert fitted["kept bytes over pixels"] == pytest.approx(2)
    assert fitted["time over samples"] == pytest.approx(1)
    assert fitted["time over samples that pass"] == pytest.approx(2)


def test_command_writes_a_plot_and_a_table(tmp_path) -> None:
    app = typer.Typer()
    app.command()(scaling.main)
    picture, page = tmp_path / "new" / "scaling.png", tmp_path / "scaling.md"
    sizes = ["--size", "32", "--size", "64", "--batch-size", "32", "--decoder", "tiny", "--repeats", "1"]
    files = ["--picture", str(picture), "--markdown", str(page), "--device", "cpu"]
    called = CliRunner().invoke(app, [*sizes, *files])
    assert called.exit_code == 0, called.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    kept = {line.split("|")[1].strip(): float(line.split("|")[4]) for line in text.splitlines() if "of 32²" in line}
    assert kept["0 of 8 samples of 32² pass the gate"] == 0
    assert kept["8 of 8 samples of 32² pass the gate"] == kept["8 samples of 32²"]
    assert kept["4 samples of 32²"] == pytest.approx(4 * kept["1 sample of 32²"], abs=0.25)  # rounded
    assert "Exponent of time over pixels" in text


def test_mistakes_are_told_first() -> None:
    app = typer.Typer()
    app.command()(scaling.main)
    called = CliRunner().invoke(app, ["--size", "100", "--decoder", "tiny"])
    assert called.exit_code == 1
    assert "--size: got 100, takes a positive multiple of 8" in called.output


def test_gated_inputs() -> None:
    inputs = scaling.Inputs(torch.zeros(4, 1), torch.zeros(4, 1), torch.ones(4))
    assert (scaling._gated(inputs, 3).sigma <= 3).tolist() == [True, True, True, False]
