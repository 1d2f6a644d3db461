"""Where the time goes: encoding, training, sampling and evaluation, once each, on a recipe's scale.

    python -m benchmarks.step                                   # recipes/demo.yaml; about three minutes on two cores
    python -m benchmarks.step recipes/demo.yaml data.limit=128 sampling.count=8 --steps 4

The package's own commands run, with some of their functions timed from outside; see `benchmarks.stages`.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer

from lpl.config import Recipe, load_recipe
from lpl.errors import explained

from .environment import environment, hardware_line
from .stages import Profile, profile_encoding, profile_evaluation, profile_sampling, profile_training, remarks
from .tables import Table, console, percent, show, write_markdown

LPL = ("objective.perceptual.weight=0.1", "objective.perceptual.precision=auto")


def main(
    recipe: Annotated[Path, typer.Argument(help="The recipe whose scale to profile at.")] = Path("recipes/demo.yaml"),
    overrides: Annotated[list[str] | None, typer.Argument(help="KEY=VALUE settings of the recipe.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps that are timed.")] = 40,
    warmup: Annotated[int, typer.Option(min=0, help="Training steps before them.")] = 10,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where to write every number.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Where to write the tables for a page.")] = None,
) -> None:
    """Profile encoding, training, sampling and evaluation, and name what stands out."""
    with explained(), tempfile.TemporaryDirectory() as folder:
        os.environ["LPL_CACHE"] = str(Path(folder) / "cache")  # so that encoding takes place
        length = [f"training.steps={warmup + steps}", f"training.checkpoint_every={warmup + steps}"]
        plain, lpl = (
            load_recipe(recipe, [*(overrides or []), *length, f"name={name}", f"output={folder}/{name}", *more])
            for name, more in (("l2", ["objective.perceptual=null"]), ("lpl", LPL))
        )
        profiles = _profiles(plain, lpl, warmup)
    tables = [_table(profile) for profile in profiles]
    for table in tables:
        show(table)
    found = [remark for profile in profiles for remark in remarks(profile)]
    lines = ["What stands out:", *(f"- {remark}" for remark in found or ["nothing"])]
    about = environment(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    console().print("\n".join([*lines, hardware_line(about)]), highlight=False, markup=False)
    if json_file is not None:
        content = {"environment": about, "profiles": [vars(profile) for profile in profiles], "stands out": found}
        json_file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if markdown is not None:
        pages = [table.markdown() for table in tables]
        write_markdown(markdown, "step", "\n".join([*pages, *lines, "", hardware_line(about), ""]))


def _profiles(plain: Recipe, lpl: Recipe, warmup: int) -> list[Profile]:
    """Of the commands in the order one runs them."""
    return [
        profile_encoding(plain),
        profile_training(plain, warmup, "Training, ℓ2"),
        profile_training(lpl, warmup, "Training, LPL"),
        profile_sampling(plain),
        profile_evaluation(plain),
    ]


def _table(profile: Profile) -> Table:
    """Stages by their share of the time."""
    stages = sorted(profile.seconds, key=lambda name: -profile.seconds[name])
    rows = [
        (name, f"{profile.seconds[name]:.3f}", percent(profile.share(name)), str(profile.calls.get(name, "")))
        for name in stages
    ]
    beside = [f"Meanwhile in other threads: {name}, {seconds:.2f} s." for name, seconds in profile.threads.items()]
    title = f"{profile.name}: {profile.total:.2f} s for {profile.what}"
    return Table(title, ("stage", "seconds", "share", "calls"), rows, [*beside, *profile.notes])


if __name__ == "__main__":
    typer.run(main)
