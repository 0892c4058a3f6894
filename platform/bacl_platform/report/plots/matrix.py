"""The picture of a comparison of every pair of variants."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from bacl_platform.report.matrix_report import letters, order
from bacl_platform.report.plots.registry import Page, Picture, plot
from bacl_platform.report.plots.style import COLOURS, named

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bacl_platform.analysis.matrix import Matrix

_MOST_NUMBERS = 14
"""Variants of which the differences are written in the squares."""
_OPEN = 0.25
"""How much of its colour the square of an open question has."""


def _measures(matrix: "Matrix") -> Iterable[str]:
    return matrix.measures


@plot(Page.MATRIX, each=_measures)
def matrix_of(matrix: "Matrix", measure: str) -> Picture:
    """A panel for the measure and each frequency group; a square for each pair, blue where the
    variant of the row is the better one, and pale where that is open."""
    metrics = matrix.of(measure)
    columns = 2 if len(metrics) > 1 else 1
    rows = math.ceil(len(metrics) / columns)
    size = len(matrix.names)
    figure = Figure(figsize=(8, rows * min(1.2 + 0.26 * size, 5)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for panel, metric in zip(panels, metrics):
        _panel(matrix, metric, panel)
    for panel in panels[len(metrics) :]:
        panel.set_axis_off()
    figure.suptitle(f"{measure}: row less column, in points")
    return Picture(
        f"{matrix.stem}_{measure}.png",
        f"Every pair of variants by {measure}",
        figure,
        "Blue where the variant of the row is better than that of the column, orange where it is "
        "worse; pale where the difference may be none.",
    )


def _panel(matrix: "Matrix", metric: str, axes: "Axes") -> None:
    from matplotlib.colors import LinearSegmentedColormap

    names, places = letters(matrix), order(matrix)
    size = len(places)
    gains = np.array(
        [
            [0.0 if row == column else matrix.gain(metric, row, column) for column in places]
            for row in places
        ]
    )
    clear = np.array(
        [
            [row != column and matrix.is_clear(metric, row, column) for column in places]
            for row in places
        ]
    )
    most = max(np.nanmax(np.abs(gains), initial=0), 1e-9)
    sign = -1 if metric in matrix.falling else 1
    scale = LinearSegmentedColormap.from_list("gain", [COLOURS[1], "white", COLOURS[0]])
    colours = scale(0.5 + 0.5 * sign * np.nan_to_num(gains) / most)
    part = np.where(clear, 1.0, _OPEN)[..., None]
    colours[..., :3] = 1 - part * (1 - colours[..., :3])
    axes.imshow(colours, interpolation="nearest")
    letter = max(4.5, min(8, 110 / size))
    if size <= _MOST_NUMBERS:
        for row, column in np.ndindex(size, size):
            if row != column and not np.isnan(gains[row, column]):
                strong = clear[row, column]
                dark = strong and abs(gains[row, column]) > 0.5 * most
                axes.text(
                    column,
                    row,
                    f"{100 * gains[row, column] + 0.0:+.1f}",
                    ha="center",
                    va="center",
                    fontsize=min(letter, 45 / size),
                    color="white" if dark else "#222222" if strong else "#777777",
                    weight="bold" if strong else "normal",
                )
    labels = [f"{named(matrix.names[place])} {names[place]}" for place in places]
    axes.set_yticks(range(size), labels, fontsize=letter)
    axes.set_xticks(range(size), [names[place] for place in places], fontsize=letter)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(metric, fontsize=10)
