"""How well each estimator stands in for the exact loss, on photographs in a trained autoencoder's latents.

python -m benchmarks.estimators                                          # the bundled autoencoder
python -m benchmarks.estimators --autoencoder PATH --decoder DISTILLED   # with a distilled decoder of the same latents
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from lpl import LatentPerceptualLoss
from lpl.analysis.agreement import Batch, GradientAgreement, gradient_agreement
from lpl.analysis.inputs import encode, open_pictures, tracked
from lpl.analysis.predictors import fit_gaussian
from lpl.autoencoders import Autoencoder, load_autoencoder
from lpl.errors import explained
from lpl.losses.estimators import EveryKth, GatedSubset, RandomWindows

from .environment import environment, hardware_line
from .interleaved import progress
from .tables import Table, console, show, write_markdown

COLUMNS = ("estimator", "loss", "cosine", "relative error", "bias", "variance", "time", "kept")
NOTES = (
    "Against the exact loss's gradient g at ẑ0: mean cosine of a draw; root mean square of ‖g_d − g‖/‖g‖; its bias "
    "‖E g_d − g‖/‖g‖ (in brackets what scatter alone would show as one); variance E‖g_d − E g_d‖²/‖g‖².",
    "Loss, time and bytes kept for backward: over the exact loss's, time measured in turn with it.",
)
FITTED = 256  # images that the Gaussian behind ẑ0 is fitted to


def main(
    autoencoder: Annotated[str, typer.Option(help="Bundled name, folder or hub name.")] = "demo",
    decoder: Annotated[list[str] | None, typer.Option(help="Of the same latents, as a row; several are taken.")] = None,
    source: Annotated[str, typer.Option(help="Images, as `data.source` of a recipe.")] = "photographs",
    resolution: Annotated[int, typer.Option(help="Pixels a side.")] = 64,
    batch: Annotated[int, typer.Option(min=2, help="Samples, all of which pass the gate.")] = 8,
    draws: Annotated[int, typer.Option(min=2, help="Of each estimator.")] = 32,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda" if torch.cuda.is_available() else "cpu",
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    markdown: Annotated[Path | None, typer.Option(help="A page to write the table into.")] = None,
) -> None:
    """Compare each estimator's draws with the exact loss, and print a table."""
    with explained():
        model = load_autoencoder(autoencoder).to(device)
        latents, inputs = make_batch(model, source, resolution, batch, seed)
        exact = LatentPerceptualLoss(model.model).to(device)
        losses = estimators(exact, latents.shape[-1])
        for path in decoder or []:
            losses[f"in another decoder, {_name(path)}"] = LatentPerceptualLoss(load_autoencoder(path).model)
        rows = []
        with progress() as bar:
            for name, loss in bar.track(list(losses.items()), description="estimators"):
                rows.append(row(name, gradient_agreement(exact, loss.to(device), inputs, draws)))
    shape = " × ".join(map(str, inputs[0].shape))
    title = f"Estimators, {_name(autoencoder)}'s decoder, latents {shape}, {draws} draws"
    table = Table(title, COLUMNS, rows, list(NOTES))
    show(table)
    about = hardware_line(environment(torch.device(device)))
    console().print(about, highlight=False)
    if markdown is not None:
        write_markdown(markdown, "estimators", f"{table.markdown()}\n{about}; seed {seed}.\n")


def make_batch(autoencoder: Autoencoder, source: str, resolution: int, batch: int, seed: int) -> tuple[Tensor, Batch]:
    """Latents of photographs and what a denoiser might predict of them, at noise levels from 0.1 to the gate's 3.

    ẑ0 is the posterior mean under a Gaussian fitted to the latents, whose errors are those of a poor denoiser: largest
    where the noise is, and smooth.
    """
    pictures = open_pictures(source, resolution, max(FITTED, batch))
    latents = encode(autoencoder, pictures.images, track=tracked)
    gaussian = fit_gaussian(latents)
    generator = torch.Generator().manual_seed(seed)
    clean = latents[:batch]
    sigma = torch.linspace(0.1, 2.9, batch)[torch.randperm(batch, generator=generator)].to(clean.device)
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    predicted = [
        gaussian.posterior_mean(some + level * epsilon, float(level))
        for some, level, epsilon in zip(clean.split(1), sigma, noise.split(1), strict=True)
    ]
    return latents, (torch.cat(predicted), clean, sigma)


def estimators(exact: LatentPerceptualLoss, side: int) -> dict[str, nn.Module]:
    """What is compared, by name."""
    window = max(side // 2, 1)
    return {
        "every 4th step": EveryKth(exact, 4),
        "half of the samples": GatedSubset(exact, fraction=0.5),
        "half of the samples, by error": GatedSubset(exact, fraction=0.5, importance="error"),
        "half of the samples, by sigma": GatedSubset(exact, fraction=0.5, importance="sigma"),
        "a quarter of the samples, by error": GatedSubset(exact, fraction=0.25, importance="error"),
        f"window of {window}², margin 0": RandomWindows(exact, window, 0),
        f"window of {window}², margin 2": RandomWindows(exact, window, 2),
    }


def _name(autoencoder: str) -> str:
    """A folder's name; of a run's folder `autoencoder` the run's."""
    path = Path(autoencoder)
    return path.parent.name if path.name == "autoencoder" and path.parent.name else path.name


def row(name: str, agreement: GradientAgreement) -> tuple[str, ...]:
    """A line of the table."""
    return (
        name,
        f"{agreement.loss:.3f}",
        f"{agreement.cosine:.3f}",
        f"{agreement.relative_error:.3f}",
        f"{agreement.bias:.3f} ({agreement.bias_resolution:.3f})",
        f"{agreement.variance:.3f}",
        f"{agreement.time_ratio:.2f}",
        f"{agreement.kept_ratio:.2f}",
    )


if __name__ == "__main__":
    typer.run(main)
