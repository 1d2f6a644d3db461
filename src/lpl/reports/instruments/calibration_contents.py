"""What the page reads of the JSON file that `lpl calibrate` writes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from lpl.reports.instruments.contents import AnalysisFile, Image, Number, Numbers


class Advice(BaseModel):
    """One setting."""

    setting: str
    value: Any
    paper: Any
    reason: str
    warning: str = ""


class Block(BaseModel):
    """What a block is like."""

    channels: int
    size: tuple[int, int]
    weak_channels: int
    zero_share: Number
    masked_share: Number
    masked_energy: Number


class Cost(BaseModel):
    """What a block adds to the cost of the loss."""

    added_gigaflops: Number
    added_seconds: Number


class Training(BaseModel):
    """Over the noise levels as training meets them."""

    gradient_ratio: Number
    typical_ratio: Number
    matched_weight: Number
    gradient_share: Numbers


class Study(BaseModel):
    """Measurements by noise level: lists have one entry a level, tables one row a level and one column a block."""

    sigmas: list[float]
    blocks: list[str]
    omega: Numbers
    reliability: Numbers
    feature_reliability: list[Numbers]
    loss: list[Numbers]
    gradient_share: list[Numbers]
    gradient_ratio: Numbers
    alignment: Numbers
    contrast_pull: Numbers
    concentration: dict[str, list[Numbers]]
    training: Training


class Mixture(BaseModel):
    """Probability of each noise level in training, with the gate closed and open."""

    closed: Numbers
    open: Numbers


class CalibrationResults(BaseModel):
    """What was chosen, and from what."""

    recipe: str
    settings: dict[str, Any]
    advice: list[Advice]
    predictor: str
    mixture: Mixture
    channelwise_reliability: Numbers
    blocks: dict[str, Block]
    costs: dict[str, Cost]
    chosen: Study
    paper_settings: Study


class CalibrationFile(AnalysisFile):
    """Of `lpl calibrate`."""

    images: list[Image]
    results: CalibrationResults
