from pathlib import Path

import torch
import typer
from typer.testing import CliRunner

import zoo
from benchmarks import estimators
from lpl.autoencoders import load_autoencoder


def test_predictions_are_worse_where_there_is_more_noise() -> None:
    """And better than the noisy latent itself."""
    latents, (prediction, target, sigma) = estimators.make_batch(load_autoencoder("demo"), "photographs", 32, 6, 0)
    assert len(latents) == estimators.FITTED
    assert prediction.shape == target.shape == (6, *latents.shape[1:])
    error = (prediction - target).square().mean(dim=(1, 2, 3)).sqrt()
    assert error[sigma.argmin()] < 0.5 * error[sigma.argmax()]
    assert (error < 1.1 * sigma).all()
    assert sigma.min() > 0
    assert sigma.max() < 3


def test_the_table_has_every_estimator_and_decoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = tmp_path / "whole" / "autoencoder"
    zoo.kl(levels=2).save_pretrained(whole)
    page = tmp_path / "page.md"
    page.write_text("<!-- begin estimators -->\n<!-- end estimators -->\n")
    app = typer.Typer()
    app.command()(estimators.main)
    arguments = ["--autoencoder", whole, "--decoder", whole, "--resolution", "16"]
    options = ["--batch", "4", "--draws", "2", "--device", "cpu", "--markdown", page]
    result = CliRunner().invoke(app, list(map(str, arguments + options)))
    assert result.exit_code == 0, result.output
    rows = [line.split("|")[1].strip() for line in page.read_text().splitlines() if line.startswith("| ")]
    assert rows[-1] == "in another decoder, whole"
    assert len(rows) == 2 + 8  # with two lines of heading
    same = next(line for line in page.read_text().splitlines() if "in another decoder" in line).split("|")
    assert same[3].strip() == "1.000"  # the decoder itself agrees with itself
    assert float(same[4]) < 1e-4
