"""Analysis folders: which there are, what they hold, and what to call them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from lpl.reports.charts import colours
from lpl.reports.comparison import shortened
from lpl.reports.instruments.calibration_contents import CalibrationFile
from lpl.reports.instruments.contents import (
    AnalysisFile,
    FeatureFile,
    InterpolationFile,
    PerturbationFile,
)
from lpl.reports.instruments.linear_contents import LinearFile
from lpl.reports.runs import ReportError

KINDS: dict[str, type[AnalysisFile]] = {
    "interpolation": InterpolationFile,
    "perturbation": PerturbationFile,
    "features": FeatureFile,
    "linear": LinearFile,
    "calibration": CalibrationFile,
}
COMMANDS = {name: f"lpl analyze {name}" for name in KINDS} | {"calibration": "lpl calibrate"}

Content = TypeVar("Content", bound=AnalysisFile)


@dataclass(frozen=True)
class Analysis(Generic[Content]):
    """One analysis of one autoencoder."""

    folder: Path
    kind: str  # key of `KINDS`
    content: Content
    name: str = ""  # unique among the analyses of its kind
    colour: str = "data"  # the same for all analyses of that name


def analysis_files(folder: Path) -> list[Path]:
    """The JSON files of analyses that a folder holds, in the order of `KINDS`."""
    return [path for kind in KINDS if (path := folder / f"{kind}.json").is_file()]


def load_analyses(folders: Sequence[Path], colours_taken: int = 0) -> list[Analysis[Any]]:
    """Reads every analysis of every folder, and names and colours them.

    Args:
        folders: as `lpl analyze` and `lpl calibrate` write them.
        colours_taken: how many colours the page's runs have.

    Raises:
        ReportError: a file that can't be read, or that another version wrote.
    """
    found = [_load(path) for folder in folders for path in analysis_files(folder)]
    return _coloured(_named(found), colours_taken)


def _load(path: Path) -> Analysis[Any]:
    kind = path.stem
    try:
        content = KINDS[kind].model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise ReportError(f"folders: {path} can't be read ({error}); run `{COMMANDS[kind]}` again") from None
    except ValidationError as error:
        raise ReportError(
            f"folders: {path} is not as this version's `{COMMANDS[kind]}` writes it ({_first_complaint(error)}); "
            "run that again"
        ) from None
    return Analysis(path.parent, kind, content)


def _first_complaint(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}"


Scheme = Callable[[Analysis[Any]], str]


def _named(analyses: Sequence[Analysis[Any]]) -> list[Analysis[Any]]:
    """Names by the first scheme that tells the analyses of each kind apart: autoencoder, its path, folder, path."""
    schemes: tuple[Scheme, ...] = (
        lambda analysis: shortened(analysis.content.autoencoder.path),
        lambda analysis: analysis.folder.resolve().name,
        lambda analysis: str(analysis.folder),
    )
    scheme = next((scheme for scheme in schemes if _tells_apart(scheme, analyses)), schemes[-1])
    return [replace(analysis, name=scheme(analysis)) for analysis in analyses]


def _tells_apart(scheme: Scheme, analyses: Iterable[Analysis[Any]]) -> bool:
    keys = [(analysis.kind, scheme(analysis)) for analysis in analyses]
    return len(set(keys)) == len(keys)


def _coloured(analyses: Sequence[Analysis[Any]], taken: int) -> list[Analysis[Any]]:
    """One colour a name; where there are more names than colours, one a position within the kind."""
    names = list(dict.fromkeys(analysis.name for analysis in analyses))
    palette = colours("run", taken + len(analyses))[taken:]
    coloured, counts = [], dict.fromkeys(KINDS, 0)
    for analysis in analyses:
        place = names.index(analysis.name) if len(names) <= 6 else counts[analysis.kind]
        counts[analysis.kind] += 1
        coloured.append(replace(analysis, colour=palette[place]))
    return coloured
