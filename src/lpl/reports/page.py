"""One self-contained HTML page about runs: no file beside it, no network, at most 25 MB."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lpl.reports import wording
from lpl.reports.runs import ReportError, Run, load_runs
from lpl.reports.sections import SECTIONS, Comparison, SectionMaker

MAX_RUNS = 12  # more than the page has colours and dashes for


def write_report(
    runs: Sequence[Path],
    output: Path,
    title: str | None = None,
    sample_set: str = "default",
    sections: Sequence[SectionMaker] = SECTIONS,
) -> Path:
    """Writes the page that compares runs: metrics, pictures, curves, spectra, recipes, machines and cautions.

    What a run lacks becomes a note on the page. The file appears whole or not at all.

    Args:
        runs: folders written by `lpl train`, at most 12; the first is the one that others are compared with.
        output: the HTML file, or an existing folder, which then gets a `report.html`.
        title: heading of the page; by default the runs' names.
        sample_set: the folder below each run's `samples/` to show and whose metrics to take.
        sections: what the page is made of, in order.

    Returns:
        The path of the page.

    Raises:
        ReportError: no run or too many, a folder that is no run, a run given twice, or an output that can't be
            written; nothing has been written then.
    """
    if len(runs) > MAX_RUNS:
        raise ReportError(f"runs: got {len(runs)}; one page compares at most {MAX_RUNS}")
    target = _target(Path(output))
    loaded = load_runs(runs, sample_set)
    _write_whole(target, render(loaded, title, sections))
    return target


def render(
    runs: Sequence[Run],
    title: str | None = None,
    sections: Sequence[SectionMaker] = SECTIONS,
) -> str:
    """The page's HTML; see `write_report`."""
    comparison = Comparison(runs)
    template = _environment().get_template("page.html.j2")
    return template.render(
        title=title or default_title(runs),
        lead=_lead(runs),
        sections=[made for make in sections if (made := make(comparison)) is not None],
        created=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        version=_version(),
    )


def default_title(runs: Sequence[Run]) -> str:
    """The runs' names, the first one last as it is what the others are held against; or how many there are."""
    if len(runs) > 3:
        return f"{len(runs)} runs compared"
    *others, against = [run.name for run in (*runs[1:], runs[0])]
    return f"{wording.listed(others)} against {against}" if others else against


def _lead(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return "One run: its samples, its training and what they measure up to."
    return f"{wording.counted(len(runs), 'run')}; every difference is to the first, {runs[0].name}."


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lpl.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["asset"] = _asset
    return environment


def _asset(name: str) -> Markup:
    """A style sheet or script shipped next to the templates, as it is."""
    text = files("lpl.reports").joinpath("templates", name).read_text(encoding="utf-8")
    return Markup(text)  # our own file, not to be escaped


def _target(output: Path) -> Path:
    target = output / "report.html" if output.is_dir() else output
    if target.suffix.lower() not in (".html", ".htm"):
        raise ReportError(f"output: {output} is neither a folder that exists nor a file name ending in .html")
    return target


def _write_whole(target: Path, text: str) -> None:
    """Writes beside the target, then renames: a reader never sees half a page."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise ReportError(f"output: {target} can't be written: {error.strerror}") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    Path(name).chmod(0o644)
    Path(name).replace(target)


def _version() -> str:
    try:
        return version("latent-perceptual-loss")
    except PackageNotFoundError:
        return "from source"
