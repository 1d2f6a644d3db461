"""What all sections of a recipe are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from .precision import resolved

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]

# Precisions. "auto" is replaced when the recipe is read, so that what is written beside a run is what it was run with.
_NO_WORD = BeforeValidator(lambda value: "no" if value is False else value)  # YAML reads an unquoted no as false
_MIXED = AfterValidator(lambda value: resolved(value, half="bf16", full="no"))
_COMPUTED = AfterValidator(lambda value: resolved(value, half="bfloat16", full="float32"))
MixedPrecision = Annotated[Literal["auto", "no", "bf16"], _NO_WORD, _MIXED]
MixedPrecisionWithFP16 = Annotated[Literal["auto", "no", "bf16", "fp16"], _NO_WORD, _MIXED]
ComputedPrecision = Annotated[Literal["auto", "float32", "bfloat16"], _COMPUTED]


class Section(BaseModel):
    """A part of a recipe: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __hash__(self) -> int:
        """Equal for equal sections, of which some hold mappings, such as the settings of a loss of one's own."""
        return hash((type(self), *(_hashable(getattr(self, name)) for name in type(self).model_fields)))


def _hashable(value: Any) -> object:
    """A value of a section with lists and mappings made into what can be hashed; equal ones stay equal."""
    if isinstance(value, Mapping):
        return frozenset((key, _hashable(entry)) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return tuple(_hashable(entry) for entry in value)
    return value
