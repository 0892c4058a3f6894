"""What commands print, as objects: printed by commands, shown by notebooks."""

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 120
"""Letters in a line where there is no terminal."""
_PAGE = '<pre style="white-space: pre; line-height: normal; overflow-x: auto">{code}</pre>'


class Shown:
    """An object whose text is what `show` prints; a notebook shows it with its colours."""

    def show(self, console: "Console") -> None:
        """Print it as its command does."""
        raise NotImplementedError

    def as_json(self) -> Any:
        """It as plain values, as its command prints them with --json."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self._console().file.getvalue().rstrip("\n")  # type: ignore[attr-defined]

    def _repr_html_(self) -> str:
        return self._console().export_html(inline_styles=True, code_format=_PAGE)

    def _console(self) -> "Console":
        """A console of its own, which it was printed on."""
        from bacl_platform.console import Console

        console = Console(
            file=io.StringIO(), record=True, width=WIDTH, color_system=None, force_jupyter=False
        )
        self.show(console)
        return console
