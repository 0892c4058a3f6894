"""Points by three or more fields that rows differ in: lines across parallel axes.

R rows.
"""

from collections.abc import Sequence
from itertools import pairwise
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

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
from bacl_platform.report.result_table.rows import ResultTable, Row
from bacl_platform.texts import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@plot(Page.TABLE)
def parallel_axes(table: ResultTable) -> Picture | None:
    """A line for each row across an axis for each field that varies and one for its points, by
    which it is coloured; None of fewer than three fields."""
    varied = fields(table)
    done = [row for row in table.rows if row.found.get(table.metric)]
    if len(varied) < 3 or len(done) < 2:
        return None
    points = [mean(row.found[table.metric].values()) for row in done]
    low, high = min(points), max(points)
    norm = Normalize(low, high if high > low else low + 1)
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.set_xlim(-0.15, len(varied) + 0.15)
    axes.set_ylim(-0.08, 1.08)
    axes.set_axis_off()
    heights = np.stack([_heights(field, table.rows, table) for field in varied], axis=1)
    best, word = best_row(table)
    seen: dict[str, Any] = {}
    end = {id(row): float(norm(value)) for row, value in zip(done, points, strict=True)}
    sign = 1 if table.mode == "max" else -1
    order = sorted(range(len(table.rows)), key=lambda n: sign * end.get(id(table.rows[n]), -sign))
    strength = float(np.clip(40 / len(table.rows), 0.35, 0.9))
    for n in order:
        row = table.rows[n]
        state = state_of(row)
        whole = [*heights[n], *([end[id(row)]] if id(row) in end else [])]
        colour = colormaps[SCALE](end[id(row)]) if id(row) in end else STATES[state or "to run"][0]
        style: dict[str, Any] = {"linewidth": 1.4, "alpha": strength}
        if id(row) not in end:
            style = {"linewidth": 1.0, "alpha": 0.7, "linestyle": (0, (3, 2))}
        if row is best:
            axes.add_patch(_line(whole, edgecolor="black", linewidth=5))
            style = {"linewidth": 3.0, "alpha": 1.0}
        line = axes.add_patch(_line(whole, edgecolor=colour, **style))
        if id(row) not in end:
            seen.setdefault(state or "without it", line)
        elif row is best:
            seen[word] = line
    for place, field in enumerate(varied):
        letters = max(_LEAST_LETTERS, _WIDTH // (len(varied) + 1))
        ticks = _ticks(field, table.rows, letters)
        _axis(axes, place, shortened(field.name, letters + 4), ticks)
    ticks = [(float(norm(v)), f"{v:.1f}") for v in np.linspace(low, high, 5 if high > low else 1)]
    kind = " (replayed)" if table.screened else ""
    _axis(axes, len(varied), f"{table.metric}{kind}", ticks, right=True)
    if seen:
        handles = list(seen.values())
        figure.legend(handles, list(seen), loc="outside lower center", ncols=5, frameon=False)
    caption = (
        "Values are those that trials began with; the table says with which they ended."
        if any(row.ended for row in table.rows)
        else ""
    )
    title = f"{table.metric} across all values"
    return Picture("values.png", title, figure, caption)


_WIDTH = 90
"""Letters that fit between the first axis and the last."""
_LEAST_LETTERS = 9
_ABSENT = -0.05
"""Height at which a row stands that has no number of a field."""


def _scaled(field: Field, values: Any, rows: Sequence[Row]) -> Any:
    """Heights 0..1 of numbers on the field's axis."""
    known = field.places(rows)
    known = known[~np.isnan(known)]
    turned = np.log if field.logarithmic else np.asarray
    low, high = turned(known.min()), turned(known.max())
    return (turned(np.asarray(values, dtype=float)) - low) / (high - low)


def _heights(field: Field, rows: Sequence[Row], table: ResultTable) -> Any:
    """Where rows (R,) cross the field's axis, 0..1; those of one choice side by side, the best on
    top."""
    if field.numeric:
        heights = _scaled(field, field.places(rows), rows)
        return np.where(np.isnan(heights), _ABSENT, heights)
    ranks = np.array(field.ranks(rows), dtype=float)
    share = 1 / max(1, len(field.labels) - 1)
    points = [mean((row.found.get(table.metric) or {0: -np.inf}).values()) for row in rows]
    made = np.zeros(len(rows))
    for rank in set(ranks):
        own = sorted(np.flatnonzero(ranks == rank), key=lambda n: points[n])
        reach = min(0.06, 0.3 * share)
        made[own] = rank * share + (np.linspace(-reach, reach, len(own)) if len(own) > 1 else 0)
    return made


def _ticks(field: Field, rows: Sequence[Row], letters: int) -> list[tuple[float, str]]:
    if not field.numeric:
        share = 1 / max(1, len(field.labels) - 1)
        places, texts = some_labels(field, letters)
        return [(place * share, text) for place, text in zip(places, texts, strict=True)]
    absent = [(_ABSENT, field.labels[0])] if field.gaps else []
    numbers = np.unique(field.places(rows))
    numbers = numbers[~np.isnan(numbers)]
    if len(numbers) > 6:
        between = np.geomspace if field.logarithmic else np.linspace
        numbers = between(numbers[0], numbers[-1], 5)
    heights = _scaled(field, numbers, rows)
    return [*absent, *((float(h), f"{v:.3g}") for h, v in zip(heights, numbers, strict=True))]


def _line(heights: Sequence[float], **style: Any) -> PathPatch:
    """A smooth line through heights, one at each axis."""
    points = [(0.0, heights[0])]
    codes = [Path.MOVETO]
    for place, (left, right) in enumerate(pairwise(heights)):
        points += [(place + 0.4, left), (place + 0.6, right), (place + 1.0, right)]
        codes += [Path.CURVE4] * 3
    return PathPatch(Path(points, codes), facecolor="none", **style)


def _axis(
    axes: "Axes", place: int, name: str, ticks: Sequence[tuple[float, str]], right: bool = False
) -> None:
    axes.plot([place, place], [-0.07 if ticks and ticks[0][0] < 0 else 0, 1], color="#333333")
    axes.text(place, 1.07, name, ha="center", va="bottom", fontsize=9)
    for height, text in ticks:
        axes.plot([place - 0.015, place + 0.015], [height, height], color="#333333", linewidth=0.8)
        axes.annotate(
            text,
            (place, height),
            (5 if right else -5, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=7.5,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
            zorder=4,
        )
