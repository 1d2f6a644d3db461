"""Folders of analyses, made by the commands themselves on small pictures, and changed copies of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from typer.testing import CliRunner

from lpl.analysis.output import AnalysisFolder
from lpl.cli import app

SMALL = ["demo", "photographs", "--resolution", "32"]
SCALES = ["--scale", "1.5", "--scale", "2"]
COMMANDS = {
    "interpolation": ["analyze", "interpolation", *SMALL, *SCALES, "--limit", "3", "--pictures", "2"],
    "perturbation": ["analyze", "perturbation", *SMALL, "--limit", "2", "--statistics", "2"],
    "features": ["analyze", "features", *SMALL, "--limit", "2"],
    "linear": ["analyze", "linear", *SMALL, "--limit", "2", "--steps", "8", "--probes", "1"],
    "calibration": ["calibrate", *SMALL, "--limit", "4", "--gradient-images", "2"],
}
KINDS = tuple(COMMANDS)
RENAMED = {"mid_block": "layers.0", "up_blocks.0": "layers.1", "up_blocks.1": "layers.2", "up_blocks.2": "layers.3"}


def make_analyses(folder: Path) -> dict[str, Path]:
    """Runs every command, without matplotlib's figures, which the page does not show; kind → its folder."""
    with patch.object(AnalysisFolder, "save_figure"):
        for kind, arguments in COMMANDS.items():
            result = CliRunner().invoke(app, [*arguments, "--output", str(folder / kind)])
            assert result.exit_code == 0, result.output
    return {kind: folder / kind for kind in COMMANDS}


def read(folder: Path) -> dict[str, Any]:
    """The contents of a folder's only JSON file."""
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text(encoding="utf-8"))


def change(source: Path, target: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a folder whose JSON file an edit went over."""
    shutil.copytree(source, target)
    (path,) = target.glob("*.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return target


def vary(source: Path, target: Path) -> Path:
    """A copy of an analysis that another autoencoder might have: other names, and one block fewer in its features."""

    def edit(content: dict[str, Any]) -> None:
        content["autoencoder"] |= {"path": "/somewhere/else/other", "fingerprint": "0" * 16}
        if content["analysis"] == "features":
            results = content["results"]
            results["blocks"] = _renamed(results["blocks"])
            for sweep in results["sweeps"].values():
                sweep |= {name: _renamed(sweep[name]) for name in ("masked_share", "masked_energy")}
            for image in content["images"]:
                image["maps"] = _renamed(image.get("maps", {}))

    return change(source, target, edit)


def _renamed(blocks: dict[str, Any]) -> dict[str, Any]:
    return {RENAMED[name]: value for name, value in blocks.items() if name in RENAMED}
