"""A live view of runs in the terminal, from the files they write."""

from .live import WatchError, watch

__all__ = ["WatchError", "watch"]
