"""What all errors that a user can mend have in common."""

from __future__ import annotations


class LplError(Exception):
    """A mistake in a recipe, a folder, data or a command, whose message says how to mend it."""
