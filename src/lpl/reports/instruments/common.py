"""What all views of the instruments share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpl.reports import wording
from lpl.reports.axes import Values
from lpl.reports.comparison import ABSENT, shortened
from lpl.reports.instruments.contents import Number
from lpl.reports.instruments.folders import COMMANDS, Analysis

ASSETS = ("instruments/explorer.css", "instruments/explorer.js")  # of every view


@dataclass(frozen=True)
class Finding:
    """What an analysis found, in a sentence."""

    name: str
    colour: str
    text: str


def heading(analysis: Analysis[Any]) -> dict[str, Any]:
    """What a pane says of its analysis."""
    return {"name": analysis.name, "colour": analysis.colour, "conditions": conditions(analysis)}


def conditions(analysis: Analysis[Any]) -> str:
    """With which images it was made."""
    data = analysis.content.data
    split = f" ({data.split})" if data.split and data.source == "photographs" else ""
    return (
        f"{wording.counted(data.count, 'image')} of {shortened(data.source)}{split} at "
        f"{data.resolution}{wording.GAP}×{wording.GAP}{data.resolution}"
    )


def command(analysis: Analysis[Any]) -> str:
    """The command that made it, without its options."""
    content = analysis.content
    return f"{COMMANDS[analysis.kind]} {shortened(content.autoencoder.path)} {shortened(content.data.source)}"


def image_labels(analyses: Sequence[Analysis[Any]], counts: Sequence[int]) -> list[str]:
    """What the image picker offers: positions, with the image's name where all analyses have the same there."""
    labels = []
    for index in range(max(counts, default=0)):
        names = {
            shortened(analysis.content.images[index].name)
            for analysis, count in zip(analyses, counts, strict=True)
            if index < count
        }
        labels.append(f"{index + 1}: {names.pop()}" if len(names) == 1 else f"{index + 1}")
    return labels


def block_labels(names: Sequence[Sequence[str]]) -> list[str]:
    """What the block picker offers: blocks by their order, named where all analyses call them the same."""
    labels = []
    for index in range(max(map(len, names), default=0)):
        here = list(dict.fromkeys(blocks[index] for blocks in names if index < len(blocks)))
        labels.append(f"{index + 1}: {' / '.join(here)}")
    return labels


def number(value: Number, digits: int = 3) -> str:
    """A number to some significant digits, a dash where there is none."""
    if value is None:
        return ABSENT
    rounded = float(f"{value:.{digits}g}")
    return wording.number(rounded, wording.decimals_for([rounded], digits)) if rounded else "0"


def decimal(value: Number, decimals: int) -> str:
    """A number with some decimals, a dash where there is none."""
    return ABSENT if value is None else wording.number(value, decimals)


def percent(share: Number) -> str:
    """A share in per cent with as many decimals as it takes to see it, a dash where there is none."""
    if share is None:
        return ABSENT
    decimals = 0 if abs(share) >= 0.1 or share == 0 else 1 if abs(share) >= 0.01 else 2
    return f"{wording.number(100 * share, decimals)}{wording.GAP}%"


def floats(values: Iterable[Number]) -> Values:
    """Numbers as an array, NaN where there is none."""
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def by_channel(columns: Mapping[str, Sequence[Any]], chosen: Sequence[int]) -> dict[str, list[Any]]:
    """Columns with one entry a channel, for some channels."""
    return {name: [values[channel] for channel in chosen] for name, values in columns.items()}
