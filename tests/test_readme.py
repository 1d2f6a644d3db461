from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lpl.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_blocks_run_in_an_empty_script(tmp_path: Path) -> None:
    scripts = blocks("python")
    assert scripts
    for number, text in enumerate(scripts):
        script = tmp_path / f"block{number}.py"
        script.write_text(text, encoding="utf-8")
        names = runpy.run_path(str(script))
        assert names["output"].grad.abs().sum() > 0


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "three_lines.py"))
    assert capsys.readouterr().out.count("with LPL") == 3


def test_every_command_named_exists() -> None:
    named = set(re.findall(r"(?:`|^|&& )lpl ([a-z][a-z-]+)\b", README, flags=re.MULTILINE))
    assert {"train", "sample", "evaluate", "report", "study", "encode"} <= named
    for command in sorted(named):
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0, f"lpl {command}: {result.output}"


def test_every_link_to_a_file_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README) + re.findall(r'src="([^"]+)"', README):
        assert (ROOT / target).exists(), target


def test_every_recipe_and_study_named_exists() -> None:
    words = [word for block in blocks("bash") for word in shlex.split(block.replace("…", ""), comments=True)]
    for word in words:
        if word.startswith(("recipes/", "studies/")) and word.endswith(".yaml") and word.count(".") == 1:
            assert (ROOT / word).is_file() or word == "recipes/.yaml", word
