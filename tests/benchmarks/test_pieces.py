from __future__ import annotations

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import pieces
from benchmarks.pieces import LAYOUTS
from lpl.losses.outliers import Outliers


@pytest.mark.parametrize("label", LAYOUTS)
def test_both_ways_compute_the_same(label: str) -> None:
    dtype, layout = LAYOUTS[label]
    maps = torch.randn(2, 16, 12, 12, generator=torch.Generator().manual_seed(0))
    maps[:, :, 3:7, 3:7] += 50 * (torch.arange(16) % 4 == 0)[None, :, None, None]
    maps = maps.to(dtype).to(memory_format=layout)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    for name, (theirs, ours, _) in pieces.pieces(maps, seed=0).items():
        expected, actual = theirs(maps), ours(maps)
        if isinstance(actual, Outliers):
            expected, actual = expected.bool(), actual.mask()
            if dtype == torch.bfloat16:  # the plain way rounds its thresholds
                continue
        if isinstance(expected, tuple):
            expected = torch.stack([value.float() for value in expected[::-1]])
            actual = torch.stack([value.float() for value in actual])
        error = (actual.double() - expected.double()).norm() / expected.double().norm()
        assert error < tolerance, name


def test_command(tmp_path) -> None:
    app = typer.Typer()
    app.command()(pieces.main)
    page = tmp_path / "pieces.md"
    sizes = ["--size", "16", "--channels", "32", "--batch", "1", "--repeats", "1", "--device", "cpu"]
    called = CliRunner().invoke(app, [*sizes, "--markdown", str(page)])
    assert called.exit_code == 0, called.output
    rows = [line.split("|") for line in page.read_text().splitlines() if "| float32 |" in line]
    kept = {row[1].strip(): (float(row[6]), float(row[7])) for row in rows}
    maps = 32 * 16 * 16 * 4 / 2**20
    assert kept["convolution 3×3"] == (pytest.approx(maps, abs=0.06), 0)
    assert kept["squared distance"][1] == pytest.approx(maps * 3 / 4, abs=0.06)  # 24 bits a value
