"""The terminal, or the file or pipe in its place."""

from typing import Any

import rich.console


class Console(rich.console.Console):
    """A console that shows texts as they are.

    Rich's own takes brackets in names for styles (`[bold]`) and words between colons for pictures.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **options})
