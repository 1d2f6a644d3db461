"""The command line: `lpl encode`, `train`, `train-autoencoder`, `sample`, `evaluate`, `report`, `study`.

Heavy libraries are imported inside the commands, so that `lpl --help` and a misspelt option answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .analysis.commands import analyze, calibrate
from .config import Recipe, SectionType, apply_overrides, build_recipe, load_recipe
from .errors import explained

app = typer.Typer(
    help="Latent diffusion with the latent perceptual loss: from images to a report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(analyze, name="analyze")
app.command()(calibrate)
console = Console()

RecipeFile = Annotated[Path, typer.Argument(help="A recipe: one YAML file describes one run.")]
RunFolder = Annotated[Path, typer.Argument(help="A run's folder, as `lpl train` wrote it.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE …", help="Settings that replace the recipe's.")
]
SetName = Annotated[str, typer.Option("--set", help="Name of the set of samples, a folder below RUN/samples.")]


@app.command()
def encode(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Encode a recipe's images into the latent cache that training reads."""
    with explained():
        loaded = load_recipe(recipe, overrides or [])
        from .data import build_latent_cache

        cache = build_latent_cache(loaded.data, _autoencoder(loaded), loaded.autoencoder.batch_size)
        console.print(f"{len(cache):,} latents of {len(cache.classes)} classes in {cache.folder}")


@app.command()
def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option(help="Carry on with a run that is there already.")] = True,
) -> None:
    """Train what a recipe describes, or carry on with it."""
    with explained():
        loaded = load_recipe(recipe, overrides or [])
        from .training import train as run_training

        console.print(f"trained: {run_training(loaded, resume=resume)}")


@app.command("train-autoencoder")
def train_autoencoder(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Train an autoencoder from images, into a folder that a recipe's autoencoder.path can name."""
    with explained():
        from .training.autoencoder import train_autoencoder as run_training
        from .training.autoencoder_recipe import AutoencoderRecipe

        loaded = load_recipe(recipe, overrides or [], AutoencoderRecipe)
        console.print(f"autoencoder: {run_training(loaded)}")


@app.command("distill-decoder")
def distill_decoder(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Distil a tiny decoder of an autoencoder's latents, in which the perceptual loss costs a fraction."""
    with explained():
        from .training.tiny_decoder import train_tiny_decoder
        from .training.tiny_decoder_recipe import TinyDecoderRecipe

        loaded = load_recipe(recipe, overrides or [], TinyDecoderRecipe)
        console.print(f"autoencoder: {train_tiny_decoder(loaded)}")


@app.command()
def sample(run: RunFolder, overrides: Overrides = None, name: SetName = "default") -> None:
    """Draw images from a run; KEY=VALUE are keys of the recipe's section sampling, such as guidance_scale=2."""
    with explained():
        from .evaluation.run import recipe_of
        from .training import sample_run

        config = with_overrides(recipe_of(run).sampling, overrides or [])
        console.print(f"samples: {sample_run(run, config, name)}")


@app.command()
def evaluate(run: RunFolder, overrides: Overrides = None, name: SetName = "default") -> None:
    """Measure a run's samples; KEY=VALUE are keys of the recipe's section evaluation, such as extractor=inception."""
    with explained():
        from .evaluation.run import evaluate_run, recipe_of
        from .reports import compare_table

        config = with_overrides(recipe_of(run).evaluation, overrides or [])
        evaluate_run(run, config, name, device=_device())
        console.print(compare_table([run], name))
        console.print(f"metrics: {run / 'metrics.json'}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Runs to compare; the others are compared with the first.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    name: SetName = "default",
) -> None:
    """Write one self-contained HTML page about one or more runs."""
    with explained():
        from .reports import compare_table, write_report

        page = write_report(runs, output, title, name)
        console.print(compare_table(runs, name))
        console.print(f"report: {page}")


@app.command()
def study(
    file: Annotated[Path, typer.Argument(help="A study: YAML that names a recipe and the arms to compare.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE …", help="Settings for every run of the study.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The study's folder.")] = None,
) -> None:
    """Pre-train once, post-train every arm from there, and sample, evaluate and report all of them."""
    with explained():
        from .study import load_study, run_study

        run_study(load_study(file), overrides or [], output, console)


def with_overrides(section: SectionType, overrides: list[str]) -> SectionType:
    """A section of a recipe with `key=value` settings of its own replaced."""
    return build_recipe(apply_overrides(section.model_dump(), overrides), "command line", type(section))


def _autoencoder(recipe: Recipe) -> Any:
    import torch

    from .autoencoders import load_autoencoder

    config = recipe.autoencoder
    return load_autoencoder(config.path, config.subfolder, getattr(torch, config.precision), _device())


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def main(run: Callable[[], Any] = app) -> None:
    """Entry point of the `lpl` command."""
    try:
        run()
    except KeyboardInterrupt:
        sys.exit(130)
