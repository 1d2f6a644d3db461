"""The instruments' sections, in order. A new one is a file beside this one, a template, and a line here."""

from __future__ import annotations

from lpl.reports.instruments.calibration import calibration
from lpl.reports.instruments.features import features
from lpl.reports.instruments.interpolation import interpolation
from lpl.reports.instruments.linear import linear
from lpl.reports.instruments.overview import overview
from lpl.reports.instruments.perturbation import perturbation
from lpl.reports.section import SectionMaker

INSTRUMENT_SECTIONS: tuple[SectionMaker, ...] = (
    overview,
    interpolation,
    perturbation,
    features,
    linear,
    calibration,
)
