"""Progress of long work, as a callback."""

from collections.abc import Callable

Watch = Callable[[str, int, int | None], None]
"""Callback for progress: a description of the work, bytes or items done, and their total or None if
unknown."""


def unwatched(what: str, done: int, total: int | None) -> None:
    """Ignore progress."""
