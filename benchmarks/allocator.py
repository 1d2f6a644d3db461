"""What keeping freed memory gains a training step on a CPU: the same steps in processes that do and that don't.

    python -m benchmarks.allocator                                 # recipes/demo.yaml; about four minutes on two cores
    python -m benchmarks.allocator recipes/demo.yaml training.batch_size=16 --steps 4 --rounds 2

The allocator's setting is a whole process's, so each measurement is a process of its own; those of a round follow each
other.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer

from lpl.allocator import keep_freed_memory
from lpl.config import Recipe, load_recipe
from lpl.errors import explained

from .environment import environment, hardware_line
from .interleaved import progress, ratios, spread
from .stages import LPL, profile_training
from .tables import Table, number, show, write_markdown

OBJECTIVES = {"ℓ2": ("objective.perceptual=null",), "LPL": LPL}


def main(
    recipe: Annotated[Path, typer.Argument(help="The recipe whose steps are timed.")] = Path("recipes/demo.yaml"),
    overrides: Annotated[list[str] | None, typer.Argument(help="KEY=VALUE settings of the recipe.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps that are timed, in each process.")] = 10,
    warmup: Annotated[int, typer.Option(min=1, help="Training steps before them.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="Processes of each kind.")] = 3,
    markdown: Annotated[Path | None, typer.Option(help="Where to write the table for a page.")] = None,
) -> None:
    """Time training steps with and without `lpl.allocator.keep_freed_memory`."""
    with explained(), tempfile.TemporaryDirectory() as folder:
        os.environ["LPL_CACHE"] = str(Path(folder) / "cache")
        length = [f"training.steps={warmup + steps}", f"training.checkpoint_every={warmup + steps}"]
        recipes = {
            name: load_recipe(recipe, [*(overrides or []), *length, *objective])
            for name, objective in OBJECTIVES.items()
        }
        seconds = _measure(recipes, warmup, rounds, Path(folder))
    table = _table(seconds, steps)
    show(table)
    about = hardware_line(environment(torch.device("cpu")))
    print(about)
    if markdown is not None:
        write_markdown(markdown, "allocator", f"{table.markdown()}\n{about}\n")


def _measure(recipes: dict[str, Recipe], warmup: int, rounds: int, folder: Path) -> dict[tuple[str, bool], list[float]]:
    """Seconds by objective and by whether freed memory is kept, round by round."""
    seconds: dict[tuple[str, bool], list[float]] = {(name, kept): [] for name in recipes for kept in (False, True)}
    with progress() as bar:
        task = bar.add_task("training", total=rounds * len(seconds))
        for round_number in range(rounds):
            for (name, kept), measured in seconds.items():
                output = str(folder / f"{name}-{kept}-{round_number}")
                one = recipes[name].model_copy(update={"output": output})
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    measured.append(pool.apply(timed_steps, (one, warmup, kept)))
                bar.advance(task)
    return seconds


def timed_steps(recipe: Recipe, warmup: int, kept: bool) -> float:
    """Seconds of a recipe's training steps after `warmup`, in a process that does nothing else.

    Raises:
        RuntimeError: freed memory was to be kept, and the allocator doesn't.
    """
    if kept and not keep_freed_memory():
        raise RuntimeError("freed memory can't be kept: not glibc's allocator, or the environment sets it otherwise")
    return profile_training(recipe, warmup, "training").total


def _table(seconds: dict[tuple[str, bool], list[float]], steps: int) -> Table:
    rows = []
    for name in OBJECTIVES:
        without, kept = seconds[name, False], seconds[name, True]
        cells = (number(spread(without)), number(spread(kept)), number(ratios(kept, without)))
        rows.append((f"training, {name}", *cells))
    columns = (f"{steps} steps", "seconds", "seconds, freed memory kept", "ratio")
    notes = ["Medians over processes (smallest–largest), taken in turn; ratios by round."]
    return Table("Keeping freed memory, on a CPU", columns, rows, notes)


if __name__ == "__main__":
    typer.run(main)
