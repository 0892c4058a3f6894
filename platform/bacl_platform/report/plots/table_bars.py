"""Bars of a table's rows: points by metric, and gains beside the paper's.

R rows, S seeds.
"""

from collections.abc import Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bacl_platform.report.plots.fields import (
    PAPER,
    STATES,
    Field,
    best_row,
    fields,
    row_label,
    shown_rows,
    state_of,
)
from bacl_platform.report.plots.registry import Page, Picture, plot
from bacl_platform.report.plots.style import COLOURS, plain_axes
from bacl_platform.report.result_table.gains import first_row, gains, papers_gain
from bacl_platform.report.result_table.rows import VARIANT, ResultTable, Row
from bacl_platform.report.result_table.statistics import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_ROWS = 40
_INTERVALS = "Lines are 95 % intervals over seeds (of two seeds: the two), dots are seeds."


@plot(Page.TABLE)
def rows_by_metric(table: ResultTable) -> Picture | None:
    """A bar for each row in a panel for each metric of the ranking metric's family, and the paper's
    points where they compare; None of numbers alone, which curves, maps and lines show."""
    varied = fields(table)
    theirs = table.paper is not None and not table.paper.unlike
    if len(varied) == 1 and varied[0].numeric and not varied[0].gaps:
        return None
    if _all_numbers(varied) and not theirs:
        return None
    rows, left_out = shown_rows(table, _MOST_ROWS)
    metrics = [metric for metric in table.family if any(metric in row.found for row in rows)]
    if len(rows) < 2 or not metrics:
        return None
    figure, panels = _panels(table, rows, varied, metrics)
    best, word = best_row(table)
    for axes, metric in zip(panels, metrics, strict=True):
        for place, row in enumerate(rows):
            own = list(row.found.get(metric, {}).values())
            is_best = row is best and metric == table.metric
            colour = COLOURS[2] if is_best else COLOURS[0]
            height = 0.8 if not theirs else 0.4
            exact = list(row.exact.get(metric, {}).values())
            _bar(axes, place - (0.2 if theirs else 0), own, height, colour, exact)
            if theirs and (points := row.paper.get(metric)) is not None:
                axes.barh(place + 0.2, points, 0.36, color=PAPER)
            _say_state(axes, place - (0.2 if theirs else 0), row)
        axes.set_xlim(left=min(0, axes.get_xlim()[0]))
        axes.set_title(metric)
    names = {COLOURS[0]: "replayed" if table.screened else "ours"}
    names |= {COLOURS[2]: word} if best is not None else {}
    names |= {PAPER: "the paper's"} if theirs else {}
    _legend(figure, names, diamond="exact" if any(row.exact for row in rows) else "")
    _head(figure, table, varied, "points")
    caption = " ".join(filter(None, [_INTERVALS if _repeated(rows) else "", left_out]))
    return Picture("rows.png", f"{table.metric} and groups by row", figure, caption)


@plot(Page.TABLE)
def gains_of_rows(table: ResultTable) -> Picture | None:
    """Our gains over the table's first row beside the paper's, a panel for each metric; None where
    points themselves compare, and of a number that varies, which a curve shows."""
    varied, first = fields(table), first_row(table)
    if table.paper is None or not table.paper.unlike or first is None:
        return None
    if len(varied) == 1 and varied[0].numeric and not varied[0].gaps:
        return None
    all_rows = [row for row in table.rows if row.paper or row.found]
    metrics = [m for m in table.family if any(m in row.paper for row in all_rows)]
    rows = all_rows[:_MOST_ROWS]
    if len(rows) < 2 or not metrics:
        return None
    figure, panels = _panels(table, rows, varied, metrics)
    best, word = best_row(table)
    for axes, metric in zip(panels, metrics, strict=True):
        for place, row in enumerate(rows):
            if row is not first:
                colour = COLOURS[2] if row is best and metric == table.metric else COLOURS[0]
                _bar(axes, place - 0.2, gains(table, row, metric, first), 0.4, colour)
            else:
                _say(axes, place, "first row", "#777777")
            if (points := papers_gain(row, metric, first)) is not None:
                axes.barh(place + 0.2, points, 0.36, color=PAPER)
            _say_state(axes, place - 0.2, row)
        axes.axvline(0, color="#333333", linewidth=0.8)
        axes.set_title(metric)
    names = {COLOURS[0]: "ours"} | ({COLOURS[2]: word} if best in rows else {})
    _legend(figure, {**names, PAPER: "the paper's, on its own data"})
    _head(figure, table, varied, f"gain over {row_label(table, first, varied)}, in points")
    said = [_INTERVALS if _repeated(rows) else "", f"{table.paper.unlike}."]
    return Picture("gains.png", "Gains beside the paper's", figure, " ".join(filter(None, said)))


def _all_numbers(varied: Sequence[Field]) -> bool:
    """Whether rows are points of a space of several numbers, which lines show better."""
    return len(varied) > 1 and all(field.numeric for field in varied)


def _repeated(rows: Sequence[Row]) -> bool:
    return any(row.seeds > 1 for row in rows)


def _panels(
    table: ResultTable, rows: Sequence[Row], varied: Sequence[Field], metrics: Sequence[str]
) -> tuple[Figure, list["Axes"]]:
    """Panels side by side that share the rows' labels, the first row at the top."""
    figure = Figure(figsize=(8, max(2.4, 1.5 + 0.3 * len(rows))), layout="constrained")
    panels = list(figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0])
    for axes in panels:
        plain_axes(axes)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(3))
    panels[0].set_yticks(
        range(len(rows)), [row_label(table, row, varied) for row in rows], fontsize=8
    )
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure, panels


def _head(figure: Figure, table: ResultTable, varied: Sequence[Field], what: str) -> None:
    """What bars and rows are, at the top."""
    names = " · ".join(field.name for field in varied)
    rows = f"; rows: {names}" if names and table.fields != [VARIANT] else ""
    figure.suptitle(
        f"{what[0].upper()}{what[1:]}{rows}", x=0.01, ha="left", fontsize=8.5, color="#444444"
    )


def _bar(
    axes: "Axes",
    place: float,
    values: Sequence[float],
    height: float,
    colour: str,
    exact: Sequence[float] = (),
) -> None:
    """A bar to the mean of values (S,), with its interval and the values themselves.

    exact: values of the same row trained exactly, whose mean is a diamond.
    """
    if not values:
        return
    middle = mean(values)
    axes.barh(place, middle, height * 0.9, color=colour)
    end = middle
    if len(values) > 1:
        low, high = interval(values) or (min(values), max(values))
        axes.plot([low, high], [place, place], color="#222222", linewidth=1)
        axes.plot(values, [place] * len(values), ".", color="#222222", markersize=2.5)
        end = max(high, *values) if middle >= 0 else min(low, *values)
    if exact:
        axes.plot(mean(exact), place, "D", color="black", markersize=4, zorder=4)
        end = max(end, mean(exact))
    axes.annotate(
        f"{round(middle, 1) + 0.0:.1f}",
        (end, place),
        ((5 if exact else 3) if middle >= 0 else -3, 0),
        textcoords="offset points",
        ha="left" if middle >= 0 else "right",
        va="center",
        fontsize=6.5,
    )
    axes.margins(x=0.22)


def _say_state(axes: "Axes", place: float, row: Row) -> None:
    """Why a row has no bar."""
    if state := state_of(row):
        _say(axes, place, state if row.state != "-" else "not in ours", STATES[state][0])


def _say(axes: "Axes", place: float, word: str, colour: str) -> None:
    looks: dict[str, Any] = {"va": "center", "fontsize": 6.5, "color": colour}
    axes.annotate(word, (0, place), (3, 0), textcoords="offset points", **looks)


def _legend(figure: Figure, names: dict[str, str], diamond: str = "") -> None:
    """What the colours of bars are, where there are several."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Patch | Line2D] = [Patch(color=c, label=name) for c, name in names.items()]
    if diamond:
        handles.append(Line2D([], [], marker="D", color="black", linestyle="", label=diamond))
    if len(handles) > 1:
        figure.legend(handles=handles, loc="outside lower right", ncols=4, frameon=False)
