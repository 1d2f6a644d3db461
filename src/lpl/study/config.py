"""What a study's file may say: one comparison, as arms that begin from one pre-training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from ..config import NonNegativeInt, PositiveFloat, PositiveInt, Section

PRETRAINING = "pretraining"


def _no_mappings(values: list[Any]) -> list[Any]:
    """Values that can be told apart in a table and compared with each other."""
    if any(isinstance(value, Mapping) for value in values):
        raise ValueError(
            "takes numbers, words or lists, not sections; sweep over their keys, or give each section an arm of its own"
        )
    return values


Sweep = dict[str, Annotated[list[Any], Field(min_length=1), AfterValidator(_no_mappings)]]


class ArmConfig(Section):
    """One post-training, or one for each point of a sweep."""

    label: str | None = None  # in tables and figures; by default the arm's name
    recipe: dict[str, Any] = Field(default_factory=dict)  # what it changes in the recipe of post-training
    throughout: dict[str, Any] = Field(default_factory=dict)  # what it changes in both its pre- and its post-training
    start: Literal["pretraining", "scratch"] = "pretraining"  # scratch: random weights, trained as `posttraining` says
    pretrained: str | None = None  # a run or checkpoint to begin from, in place of the study's pre-training
    against: str | None = None  # the arm it is compared with, in place of the study's baseline
    same_time_as: str | None = None  # an arm listed before: this one trains for as long as that one
    equal_time: Literal["clock", "ratio"] = "clock"  # see `StudyConfig`
    largest_batch: bool = False  # the largest batch that fits; the learning rate is scaled with it
    sweep: Sweep | None = None  # in place of the study's; {}: none
    paper: dict[str, float] = Field(default_factory=dict)  # what the paper reports, by column

    @field_validator("sweep", mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        return flattened(value) if isinstance(value, Mapping) else value


class SelectConfig(Section):
    """Each arm at its own best point of its sweep, chosen on samples that the figures never see."""

    by: str  # a measure of the evaluation
    better: Literal["lower", "higher"] = "lower"
    evaluation: dict[str, Any] = Field(default_factory=dict)  # changes to the recipe's evaluation while choosing
    seed_offset: PositiveInt = 10_000  # added to the sampling seed while choosing


class PaperConfig(Section):
    """Where the paper's figures come from, for the table's caption."""

    source: str
    setting: str = ""
    units: dict[str, str] = Field(default_factory=dict)  # of columns whose unit is not ours


class StudyConfig(Section):
    """A study's file.

    `same_time_as` has two meanings. With `equal_time: clock` the arm stops after as many seconds of training as the
    other took. With `ratio` it takes as many steps as fit that time by a measurement beforehand, in which both
    objectives train in turn in one process: on a machine that also does other work, its noise then decides nothing.
    """

    name: str
    title: str | None = None  # heading of the report
    recipe: str | None = None  # a recipe's file, relative to the study's; by default the scale's
    scale: str | None = None  # which scale where none is asked for
    pretrained: str | None = None  # a run or checkpoint that exists, in place of pre-training
    pretraining: dict[str, Any] = Field(default_factory=dict)  # changes to the recipe for pre-training
    posttraining: dict[str, Any] = Field(default_factory=dict)  # changes to the recipe for every arm
    perceptual: dict[str, Any] = Field(default_factory=dict)  # of every arm's perceptual term; an arm's own come first
    lpl: dict[str, Any] = Field(default_factory=dict)  # the same, for arms whose term is LPL
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] | None = None  # of post-training and sampling
    reseed_pretraining: bool = False  # pre-train once for each seed, too
    arms: dict[str, ArmConfig] = Field(min_length=1)
    baseline: str | None = None  # the arm that others are compared with; by default the first
    sweep: Sweep = Field(default_factory=dict)  # recipe key → values, for every arm
    select: SelectConfig | None = None
    iterations: PositiveInt | None = None  # evaluate every so many steps, and plot
    train: bool = True  # False: nothing is trained, columns are worked out from recipes
    measure_speed: bool = False  # time all arms in turn in one process, for the column `speed`
    separate_processes: bool = False  # a process for each run, so that its peak memory is its own
    memory_limit: PositiveFloat | None = None  # GiB, for largest_batch; by default all that the device has
    columns: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    plots: tuple[str, ...] = ()  # columns drawn over a sweep or over iterations; by default those that judge
    show_pretraining: bool = True  # a row for the checkpoint they begin from, sampled as they are
    paper: PaperConfig | None = None
    notes: tuple[str, ...] = ()  # what a reader has to know, printed below the table

    @field_validator("sweep", mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        return flattened(value) if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _consistent(self) -> StudyConfig:
        earlier: list[str] = []
        for name, arm in self.arms.items():
            if name == PRETRAINING:
                raise ValueError(f"arms.{name}: is the name of the run that all arms begin from; choose another")
            self._check_time(name, arm, earlier)
            if arm.against is not None and arm.against not in self.arms:
                raise ValueError(f"arms.{name}.against: {arm.against} is not an arm ({', '.join(self.arms)})")
            if arm.start == "scratch" and arm.pretrained is not None:
                raise ValueError(f"arms.{name}.pretrained: start=scratch begins from random weights; give one of them")
            earlier.append(name)
        if self.baseline is not None and self.baseline not in self.arms:
            raise ValueError(f"baseline: {self.baseline} is not an arm (those are: {', '.join(self.arms)})")
        if self.seeds is not None and len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} names one twice, which would count one run as two")
        if self.reseed_pretraining and self.pretrained is not None:
            raise ValueError("reseed_pretraining: pretrained names one checkpoint, of one seed; give one of them")
        if self.select is not None and not any(self.sweep_of(name) for name in self.arms):
            raise ValueError("select: there is no sweep to choose from")
        if self.select is not None and self.iterations is not None:
            raise ValueError("iterations: does not go with select; plot the chosen settings in a study of their own")
        return self

    def _check_time(self, name: str, arm: ArmConfig, earlier: list[str]) -> None:
        if arm.same_time_as is None:
            return
        if arm.equal_time == "clock" and self.iterations is not None:
            raise ValueError(f"arms.{name}.equal_time: iterations are known beforehand with equal_time=ratio alone")
        if arm.same_time_as not in earlier:
            listed = ", ".join(earlier) or "none"
            raise ValueError(
                f"arms.{name}.same_time_as: {arm.same_time_as} is not an arm listed before (those are: {listed})"
            )
        trained = [key for key in self.sweep_of(arm.same_time_as) if not key.startswith("sampling.")]
        if trained:
            raise ValueError(
                f"arms.{name}.same_time_as: {arm.same_time_as} is trained several times (sweep over "
                f"{', '.join(trained)}), so there is no one time"
            )

    def sweep_of(self, name: str) -> Sweep:
        """The sweep of an arm, its own or the study's."""
        own = self.arms[name].sweep
        return self.sweep if own is None else own

    @property
    def compared_with(self) -> str:
        """The arm that others are compared with."""
        return self.baseline or next(iter(self.arms))

    def against(self, name: str) -> str:
        """The arm that one is compared with."""
        own = self.arms[name].against if name in self.arms else None
        return own or self.compared_with


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys, so that a sweep may be written either way."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
