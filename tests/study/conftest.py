"""Fixtures of the studies' tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from small_studies import RECIPE, StudyFolder

import zoo


@pytest.fixture
def studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    monkeypatch.setenv("LPL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    zoo.make("stable_diffusion").save_pretrained(tmp_path / "vae")
    recipe = {**RECIPE, "autoencoder": {"path": str(tmp_path / "vae")}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return StudyFolder(tmp_path)
