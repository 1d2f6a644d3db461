"""One self-contained HTML page about runs and analyses: no file beside it, no network, at most 25 MB."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lpl.reports import wording
from lpl.reports.instruments.folders import Analysis, analysis_files, load_analyses
from lpl.reports.pictures import IMAGE_BUDGET, PAGE_LIMIT
from lpl.reports.runs import ReportError, Run, is_run, load_runs, refuse_duplicates, refuse_other_folders
from lpl.reports.section import Comparison, SectionMaker
from lpl.reports.sections import SECTIONS

MAX_FOLDERS = 12  # of runs, and of analyses: more than the page has colours and dashes for
ATTEMPTS = 6  # at a page within the limit, each with less room for pictures


def write_report(
    folders: Sequence[Path],
    output: Path,
    title: str | None = None,
    sample_set: str = "default",
    sections: Sequence[SectionMaker] = SECTIONS,
) -> Path:
    """Writes the page about runs and analyses.

    Of runs it compares metrics, pictures, curves, spectra, recipes and machines; the analyses' views let one pick
    image, block, channel and position, for two autoencoders side by side. What a run lacks becomes a note on the page,
    and so does a picture that had to be reduced or left out to stay within 25 MB. The file appears whole or not at all.

    Args:
        folders: written by `lpl train`, `lpl analyze` or `lpl calibrate`, in any order; at most 12 runs and 12 folders
            of analyses. The first run is the one that others are compared with.
        output: the HTML file, or an existing folder, which then gets a `report.html`.
        title: heading of the page; by default the names of what it compares.
        sample_set: the folder below each run's `samples/` to show and whose metrics to take.
        sections: what the page is made of, in order.

    Returns:
        The path of the page.

    Raises:
        ReportError: no folder or too many, a folder that holds neither a run nor an analysis, one given twice, an
            analysis that can't be read, a page that is too large without any picture, or an output that can't be
            written; nothing has been written then.
    """
    runs, analysed = sort_folders(folders)
    target = _target(Path(output))
    loaded = load_runs(runs, sample_set) if runs else []
    analyses = load_analyses(analysed, colours_taken=len(loaded))
    _write_whole(target, render(loaded, title, sections, analyses))
    return target


def sort_folders(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The folders that hold runs, and those that hold analyses; one may be both.

    Raises:
        ReportError: no folder or too many, one that is given twice, or one that holds neither.
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise ReportError("folders: got none; give at least one run or analysis")
    analysed = [path for path in paths if analysis_files(path)]
    runs = [path for path in paths if path not in analysed or is_run(path, beyond_recipe=True)]
    for name, found in (("runs", runs), ("analyses", analysed)):
        if len(found) > MAX_FOLDERS:
            raise ReportError(f"{name}: got {len(found)}; one page compares at most {MAX_FOLDERS}")
    refuse_duplicates(paths)
    for path in runs:
        refuse_other_folders(path)
    return runs, analysed


def render(
    runs: Sequence[Run],
    title: str | None = None,
    sections: Sequence[SectionMaker] = SECTIONS,
    analyses: Sequence[Analysis[Any]] = (),
    limit: int = PAGE_LIMIT,
    lead: str | None = None,
) -> str:
    """The page's HTML, in at most `limit` bytes: pictures give way until it fits; see `write_report`.

    `lead` is the line below the title, by default what the page is of and what differences are to.
    """
    budget = IMAGE_BUDGET
    for _ in range(ATTEMPTS):
        comparison = Comparison(runs, analyses, budget)
        html = _render(comparison, title, sections, lead or _lead(comparison))
        size = len(html.encode("utf-8"))
        if size <= limit:
            return html
        taken = comparison.pictures_size
        if taken == 0:
            break
        budget = max(0, taken - (size - limit) - taken // 20)
    raise ReportError(
        f"folders: a page about them takes {size / 1e6:.1f} MB without any picture, and {limit / 1e6:g} MB is the "
        "limit; give fewer"
    )


def _render(comparison: Comparison, title: str | None, sections: Sequence[SectionMaker], lead: str) -> str:
    made = [section for make in sections if (section := make(comparison)) is not None]
    comparison.store.settle(comparison.image_budget - comparison.gallery.size)
    assets = dict.fromkeys(name for section in made for name in section.assets)
    template = _environment().get_template("page.html.j2")
    return template.render(
        title=title or default_title(comparison),
        lead=lead,
        sections=made,
        styles=[name for name in assets if name.endswith(".css")],
        scripts=[name for name in assets if name.endswith(".js")],
        store=comparison.store,
        created=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        version=_version(),
    )


def default_title(comparison: Comparison) -> str:
    """The runs' names, the first one last as it is what the others are held against; or how many there are."""
    runs, names = comparison.runs, list(dict.fromkeys(analysis.name for analysis in comparison.analyses))
    if not runs:
        return wording.listed(names) if len(names) <= 3 else f"{len(names)} autoencoders"
    if len(runs) > 3:
        return f"{len(runs)} runs compared"
    *others, against = [run.name for run in (*runs[1:], runs[0])]
    return f"{wording.listed(others)} against {against}" if others else against


def _lead(comparison: Comparison) -> str:
    parts = []
    if len(comparison.runs) == 1:
        parts.append("One run: its samples, its training and what they measure up to.")
    elif comparison.runs:
        count = wording.counted(len(comparison.runs), "run")
        parts.append(f"{count}; every difference is to the first, {comparison.runs[0].name}.")
    if comparison.analyses:
        kinds = list(dict.fromkeys(analysis.kind for analysis in comparison.analyses))
        parts.append(f"What the latent space does, and which settings of the loss suit it: {wording.listed(kinds)}.")
    return " ".join(parts)


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
    environment.filters["enumerated"] = lambda texts: list(enumerate(texts))
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
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
