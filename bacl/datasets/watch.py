"""How work that takes long tells of its progress."""

from collections.abc import Callable

Watch = Callable[[str, int, int | None], None]
"""Is told of progress: what is done, bytes or things done, how many in all where that is known."""


def unwatched(what: str, done: int, total: int | None) -> None:
    """Takes progress that nobody watches."""
