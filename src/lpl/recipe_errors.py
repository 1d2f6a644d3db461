"""What is wrong with a recipe, in the words of the person who wrote it."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel

from .objective_sections import DEFAULT_KIND
from .sections import Section

_NO_KEYS = ("constrained-", "literal[", "function-", "kind[")  # what pydantic adds to an error's path


def unknown_keys(values: Mapping[str, Any], section: type[BaseModel], path: str = "") -> Iterable[str]:
    """A message for each key that no section knows, with the nearest one that exists."""
    fields = section.model_fields
    for key, value in values.items():
        if key not in fields:
            longer = [name for name in fields if name.startswith(str(key))]
            near = longer or difflib.get_close_matches(str(key), list(fields), n=1, cutoff=0.5)
            hint = f"did you mean {path}{near[0]}? " if near else ""
            yield f"{path}{key}: no such key; {hint}allowed here: {', '.join(fields)}"
        elif isinstance(value, Mapping):
            for candidate in _sections_of(fields[key].annotation, value):
                yield from unknown_keys(value, candidate, f"{path}{key}.")


def _sections_of(annotation: Any, values: Mapping[str, Any]) -> list[type[Section]]:
    """The section that values of this annotation are read into; of several, the one of the kind that they name."""
    sections = list(_members(annotation))
    if len(sections) < 2:
        return sections
    kind = values.get("kind", DEFAULT_KIND)
    return [section for section in sections if section.model_fields["kind"].default == kind]


def _members(annotation: Any) -> Iterable[type[Section]]:
    """The sections that an annotation allows, within `|` and `Annotated`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    elif typing.get_origin(annotation) in (types.UnionType, typing.Union, Annotated):
        for argument in typing.get_args(annotation):
            yield from _members(argument)


def describe(entry: Any) -> str:
    """One pydantic error in the words of the person who wrote the recipe."""
    parts = [str(part) for part in entry["loc"] if not str(part).startswith(_NO_KEYS)]
    path = ".".join(part for part in parts if part not in ("float", "int", "str", "bool"))
    message = entry["msg"].removeprefix("Value error, ")
    if entry["type"] == "value_error":
        return f"{path}: {message}" if path else message
    if entry["type"] == "missing":
        return f"{path}: is missing"
    if entry["type"] == "union_tag_invalid":
        return _describe_kind(path, entry)
    return f"{path}: got {entry['input']!r}; {message[0].lower()}{message[1:]}"


def _describe_kind(path: str, entry: Any) -> str:
    """A section of a kind that does not exist."""
    kinds = re.findall(r"kind\[(\w+)\]", entry["ctx"]["expected_tags"])
    if not isinstance(entry["input"], Mapping):
        return f"{path}: got {entry['input']!r}; takes a section, such as {{kind: {kinds[0]}}}"
    kind = entry["input"]["kind"]
    near = difflib.get_close_matches(str(kind), kinds, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{path}.kind: got {kind!r}; {hint}takes {', '.join(kinds)}"
