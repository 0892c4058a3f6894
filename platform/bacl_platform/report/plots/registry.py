"""Which pictures a page shows: the functions in this folder that `@plot` has put on it."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from matplotlib.figure import Figure

from bacl_platform.report import plots
from bacl_platform.report.pages import Shown
from bacl_platform.report.plots.style import png


class Page(Enum):
    """A page or section that shows pictures; its value says where it is and what arguments the
    functions on it take."""

    RESULTS = "below the tables of `bacl report` (report)"
    ERRORS = (
        "under `Where the AP is lost` of `bacl report` (report, analysis) and, where there are "
        "masks, under `Where the mask AP is lost`: `analysis.iou` is `bbox` or `segm`"
    )
    GUIDES = "under `What guided training` of `bacl report` (report, analysis)"
    TABLE = "below the table of a sweep's trials, or of variants beside the paper's (table)"
    COMPARISON = "below the table of `bacl compare` (comparison)"
    MATRIX = "at the top of `bacl compare --all` (matrix)"


@dataclass(frozen=True)
class Picture:
    """A figure with the name of its PNG file, its title and a caption."""

    file: str
    title: str
    figure: Figure
    caption: str = ""


_Draw = TypeVar("_Draw", bound=Callable[..., Picture | None])
_Each = Callable[[Any], Iterable[str]]
_PLOTS: dict[Page, list[tuple[Callable[..., Picture | None], _Each | None]]] = {
    page: [] for page in Page
}


def plot(page: Page, each: _Each | None = None) -> Callable[[_Draw], _Draw]:
    """Put a function that draws a picture on a page.

    The function takes the page's arguments (see `Page`) and returns None where it has nothing to
    show. each: takes the page's first argument and lists the values for each of which a picture is
    drawn, such as the stages of a report; the function takes the value as its last argument.
    """

    def register(draw: _Draw) -> _Draw:
        _PLOTS[page].append((draw, each))
        return draw

    return register


def load() -> None:
    """Import all files of this folder, which puts their functions on their pages."""
    for module in pkgutil.iter_modules(plots.__path__):
        importlib.import_module(f"{plots.__name__}.{module.name}")


def pictures(page: Page, *of: Any) -> Iterator[Picture]:
    """The pictures of a page, sorted by the files of their functions and the order in the file.

    of: the page's arguments; see `Page`.
    """
    load()
    for draw, each in sorted(_PLOTS[page], key=lambda one: one[0].__module__):
        for words in [()] if each is None else [(word,) for word in each(of[0])]:
            if (picture := draw(*of, *words)) is not None:
                yield picture


def shown(page: Page, *of: Any) -> list[Shown]:
    """The pictures of a page as PNG, in the same order."""
    return [
        Shown(one.file, one.title, png(one.figure), caption=one.caption)
        for one in pictures(page, *of)
    ]
