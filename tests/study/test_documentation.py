"""What docs/studies.md shows: its study and its commands can be planned as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from small_studies import StudyFolder

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```(yaml|bash)\n(.*?)```", DOCUMENT, re.DOTALL)[::-1])  # the first of each language
COMMANDS = re.findall(r"^(lpl study .*)$", DOCUMENT, re.MULTILINE)


def test_the_documented_study_of_ones_own_is_planned(studies: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where examples/custom_loss.py lies
    values = yaml.safe_load(BLOCKS["yaml"])
    file = studies.path / "mine.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    result = studies.run(file, "--dry-run")
    assert result.exit_code == 0, result.output
    assert all(f"-{arm}-seed2" in result.output for arm in values["arms"])


@pytest.mark.parametrize("command", COMMANDS)
def test_documented_commands_are_planned(studies: StudyFolder, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    _, _, *words = shlex.split(command, comments=True)
    words = [word for word in words if not word.startswith("pretrained=")]  # a run that the reader has
    if not words:
        return
    name, *arguments = words
    result = studies.run(name, *arguments, *([] if "--dry-run" in arguments else ["--dry-run"]))
    assert result.exit_code == 0, result.output
