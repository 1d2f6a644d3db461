"""Which autoencoders were looked at, with which images and commands."""

from __future__ import annotations

from typing import Any

from lpl.reports import wording
from lpl.reports.comparison import ABSENT
from lpl.reports.instruments.common import command, conditions
from lpl.reports.instruments.folders import Analysis
from lpl.reports.section import Comparison, Section

NAME = "autoencoders"


def overview(comparison: Comparison) -> Section | None:
    """A card an autoencoder, and how each analysis was made."""
    analyses = comparison.analyses
    if not analyses:
        return None
    first = {analysis.name: analysis for analysis in reversed(analyses)}
    names = list(dict.fromkeys(analysis.name for analysis in analyses))
    values = {
        "cards": [_card(first[name], [a for a in analyses if a.name == name]) for name in names],
        "rows": [_row(analysis) for analysis in analyses],
        "skipped": [
            f"{analysis.name}, {analysis.kind}: {wording.counted(len(analysis.content.data.skipped), 'image')} could "
            "not be read"
            for analysis in analyses
            if analysis.content.data.skipped
        ],
    }
    return Section(NAME, "What was looked at", "Autoencoders", "instruments/overview.html.j2", values)


def _card(first: Analysis[Any], analyses: list[Analysis[Any]]) -> dict[str, Any]:
    autoencoder = first.content.autoencoder
    return {
        "name": first.name,
        "colour": first.colour,
        "kind": autoencoder.kind,
        "latents": f"{autoencoder.latent_channels} latent channels, 1/{autoencoder.downsampling} of the image’s side",
        "analyses": [analysis.kind for analysis in analyses],
    }


def _row(analysis: Analysis[Any]) -> dict[str, Any]:
    content = analysis.content
    seconds = content.provenance.seconds
    seed = content.settings.get("seed")
    cells = (
        command(analysis),
        conditions(analysis),
        ABSENT if seed is None else str(seed),
        ABSENT if seconds is None else wording.duration(seconds),
        content.provenance.created[:10] or ABSENT,
        content.autoencoder.fingerprint[:8] or ABSENT,
    )
    return {"name": analysis.name, "colour": analysis.colour, "kind": analysis.kind, "cells": cells}
