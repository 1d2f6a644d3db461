"""Fixtures of the report's tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from analysis_folders import KINDS, make_analyses, vary
from html_tree import Element, parse
from synthetic_runs import RESULTS, write_run

from lpl.reports import write_report

MakeRun = Callable[..., Path]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


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


@pytest.fixture(scope="session")
def analyses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind of analysis, as the commands write them for the bundled autoencoder; not to be changed."""
    return make_analyses(tmp_path_factory.mktemp("analyses"))


@pytest.fixture(scope="session")
def others(analyses: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same of an autoencoder that calls its blocks differently and has one fewer."""
    folder = tmp_path_factory.mktemp("others")
    return {kind: vary(analyses[kind], folder / kind) for kind in KINDS}


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium to look at the page with")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page; at the end nothing may have been complained about or requested."""
    contexts, complaints = [], []

    def open_file(path: Path, width: int = 1280, **settings: Any) -> Any:
        settings = {"viewport": {"width": width, "height": 800}, "reduced_motion": "reduce", **settings}
        contexts.append(browser.new_context(**settings))
        contexts[-1].set_default_timeout(120_000)  # milliseconds; a busy machine may take its time
        opened = contexts[-1].new_page()
        opened.on("console", lambda message: complaints.append(message.text))
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("request", lambda request: complaints.extend([request.url] * request.url.startswith("http")))
        opened.goto(path.as_uri())
        return opened

    yield open_file
    for context in contexts:
        context.close()
    assert complaints == []
