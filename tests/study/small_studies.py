"""A study that does everything, as small as it can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner, Result

from lpl.cli import app

RECIPE: dict[str, Any] = {
    "name": "small",
    "data": {"resolution": 16, "limit": 24},
    "denoiser": {"preset": "T", "patch_size": 1, "max_tokens_per_side": 8},
    "training": {"steps": 3, "batch_size": 4, "log_every": 1, "ema_decay": 0.5},
    "sampling": {"method": "euler", "steps": 2, "count": 12, "batch_size": 8},
    "evaluation": {"reference_limit": 24},
}
STUDY: dict[str, Any] = {
    "name": "compared",
    "title": "A small study",
    "recipe": "recipe.yaml",
    "posttraining": {"training": {"steps": 2}},
    "arms": {
        "l2": {},
        "lpl": {"recipe": {"objective": {"perceptual": {"weight": 0.5}}}},
        "l2-equal-time": {"recipe": {"training": {"steps": 50}}, "same_time_as": "lpl"},
    },
}


class StudyFolder:
    """A folder with a recipe and studies in it, and one store for their runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = path / "store"

    def write(self, name: str = "study", **changes: Any) -> Path:
        """The study with some of its keys replaced."""
        file = self.path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**STUDY, "name": name, **changes}, sort_keys=False))
        return file

    def run(self, file: Path | str, *arguments: str) -> Result:
        """`lpl study`, with this folder's store and an output folder named after the study."""
        name = file.stem if isinstance(file, Path) else file
        fixed = ["--store", str(self.store), "--output", str(self.path / "out" / name)]
        return CliRunner().invoke(app, ["study", str(file), *fixed, *arguments], catch_exceptions=False)

    def runs(self) -> list[str]:
        """Names of the store's runs, without their keys."""
        return sorted(path.parent.name.rpartition("-")[0] for path in self.store.glob("*/identity.json"))
