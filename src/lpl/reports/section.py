"""What a section of the page is, and what it is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lpl.reports.instruments.folders import Analysis, Content
from lpl.reports.instruments.store import PictureStore
from lpl.reports.metric_table import MetricTable, metric_table
from lpl.reports.notes import Note, page_notes
from lpl.reports.pictures import IMAGE_BUDGET, Gallery, gallery
from lpl.reports.runs import Run
from lpl.reports.spectra import SpectrumView, spectrum_view


@dataclass(frozen=True)
class Section:
    """One part of the page."""

    identifier: str  # its anchor
    title: str  # its heading
    short: str  # its name in the navigation
    template: str  # below templates/sections
    values: Mapping[str, Any] = field(default_factory=dict)  # what the template is given
    assets: tuple[str, ...] = ()  # style sheets and scripts below templates/ that it needs


@dataclass(frozen=True)
class Comparison:
    """The runs and analyses of a page with what several sections need of them, worked out once.

    Attributes:
        runs: the first is the one that others are compared with.
        analyses: of autoencoders.
        image_budget: bytes that all pictures may take, written as data URIs; runs take half where there are analyses.
        store: the pictures of the analyses, which settle for what the runs' leave of the budget.
    """

    runs: Sequence[Run]
    analyses: Sequence[Analysis[Any]] = ()
    image_budget: int = IMAGE_BUDGET
    store: PictureStore = field(default_factory=PictureStore)

    @cached_property
    def table(self) -> MetricTable:
        """The metrics of all runs."""
        return metric_table(self.runs)

    @cached_property
    def gallery(self) -> Gallery:
        """The pictures of all runs."""
        return gallery(self.runs, budget=self.image_budget // 2 if self.analyses else self.image_budget)

    @property
    def pictures_size(self) -> int:
        """Bytes that all pictures take, once the store has settled."""
        return self.gallery.size + sum(map(len, self.store.uris.values()))

    @cached_property
    def spectrum(self) -> SpectrumView:
        """The spectra of all runs."""
        return spectrum_view(self.runs)

    @cached_property
    def notes(self) -> list[Note]:
        """The cautions of all sections."""
        return page_notes(self.runs, self.table, [*self.gallery.notes, *self.spectrum.notes])

    def of(self, kind: type[Content]) -> list[Analysis[Content]]:
        """The analyses of one kind, in the order they were given."""
        return [analysis for analysis in self.analyses if isinstance(analysis.content, kind)]


SectionMaker = Callable[[Comparison], Section | None]
