"""The command line: `lpl encode`, `train`, `sample`, `evaluate`, `report`, `study` and others.

Heavy libraries are imported inside the commands, so that `lpl --help` and a misspelt option answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .analysis.commands import analyze, calibrate
from .config import (
    LatentClassifierConfig,
    LatentLPIPSConfig,
    Recipe,
    SectionType,
    apply_overrides,
    build_recipe,
    load_recipe,
    read_yaml,
)
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
tell = partial(console.print, markup=False, emoji=False, highlight=False, soft_wrap=True)  # paths, letter by letter

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
        tell(f"{len(cache):,} latents of {len(cache.classes)} classes in {cache.folder}")


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

        tell(f"trained: {run_training(loaded, resume=resume)}")


@app.command("train-autoencoder")
def train_autoencoder(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Train an autoencoder from images, into a folder that a recipe's autoencoder.path can name."""
    with explained():
        from .training.autoencoder import train_autoencoder as run_training
        from .training.autoencoder_recipe import AutoencoderRecipe

        loaded = load_recipe(recipe, overrides or [], AutoencoderRecipe)
        tell(f"autoencoder: {run_training(loaded)}")


@app.command("train-latent-classifier")
def train_latent_classifier(
    recipe: RecipeFile,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The classifier's folder; by default next to the latents.")
    ] = None,
) -> None:
    """Train a classifier on a recipe's latents and labels, in whose features kind=latent_lpips compares."""
    with explained():
        from .training.latent_classifier import read_description
        from .training.latent_classifier_training import classifier_of

        loaded, settings = classifier_recipe(recipe, overrides or [])
        folder = classifier_of(loaded, _autoencoder(loaded), settings, output)
        about = read_description(folder)
        right = f"{about['accuracy']:.1%} right of {about['tested_on']['which']}"
        tell(f"classifier: {folder} ({right})")


@app.command("distill-decoder")
def distill_decoder(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Distil a tiny decoder of an autoencoder's latents, in which the perceptual loss costs a fraction."""
    with explained():
        from .training.tiny_decoder import train_tiny_decoder
        from .training.tiny_decoder_recipe import TinyDecoderRecipe

        loaded = load_recipe(recipe, overrides or [], TinyDecoderRecipe)
        tell(f"autoencoder: {train_tiny_decoder(loaded)}")


@app.command()
def sample(run: RunFolder, overrides: Overrides = None, name: SetName = "default") -> None:
    """Draw images from a run; KEY=VALUE are keys of the recipe's section sampling, such as guidance_scale=2."""
    with explained():
        from .evaluation.run import recipe_of
        from .training import sample_run

        config = with_overrides(recipe_of(run).sampling, overrides or [])
        tell(f"samples: {sample_run(run, config, name)}")


@app.command()
def evaluate(run: RunFolder, overrides: Overrides = None, name: SetName = "default") -> None:
    """Measure a run's samples; KEY=VALUE are keys of the recipe's section evaluation, such as extractor=inception."""
    with explained():
        from .evaluation.run import evaluate_run, recipe_of
        from .reports import compare_table

        config = with_overrides(recipe_of(run).evaluation, overrides or [])
        evaluate_run(run, config, name, device=_device())
        console.print(compare_table([run], name))
        tell(f"metrics: {run / 'metrics.json'}")


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(help="Runs to compare with the first of them, folders of analyses, or both.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    name: SetName = "default",
) -> None:
    """Write one self-contained HTML page about runs and about what `analyze` and `calibrate` found."""
    with explained():
        from .reports import compare_table, sort_folders, write_report

        page = write_report(folders, output, title, name)
        if runs := sort_folders(folders)[0]:
            console.print(compare_table(runs, name))
        tell(f"report: {page}")


@app.command()
def watch(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, which need not have begun.")],
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two looks at the files.")] = 5.0,
) -> None:
    """Show how runs are doing while they train, on this machine or another, from their files alone."""
    with explained():
        from .watch import watch as watch_runs

        watch_runs(runs, interval, once, console)


@app.command()
def flops(
    recipe: Annotated[
        Path | None, typer.Argument(help="A recipe, whose iteration is counted; by default the paper's models.")
    ] = None,
    overrides: Overrides = None,
    preset: Annotated[str, typer.Option(help="Without a recipe: size of the denoiser.")] = "XL",
    size: Annotated[list[int] | None, typer.Option(help="Without a recipe: pixels a side; may be repeated.")] = None,
) -> None:
    """Count the floating-point operations of a training iteration, without and with LPL (Table 8)."""
    with explained():
        from .training.flops_tables import published_tables, recipe_table

        if recipe is None:
            console.print(published_tables(preset, size or [256, 512]))
        else:
            console.print(recipe_table(load_recipe(recipe, overrides or [])))


@app.command("find-batch-size")
def find_batch_size(
    recipe: RecipeFile,
    overrides: Overrides = None,
    memory: Annotated[
        str | None, typer.Option(help="What to fit into, such as 4GiB; by default the GPU, or what is free.")
    ] = None,
) -> None:
    """Find the largest batch with which a recipe trains, and the learning rate that goes with it."""
    with explained():
        loaded = load_recipe(recipe, overrides or [])
        from .training.batch_size import largest_batch_size
        from .training.batch_size_report import parse_bytes, probe_line, search_summary

        limit = parse_bytes(memory) if memory is not None else None
        found = largest_batch_size(loaded, limit, lambda probe: console.print(probe_line(probe)))
        console.print(search_summary(loaded, found))


@app.command()
def study(
    name: Annotated[
        str | None, typer.Argument(metavar="STUDY", help="A bundled study's name or a YAML file; leave out for a list.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE …", help="Settings of the study (seeds=[0,1,2]) or of every run's recipe."),
    ] = None,
    scale: Annotated[str | None, typer.Option(help="Size: tiny, cpu, small or paper.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The study's folder.")] = None,
    store: Annotated[Path | None, typer.Option(help="Where runs lie; studies share them. [runs/store]")] = None,
    autoencoder: Annotated[str | None, typer.Option(help="Another autoencoder for every run.")] = None,
    devices: Annotated[str | None, typer.Option(help="GPUs to run on, one process each, such as 0,1,2.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes at a time on the CPU.", min=1)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell which runs there are and are not.")] = False,
) -> None:
    """Run one of the paper's comparisons, or your own: pre-train once, post-train every arm, compare them."""
    with explained():
        from .study.commands import StudyOptions, study_command

        options = StudyOptions(scale, output, store, autoencoder, devices, jobs, dry_run)
        study_command(name, overrides or [], options, console)


def with_overrides(section: SectionType, overrides: list[str]) -> SectionType:
    """A section of a recipe with `key=value` settings of its own replaced."""
    return build_recipe(apply_overrides(section.model_dump(), overrides), "command line", type(section))


def classifier_recipe(path: Path, overrides: list[str]) -> tuple[Recipe, LatentClassifierConfig]:
    """A recipe, and how to train a classifier of its latents: as its term of that kind says, or by default."""
    values = read_yaml(path)
    build_recipe(values, str(path))  # whatever is wrong with it, in the part that is replaced too
    objective = values.get("objective") or {}
    if (objective.get("perceptual") or {}).get("kind") != "latent_lpips":
        values["objective"] = {"perceptual": {"kind": "latent_lpips"}}
    loaded = build_recipe(apply_overrides(values, overrides), str(path))
    term = loaded.objective.perceptual
    settings = term.classifier_training if isinstance(term, LatentLPIPSConfig) else LatentClassifierConfig()
    return loaded, settings


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
