"""`lpl study`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..config import RecipeError
from .files import Study, bundled_studies, describe_study, load_study


@dataclass(frozen=True)
class StudyOptions:
    """The command's options.

    Attributes:
        scale: tiny, cpu, small, paper; None for the study's own.
        output: the study's folder.
        store: of runs.
        autoencoder: in place of the recipe's.
        devices: GPUs, separated by commas.
        jobs: processes at a time on the CPU.
        dry_run: only tell what there is and what is missing.
    """

    scale: str | None = None
    output: Path | None = None
    store: Path | None = None
    autoencoder: str | None = None
    devices: str | None = None
    jobs: int | None = None
    dry_run: bool = False


def study_command(name: str | None, overrides: Sequence[str], options: StudyOptions, console: Console) -> None:
    """Lists the bundled studies, or runs one.

    Raises:
        RecipeError: no such study, or one that can't be run.
        StudyIncomplete: some of its runs failed.
    """
    if name is None:
        console.print(listing())
        return
    if options.devices is not None and options.jobs is not None:
        raise RecipeError("--devices and --jobs: one process a GPU, or several on the CPU; give one of them")
    settings = list(overrides)
    if options.autoencoder is not None:
        settings += [f"autoencoder.path={options.autoencoder}"]
    study = load_study(name, options.scale, settings)
    if options.dry_run:
        _tell(study, options, console)
        return
    from .scheduling import device_slots, processor_slots
    from .study import run_study

    slots = device_slots(options.devices.split(",")) if options.devices is not None else []
    slots = processor_slots(options.jobs) if options.jobs else slots
    run_study(study, options.output, console, options.store, slots)


def listing() -> Table:
    """The bundled studies with their titles."""
    table = Table(title="Bundled studies", title_justify="left")
    table.add_column("study")
    table.add_column("what it compares")
    for name, path in bundled_studies().items():
        table.add_row(name, describe_study(path))
    return table


def _tell(study: Study, options: StudyOptions, console: Console) -> None:
    from .dry_run import dry_run_table

    console.print(dry_run_table(study, options.store))
