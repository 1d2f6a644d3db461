from __future__ import annotations

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import kernels
from layouts import channels_last

pytest.importorskip("triton")


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(kernels.main)
    return app


def test_what_is_timed_leaves_the_maps_as_they_are(kernel_device: torch.device) -> None:
    torch.manual_seed(0)
    maps = channels_last(torch.randn(1, 8, 16, 12, device=kernel_device)).bfloat16()
    before = maps.clone()
    timed = kernels.works(maps, groups=4)
    assert next(iter(timed)) == "copy"
    for work in timed.values():
        work.run()
    assert torch.equal(maps, before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_needs_a_gpu(app: typer.Typer) -> None:
    called = CliRunner().invoke(app, [])
    assert called.exit_code == 1
    assert "no GPU" in called.output


def test_channels_have_to_be_in_groups(app: typer.Typer) -> None:
    called = CliRunner().invoke(app, ["--channels", "40"])
    assert called.exit_code == 1
    assert "got 40, takes a multiple of 32" in called.output


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_command_on_a_gpu(app: typer.Typer, tmp_path) -> None:
    page = tmp_path / "kernels.md"
    called = CliRunner().invoke(app, ["--size", "32", "--channels", "32", "--batch", "1", "--markdown", str(page)])
    assert called.exit_code == 0, called.output
    assert "| copy | 4 |" in page.read_text()
