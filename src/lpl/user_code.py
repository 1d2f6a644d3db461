"""Classes and functions of a user's own, named as FILE.py:NAME."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from .errors import LplError


class UserCodeError(LplError, ValueError):
    """A user's file that can't be imported or lacks the name asked for; the message says which and why."""


def load_from_file(spec: str, key: str) -> Any:
    """Imports a file and returns what it calls NAME.

    Args:
        spec: FILE.py:NAME; the file is relative to the current folder.
        key: what named it, for the message.

    Raises:
        UserCodeError: there is no such file, importing it failed, or it has no such name.
    """
    path, _, name = spec.rpartition(":")
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserCodeError(f"{key}={spec}: no such file; the path is relative to {Path.cwd()}")
    module_name = f"lpl_user_{file.stem}"
    found = importlib.util.spec_from_file_location(module_name, file)
    assert found is not None  # as the name ends in .py
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[module_name] = module  # dataclasses look their module up there
    try:
        found.loader.exec_module(module)
    except Exception as error:  # somebody else's code may raise anything
        raise UserCodeError(f"{key}={spec}: importing it failed: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        public = [entry for entry in vars(module) if not entry.startswith("_")]
        raise UserCodeError(f"{key}={spec}: the file has no {name}; it has {', '.join(public) or 'nothing'}")
    return getattr(module, name)
