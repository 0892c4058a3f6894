"""What the page of a plan's parent run shows: a description with links, and a report as files."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from bacl_platform.tracking import views
from bacl_platform.tracking.views import Family

FOLDER = "report"
"""Where the files are among the run's artifacts."""
_MOST_LETTERS = 7900
"""Of a tag's value, a little fewer than MLflow takes."""


class Page:
    """A report that is made when it is known that MLflow lacks it, and once.

    Args:
        state: what it is made from, in short; MLflow has the page of this state or another one.
        make: fills a folder and returns a text in Markdown that says what is in the files.
    """

    def __init__(self, state: str, make: Callable[[Path], str]) -> None:
        self.state, self._make = state, make
        self._made: tuple[TemporaryDirectory[str], str] | None = None

    def made(self) -> tuple[Path, str]:
        """The folder, which is there as long as the page, and the text."""
        if self._made is None:
            folder = TemporaryDirectory(prefix="bacl-report-")
            self._made = folder, self._make(Path(folder.name))
        folder, text = self._made
        return Path(folder.name), text


def description(family: Family, folder: Path, text: str) -> str:
    """What stands at the top of the run's page: links, the text, and links to the report's files.

    MLflow shows pictures in a description as large as they are, which its page has no room for.
    """
    experiment, run = family.experiment_id, family.parent.info.run_id

    def files(kind: str) -> dict[str, str | None]:
        return {
            path.stem.replace("_", " "): views.run_page(experiment, run, f"{FOLDER}/{path.name}")
            for path in sorted(folder.glob(f"*.{kind}"))
        }

    links = {
        f"variants by {family.metric}": views.table(family),
        "charts": views.charts(family),
        "side by side": views.comparison(family),
        "models": views.models(experiment),
    }
    lines = [_linked(links | files("html")), "", *text.splitlines()]
    pictures = files("png")
    last = ["", f"Pictures: {_linked(pictures)}"] if pictures else []
    while len("\n".join([*lines, *last])) > _MOST_LETTERS:
        lines.pop()
    return "\n".join([*lines, *last])


def _linked(pages: dict[str, str | None]) -> str:
    return " · ".join(f"[{name}]({page})" for name, page in pages.items() if page)
