"""Fixtures of the report's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from html_tree import Element, parse
from synthetic_runs import RESULTS, write_run

from lpl.reports import write_report

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`write_run` below the test's own folder."""
    return lambda name, **settings: write_run(tmp_path / name, **settings)


@pytest.fixture
def two_runs(make_run: MakeRun) -> list[Path]:
    """An ℓ2 run and an LPL run that improves on it, apart from precision."""
    better = {"frechet_distance": 44.1, "high_frequency_ratio": 1.3, "sliced_wasserstein": 19.9, "precision": 0.58}
    return [make_run("l2"), make_run("lpl", perceptual=True, results={**RESULTS, **better}, sharpen=2.5)]


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., Element]:
    """Writes a report of runs and parses it."""

    def make(runs: list[Path], **settings: Any) -> Element:
        return parse(write_report(runs, tmp_path / "page.html", **settings).read_text(encoding="utf-8"))

    return make
