from __future__ import annotations

import pytest
from typer.testing import CliRunner

from lpl.cli import app
from lpl.config import RecipeError
from lpl.training.published_flops import (
    DECODERS,
    TABLE_7,
    TABLE_8,
    ModelFlops,
    candidates,
    gate_share,
    model_flops,
    published_at,
)


def test_table_7_fixes_the_batch_at_512():
    """The baseline's iterations of both tables cost the same a sample at these batches alone."""
    row = published_at(512)
    assert TABLE_7[16] == row.perceptual
    assert TABLE_7[25] / 25 == pytest.approx(row.plain / row.batch_size, rel=1e-4)
    assert published_at(384) is None


def test_readings_are_a_batch_in_the_convention_they_name():
    flops = ModelFlops(512, 3 * 10**12, 4 * 10**12, {"A": (10**12, 2 * 10**12)}, {"A": 10**12})
    plain, added = candidates(flops, TABLE_8[1])
    by_reading = {candidate.reading: candidate for candidate in [*plain, *added]}
    assert len(by_reading) == len(plain) + len(added) == 8
    assert by_reading["forward and backward, a multiply-add is 2"].operations == pytest.approx(16 * 3)
    assert by_reading["with gradient checkpointing, a multiply-add is 1"].operations == pytest.approx(16 * 2)
    gated = by_reading["A, all of 2 blocks, a multiply-add is 2"]
    assert gated.operations == pytest.approx(16 * 2 * gate_share())
    assert gated.published == pytest.approx(106.581 - 69.342)
    assert gated.difference == pytest.approx(gated.operations / gated.published - 1)
    assert plain[0].reading == "with gradient checkpointing, a multiply-add is 2"  # 64 of 69.3


def test_the_decoder_is_the_published_one():
    """Stable Diffusion's has 49.5 M parameters."""
    assert sum(value.numel() for value in DECODERS["SD and SDXL"]().decoder.parameters()) == 49_490_179


def test_more_blocks_cost_more_and_folding_saves(monkeypatch):
    """Of each decoder the forward passes grow with its width: ×1.5 in channels, and one more layer a block."""
    monkeypatch.delitem(DECODERS, "SD and SDXL")
    flops = model_flops("T", 64)
    (name, counts), *others = flops.perceptual.items()
    assert not others
    assert len(counts) == 5
    assert list(counts) == sorted(counts)
    assert 0.8 < flops.lean[name] / counts[-1] < 0.9
    assert flops.denoiser < flops.checkpointed < 1.5 * flops.denoiser


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="size: got 200, takes multiples of 16 pixels"):
        model_flops("S", 200)
    with pytest.raises(RecipeError, match="preset"):
        model_flops("XXL", 64)


def test_the_command_counts_a_recipe(tmp_path, tiny_autoencoder):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: mine\ndata: {{resolution: 16}}\nautoencoder: {{path: {tiny_autoencoder}}}\n")
    settings = ["denoiser.preset=T", "training.batch_size=4", "training.accumulation=3"]
    result = CliRunner().invoke(app, ["flops", str(recipe), *settings], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.replace("│", " ").split())
    assert "mine: operations of a training iteration" in text
    assert "Of one process, batch 4 × 3 passes. 86.4% of the samples pass the gate on FlowOT's times." in text


def test_the_command_compares_with_the_paper(monkeypatch):
    """The nearest readings first, and what they are off by."""
    flops = ModelFlops(512, 3 * 10**12, 4 * 10**12, {"A": (10**12, 3 * 10**12)}, {"A": 10**12})
    monkeypatch.setattr("lpl.training.flops_tables.model_flops", lambda preset, resolution: flops)
    result = CliRunner().invoke(app, ["flops", "--size", "512"], env={"COLUMNS": "120"})
    text = " ".join(result.output.replace("│", " ").split())
    assert "Batch 16 a GPU: Table 7 has 106.581 at batch 16" in text
    assert "without LPL: with gradient checkpointing, a multiply-add is 2 (-7.7% at 512²)" in text
    assert "added by LPL: A, all of 2 blocks, a multiply-add is 2 (-13.1% at 512²)" in text
    assert CliRunner().invoke(app, ["flops", "--preset", "S"]).output.count("Table 8") == 0


def test_the_command_says_what_it_does_not_take():
    result = CliRunner().invoke(app, ["flops", "--size", "100"])
    assert result.exit_code == 1
    assert "size: got 100" in result.output
