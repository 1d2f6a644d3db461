from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lpl.cli import app

COMMANDS = [
    *("encode", "train", "train-latent-classifier", "sample", "evaluate", "report", "study"),
    *("watch", "flops", "find-batch-size"),
]


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_help_lists_every_command() -> None:
    code, output = invoke("--help")
    assert code == 0
    for command in COMMANDS:
        assert command in output


def test_help_does_not_load_torch() -> None:
    """So that it answers at once."""
    script = "import sys; from lpl.cli import app; print([m for m in ('torch', 'diffusers') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["encode", "train"])
def test_a_misspelt_key_is_refused_before_anything_starts(command: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("training: {setps: 3}\n")
    code, output = invoke(command, recipe)
    assert code == 1
    assert "training.setps: no such key; did you mean training.steps?" in " ".join(output.split())
    assert list(tmp_path.iterdir()) == [recipe]


@pytest.mark.parametrize("command", ["sample", "evaluate", "report"])
def test_a_folder_that_is_no_run_is_named(command: str, tmp_path: Path) -> None:
    code, output = invoke(command, tmp_path)
    assert code == 1
    assert str(tmp_path) in "".join(output.split())
    assert "Traceback" not in output


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    code, output = invoke("train", tmp_path / "none.yaml")
    assert code == 1
    assert "no such recipe file" in " ".join(output.split())


def test_what_the_file_system_refuses_is_told_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, output = invoke("train", "recipes/demo.yaml", f"output={tmp_path}/file/run", "data.limit=1")
    assert code == 1
    assert output.startswith("error: ")
    assert "Traceback" not in output
    assert f"{tmp_path}/file" in output


def test_paths_are_printed_letter_by_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brackets would be taken for markup, and `file.py:x` for a picture."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("objective: {perceptual: {kind: custom, term: 'nosuch.py:X'}}\n")
    code, output = invoke("train", recipe, f"output={tmp_path}/run")
    assert code == 1
    assert "nosuch.py:X" in output or "nosuch.py: no such file" in output
    monkeypatch.setattr("lpl.training.train", lambda recipe, resume: Path("runs/[/b]exp[lr=3]:x:"))
    code, output = invoke("train", "recipes/demo.yaml")
    assert code == 0
    assert output == "trained: runs/[/b]exp[lr=3]:x:\n"


@pytest.mark.parametrize("objective", ["5", "{perceptual: 5}", "{wieghting: min_snr}"])
def test_a_classifiers_recipe_is_checked_whole(objective: str, tmp_path: Path) -> None:
    """Its objective is replaced; a mistake there is a mistake all the same."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"objective: {objective}\n")
    code, output = invoke("train-latent-classifier", recipe)
    assert code == 1
    assert output.startswith(f"error: {recipe}: objective")


@pytest.mark.parametrize("devices", ["a", "0-3", "0,,1", "", "99"])
def test_devices_that_are_none_are_refused_before_anything_starts(devices: str, tmp_path: Path) -> None:
    code, output = invoke(
        "study", "demo", "--devices", devices, "--output", tmp_path / "study", "--store", tmp_path / "s"
    )
    assert code == 1
    assert "error: --devices: got" in output
    assert not list(tmp_path.iterdir())
