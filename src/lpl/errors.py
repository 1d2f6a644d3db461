"""What all errors that a user can mend have in common, and how commands show them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console


class LplError(Exception):
    """A mistake in a recipe, a folder, data or a command, whose message says how to mend it."""


@contextmanager
def explained() -> Iterator[None]:
    """Shows an error that a person can mend in its own words, and exits with 1; LPL_TRACEBACK=1 shows its origin."""
    try:
        yield
    except (LplError, ValueError, OSError) as error:
        if os.environ.get("LPL_TRACEBACK"):
            raise
        Console(stderr=True, soft_wrap=True).print(
            "error:", _message(error), markup=False, emoji=False, highlight=False
        )
        raise typer.Exit(1) from None


def _message(error: Exception) -> str:
    """What an error says; of the file system's, the file first."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)
