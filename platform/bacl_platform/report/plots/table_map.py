"""Points by the two fields that rows differ in: a map, or dots where numbers were drawn at random.

R rows.
"""

from collections.abc import Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from bacl_platform.report.plots.fields import (
    SCALE,
    STATES,
    Field,
    best_row,
    fields,
    some_labels,
    state_of,
)
from bacl_platform.report.plots.registry import Page, Picture, plot
from bacl_platform.report.plots.style import COLOURS, legend_below, named, plain_axes
from bacl_platform.report.result_table.rows import ResultTable, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_TEXTS = 60
"""Cells of a map that have room for their points."""
_EMPTY_SHARE = 3
"""A map has at most so many cells for each row; rows that leave more empty are dots."""


@plot(Page.TABLE)
def value_map(table: ResultTable) -> Picture | None:
    """A cell for each pair of values of the two fields that vary, coloured by its points, in a
    panel for each metric; of numbers drawn at random, dots."""
    varied = fields(table)
    if len(varied) != 2 or not any(row.found.get(table.metric) for row in table.rows):
        return None
    down, across = varied
    cells = len(down.labels) * len(across.labels)
    if cells > _EMPTY_SHARE * len(table.rows):
        return _dots(table, down, across)
    metrics = [m for m in table.family if any(row.found.get(m) for row in table.rows)]
    lines = -(-len(metrics) // 2)
    height = min(9.0, 1 + lines * (1.1 + 0.3 * len(down.labels)))
    figure = Figure(figsize=(8, height), layout="constrained")
    panels = list(figure.subplots(lines, min(2, len(metrics)), squeeze=False).flat)
    best, word = best_row(table)
    for axes, metric in zip(panels, metrics):
        _map(axes, table, down, across, metric)
        if metric == table.metric and best is not None:
            x, y = across.ranks([best])[0], down.ranks([best])[0]
            axes.add_patch(
                Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, linewidth=2.5, edgecolor=COLOURS[1])
            )
            axes.set_title(f"{metric} (framed: {word})", fontsize=10)
        else:
            axes.set_title(metric, fontsize=10)
    for axes in panels[len(metrics) :]:
        axes.set_visible(False)
    caption = "Means over seeds, in points." if any(r.seeds > 1 for r in table.rows) else "Points."
    title = f"{table.metric} and groups by {down.name} and {across.name}"
    return Picture("map.png", title, figure, caption)


def _map(axes: "Axes", table: ResultTable, down: Field, across: Field, metric: str) -> None:
    values = np.full((len(down.labels), len(across.labels)), np.nan)
    states: dict[tuple[int, int], str] = {}
    for row, y, x in zip(table.rows, down.ranks(table.rows), across.ranks(table.rows), strict=True):
        if points := row.found.get(metric):
            values[y, x] = mean(points.values())
        elif state := state_of(row):
            states[y, x] = state
    known = values[~np.isnan(values)]
    norm = Normalize(known.min(), known.max())
    axes.imshow(values, cmap=SCALE, aspect="auto", norm=norm)
    axes.set_xticks(*some_labels(across))
    axes.set_yticks(*some_labels(down))
    if any(len(label) > 6 for label in across.labels) and len(across.labels) > 3:
        axes.tick_params(axis="x", rotation=45)
    axes.set_xlabel(named(across.name))
    axes.set_ylabel(named(down.name))
    if values.size <= _MOST_TEXTS:
        for (y, x), value in np.ndenumerate(values):
            if not np.isnan(value):
                dark = float(norm(value)) < 0.6
                axes.text(
                    x,
                    y,
                    f"{round(float(value), 1) + 0.0:.1f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if dark else "black",
                )
    for (y, x), state in states.items():
        axes.add_patch(
            Rectangle(
                (x - 0.5, y - 0.5), 1, 1, fill=False, hatch="///", edgecolor="#bbbbbb", linewidth=0
            )
        )
        if values.size <= _MOST_TEXTS:
            axes.text(x, y, state, ha="center", va="center", fontsize=7, color=STATES[state][0])


def _dots(table: ResultTable, down: Field, across: Field) -> Picture:
    """A dot for each row, coloured by its points."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    plain_axes(axes)
    xs, ys = _on(axes, across, table.rows, "x"), _on(axes, down, table.rows, "y")
    done = [n for n, row in enumerate(table.rows) if row.found.get(table.metric)]
    points = [mean(table.rows[n].found[table.metric].values()) for n in done]
    drawn = axes.scatter(xs[done], ys[done], 60, points, cmap=SCALE, edgecolors="#333333")
    figure.colorbar(drawn, label=f"{table.metric} (points)")
    _mark_states(axes, table, xs, ys)
    best, word = best_row(table)
    if best is not None:
        n = next(place for place, row in enumerate(table.rows) if row is best)
        axes.plot(xs[n], ys[n], "*", color=COLOURS[1], markersize=18, label=word, zorder=5)
    axes.set_xlabel(named(across.name))
    axes.set_ylabel(named(down.name))
    legend_below(figure, axes)
    title = f"{table.metric} by {down.name} and {across.name}"
    return Picture("map.png", title, figure)


def _on(axes: "Axes", field: Field, rows: Sequence[Row], which: str) -> Any:
    """Places of rows (R,) on an axis, which is set up for the field's values."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    if field.numeric and not field.gaps:
        if field.logarithmic:
            (axes.set_xscale if which == "x" else axes.set_yscale)("log")
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        return field.places(rows)
    places, texts = some_labels(field)
    axis.set_ticks(places, texts)
    return np.array(field.ranks(rows), dtype=float)


def _mark_states(axes: "Axes", table: ResultTable, xs: Any, ys: Any) -> None:
    for state, (colour, marker) in STATES.items():
        places = [n for n, row in enumerate(table.rows) if state_of(row) == state]
        if places:
            axes.plot(xs[places], ys[places], marker, color=colour, linestyle="", label=state)
