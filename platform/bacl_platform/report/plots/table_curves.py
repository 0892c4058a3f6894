"""Points by the one number that rows differ in, and gains beside the paper's.

S seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bacl_platform.report.plots.fields import PAPER, STATES, Field, best_row, fields, state_of
from bacl_platform.report.plots.registry import Page, Picture, plot
from bacl_platform.report.plots.style import COLOURS, named, plain_axes
from bacl_platform.report.result_table.gains import first_row, gains, papers_gain
from bacl_platform.report.result_table.rows import ResultTable, Row
from bacl_platform.report.result_table.statistics import interval


def _one_number(table: ResultTable) -> Field | None:
    """The field that varies, where it is the only one and a number in all rows."""
    varied = fields(table)
    alone = len(varied) == 1 and varied[0].numeric and not varied[0].gaps
    return varied[0] if alone else None


@plot(Page.TABLE)
def curves(table: ResultTable) -> Picture | None:
    """Points by the one number that varies, in a panel for each metric of the ranking metric's
    family, beside the paper's where these compare."""
    field = _one_number(table)
    if field is None:
        return None

    def ours(row: Row, metric: str) -> Sequence[float]:
        return list(row.found.get(metric, {}).values())

    theirs = None
    if table.paper is not None and not table.paper.unlike:
        theirs = {(n, m): v for n, row in enumerate(table.rows) for m, v in row.paper.items()}
    figure = _curves(table, field, ours, theirs, "points")
    title = f"{table.metric} and groups by {field.name}"
    return None if figure is None else Picture("curve.png", title, figure, _caption(table))


@plot(Page.TABLE)
def gain_curves(table: ResultTable) -> Picture | None:
    """Gains over the table's first row by the one number that varies, ours and the paper's; None
    where points themselves compare."""
    field, first = _one_number(table), first_row(table)
    if field is None or first is None or table.paper is None or not table.paper.unlike:
        return None

    def ours(row: Row, metric: str) -> Sequence[float]:
        own = gains(table, row, metric, first)
        return own[:1] if row is first else own

    theirs = {}
    for number, row in enumerate(table.rows):
        for metric in row.paper:
            if (value := papers_gain(row, metric, first)) is not None:
                theirs[number, metric] = value
    label = f"gain over {named(first.label)}"
    figure = _curves(table, field, ours, theirs, label, "the paper's, on its own data")
    caption = f"{_caption(table)} {table.paper.unlike}.".strip()
    title = f"Gains by {field.name} beside the paper's"
    return None if figure is None else Picture("gain_curve.png", title, figure, caption)


def _caption(table: ResultTable) -> str:
    several = any(row.seeds > 1 for row in table.rows)
    return (
        "Bars are 95 % intervals over seeds (of two seeds: the two), dots are seeds."
        if several
        else ""
    )


def _curves(
    table: ResultTable,
    field: Field,
    ours: Callable[[Row, str], Sequence[float]],
    theirs: Mapping[tuple[int, str], float] | None,
    label: str,
    papers: str = "the paper's",
) -> Figure | None:
    """Panels by metric. ours: values (S,) of a row. theirs: the paper's by row and metric."""
    places = field.places(table.rows)
    order = np.argsort(places, kind="stable")
    metrics = [m for m in table.family if any(ours(row, m) for row in table.rows)]
    if not metrics or len(places) < 2:
        return None
    lines = -(-len(metrics) // 2)
    figure = Figure(figsize=(8, 1 + 2.4 * lines), layout="constrained")
    panels = figure.subplots(lines, min(2, len(metrics)), sharex=True, squeeze=False).flat
    best, word = best_row(table)
    seen: dict[str, Any] = {}
    for axes, metric in zip(panels, metrics):
        plain_axes(axes)
        if theirs is not None:
            known = [n for n in order if (n, metric) in theirs]
            drawn = axes.plot(places[known], [theirs[n, metric] for n in known], "o--", color=PAPER)
            seen |= {papers: drawn[0]} if known else {}
        done = [n for n in order if ours(table.rows[n], metric)]
        of_rows = [ours(table.rows[n], metric) for n in done]
        middle = [mean(values) for values in of_rows]
        seen["ours"] = axes.plot(places[done], middle, "o-", color=COLOURS[0])[0]
        for x, values in zip(places[done], of_rows):
            if len(values) > 1:
                low, high = interval(values) or (min(values), max(values))
                axes.plot([x, x], [low, high], color=COLOURS[0], linewidth=1.2)
                axes.plot([x] * len(values), values, ".", color="#222222", markersize=3)
        for n, row in enumerate(table.rows):
            if exact := list(row.exact.get(metric, {}).values()):
                seen["exact"] = axes.plot(places[n], mean(exact), "D", color="black")[0]
            if row is best and metric == table.metric and n in done:
                seen[word] = axes.plot(
                    places[n], middle[done.index(n)], "*", color=COLOURS[2], markersize=14, zorder=5
                )[0]
        for n in order:
            if state := state_of(table.rows[n]):
                colour, marker = STATES[state]
                seen[state] = axes.plot(
                    places[n],
                    0.04,
                    marker,
                    color=colour,
                    linestyle="",
                    transform=axes.get_xaxis_transform(),
                    clip_on=False,
                )[0]
        if field.logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        ticks = _apart(sorted(set(places)), field.logarithmic)
        axes.set_xticks(ticks, [f"{value:.3g}" for value in ticks])
        axes.set_title(metric)
        axes.set_xlabel(named(field.name), fontsize=8)
        axes.set_ylabel(label, fontsize=8)
        axes.margins(y=0.15)
        axes.tick_params(labelbottom=True)
    for axes in list(panels)[len(metrics) :]:
        axes.set_visible(False)
    if len(seen) > 1:
        figure.legend(
            list(seen.values()), list(seen), loc="outside lower center", ncols=5, frameon=False
        )
    return figure


def _apart(values: Sequence[float], logarithmic: bool) -> list[float]:
    """Of rising values, those that have room for their labels."""
    turned = np.log(values) if logarithmic else np.asarray(values)
    least = (turned[-1] - turned[0]) / (6 if logarithmic else 9)
    kept = [0]
    for place in range(1, len(values)):
        if turned[place] - turned[kept[-1]] >= least:
            kept.append(place)
    return [values[place] for place in kept]
