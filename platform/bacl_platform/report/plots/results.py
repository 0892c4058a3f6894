"""The pictures of a report: AP by group, variant and training count, weight norms, training curves.

C categories, S seeds, T logged steps.
"""

from itertools import pairwise
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from bacl.inspection import weight_norms_of
from bacl_platform.analysis.results import Report
from bacl_platform.plan.job import Job
from bacl_platform.plan.metric_names import group_precision, owner
from bacl_platform.report.plots.registry import Page, Picture, plot
from bacl_platform.report.plots.style import (
    COLOURS,
    DASHES,
    HATCHES,
    MOST_NAMES,
    SHADES,
    categories_text,
    colour_of,
    legend_below,
    line_style,
    name_groups,
    named,
    one_panel,
    over_seeds,
    plain_axes,
    shade_groups,
    spoken,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GROUP_COLOURS = ("#253494", "#2c7fb8", "#41b6c4", "#a1dab4")
"""Colours of the groups' bars: one scale, which no variant's colour is mistaken for."""
_LEAST_POINTS = 50
"""Points of a training curve; where there are twice as many, neighbours are averaged."""


def _kinds(report: Report) -> list[str]:
    """AP and mask_AP, without those that no category has."""
    return [kind for kind in report.kinds if any(_counts(report, kind).values())]


def _stages(report: Report) -> list[str]:
    """The stages that train variants."""
    training = [job for job in report.finished if job.variants and not job.only_evaluated]
    return list(dict.fromkeys(job.stage for job in training))


@plot(Page.RESULTS, each=_kinds)
def ap_by_group(report: Report, kind: str = "AP") -> Picture:
    """Bars of AP in points for all categories and each group; error bars are one standard
    deviation over seeds. kind: AP or mask_AP."""
    names = report.variants
    counts = _counts(report, kind)
    groups = [(kind, f"all\n{categories_text(sum(counts.values()))}")]
    groups += [
        (group_precision(g, kind), f"{report.groups[g]}\n{categories_text(n)}")
        for g, n in counts.items()
        if n
    ]
    figure, axes = one_panel(4.5)
    width = 0.84 / len(names)
    for number, name in enumerate(names):
        values = [[100 * v for v in report.values(name, metric)] for metric, _ in groups]
        centres = np.arange(len(groups)) + (number - (len(names) - 1) / 2) * width
        heights = [mean(v) if v else 0 for v in values]
        bars = axes.bar(
            centres,
            heights,
            width * 0.94,
            label=named(name),
            color=colour_of(names, name),
            hatch=HATCHES[number // len(COLOURS) % len(HATCHES)],
            edgecolor="white",
            linewidth=0,
        )
        deviations = [stdev(v) if len(v) > 1 else 0 for v in values]
        if any(deviations):
            axes.errorbar(
                centres, heights, deviations, fmt="none", ecolor="#333333", elinewidth=1, capsize=2
            )
        if len(names) <= 6:
            texts = [f"{h:.1f}" if v else "–" for h, v in zip(heights, values)]
            for bar, height, deviation, text in zip(bars, heights, deviations, texts):
                middle = bar.get_x() + bar.get_width() / 2
                axes.annotate(
                    text,
                    (middle, height + deviation),
                    (0, 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7.5,
                )
    axes.set_xticks(range(len(groups)), [label for _, label in groups])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(f"{spoken(kind)} (points)")
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.1)
    axes.set_title(f"{spoken(kind)} by frequency group{over_seeds(report)}")
    legend_below(figure, axes)
    return Picture(f"{kind.lower()}_by_group.png", f"{spoken(kind)} by frequency group", figure)


@plot(Page.RESULTS, each=_kinds)
def ap_by_variant(report: Report, kind: str = "AP") -> Picture:
    """For each variant a bar of AP in points for each group, fewest first; error bars are one
    standard deviation over seeds. kind: AP or mask_AP."""
    names = report.variants
    groups = {group: count for group, count in _counts(report, kind).items() if count}
    figure, axes = one_panel(max(3, 1.6 + 0.17 * len(names) * (len(groups) + 0.8)))
    width = 0.82 / max(len(groups), 1)
    for number, (group, count) in enumerate(groups.items()):
        metric = group_precision(group, kind)
        values = [[100 * v for v in report.values(name, metric)] for name in names]
        centres = np.arange(len(names)) + (number - (len(groups) - 1) / 2) * width
        lengths = [mean(v) if v else 0 for v in values]
        axes.barh(
            centres,
            lengths,
            width * 0.92,
            label=f"{report.groups[group]} ({categories_text(count)})",
            color=_GROUP_COLOURS[number % len(_GROUP_COLOURS)],
        )
        deviations = [stdev(v) if len(v) > 1 else 0 for v in values]
        if any(deviations):
            axes.errorbar(
                lengths,
                centres,
                xerr=deviations,
                fmt="none",
                ecolor="#333333",
                elinewidth=1,
                capsize=2,
            )
        for centre, length, deviation, seeds in zip(centres, lengths, deviations, values):
            axes.annotate(
                f"{length:.1f}" if seeds else "–",
                (length + deviation, centre),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
    axes.set_yticks(range(len(names)), list(map(named, names)))
    axes.set_ylim(len(names) - 0.5, -0.5)  # the first variant at the top
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"{spoken(kind)} (points)")
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.08)
    axes.set_title(f"{spoken(kind)} of each variant by frequency group{over_seeds(report)}")
    legend_below(figure, axes)
    return Picture(
        f"{kind.lower()}_by_variant.png",
        f"{spoken(kind)} of each variant by frequency group",
        figure,
    )


def _counts(report: Report, kind: str) -> dict[str, int]:
    """How many categories of each group are evaluated."""
    rows = [row for row in report.results[0].categories if row[kind] is not None]
    return {group: sum(row["frequency"] == group for row in rows) for group in report.groups}


@plot(Page.RESULTS, each=_kinds)
def ap_by_count(report: Report, kind: str = "AP") -> Picture:
    """A dot for each category and variant: AP in points (mean over seeds) by how often the
    training split shows the category; a line through the means of half decades."""
    groups = report.prepared.groups
    rows = report.results[0].categories
    known = [label for label, row in enumerate(rows) if row[kind] is not None]
    counts = np.array([int(rows[k][f"{groups.by.removesuffix('s')}_count"]) for k in known])
    bins = np.floor(2 * np.log10(np.maximum(counts, 0.5)))
    figure, axes = one_panel(4.8)
    axes.set_xscale("symlog", linthresh=1, linscale=0.3)
    start = min(0.7, counts.min(initial=1) - 0.3)
    end = counts.max(initial=1) * 1.3
    edges = [start, *(min(bound + 0.5, end) for bound in groups.bounds), end]
    for number, (low, high) in enumerate(pairwise(edges)):
        axes.axvspan(low, high, color=SHADES[number % len(SHADES)], linewidth=0, zorder=0)
    for name in report.variants:
        values = [[result.categories[k][kind] for k in known] for result in report.of(name)]
        ap = 100 * np.mean(np.array(values, dtype=float), axis=0)
        style = line_style(report.variants, name)
        axes.scatter(counts, ap, 14, style["color"], alpha=_dot_strength(report), linewidths=0)
        means = [(counts[bins == b].mean(), ap[bins == b].mean()) for b in np.unique(bins)]
        axes.plot(*zip(*means), label=named(name), **style, linewidth=1.5)
    axes.set_xlim(start, end)
    axes.xaxis.set_major_formatter("{x:g}")
    for word, low, high in zip(report.groups.values(), edges, edges[1:]):
        if low < high:
            middle = np.sqrt(max(low, 0.7) * high)
            axes.text(middle, 1.01, word, transform=axes.get_xaxis_transform(), ha="center")
    axes.set_xlabel(f"training {groups.by} of the category")
    axes.set_ylabel(f"{spoken(kind)} (points)")
    axes.set_title(f"{spoken(kind)} by training {groups.by}{over_seeds(report)}", pad=20)
    legend_below(figure, axes)
    return Picture(
        f"{kind.lower()}_by_count.png",
        f"{spoken(kind)} by how often training shows a category",
        figure,
    )


def _dot_strength(report: Report) -> float:
    """Opacity of dots that are fainter the more there are."""
    dots = len(report.variants) * len(report.results[0].categories)
    return float(np.clip(120 / dots, 0.2, 0.6))


@plot(Page.RESULTS)
def weight_norms(report: Report) -> Picture | None:
    """L2 norm of each category's classifier weights, most training instances first (Fig. 5).

    Mean over seeds, read from the exported checkpoints. Cascades, which have several classifiers,
    are left out. None of files, which are no detectors.
    """
    if all(result.checkpoint is None for result in report.results):
        return None
    categories = report.results[0].categories
    instances = np.array([int(c["instance_count"]) for c in categories])
    order = np.argsort(-instances, kind="stable")
    figure = Figure(figsize=(8, 6 if len(order) <= MOST_NAMES else 5), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    groups = [categories[label]["frequency"] for label in order]
    for shown in (axes, below):
        plain_axes(shown)
        shade_groups(shown, groups, list(report.groups))
    name_groups(axes, groups, report.groups)
    width = 1.5 if len(order) <= MOST_NAMES else 0.9
    for name in report.variants:
        norms = [weight_norms_of(r.checkpoint, len(order)) for r in report.of(name) if r.checkpoint]
        found = [values for values in norms if values is not None]
        if found:
            style = line_style(report.variants, name)
            axes.plot(np.mean(found, axis=0)[order], label=named(name), **style, linewidth=width)
    axes.margins(y=0.12)  # room for the groups' names
    axes.set_ylim(bottom=0)
    axes.set_ylabel("L2 norm of the weights")
    axes.set_title(f"Classifier weight norm per category{over_seeds(report)}")
    below.bar(range(len(order)), instances[order], width=1, color="#777777")
    below.set_yscale("symlog", linthresh=1)
    below.yaxis.set_major_formatter("{x:g}")
    below.set_ylabel("training\ninstances")
    below.set_xlim(-0.5, len(order) - 0.5)
    if len(order) <= MOST_NAMES:
        names = [named(categories[k]["name"]) for k in order]
        below.set_xticks(range(len(order)), names, rotation=90, fontsize=7)
    below.set_xlabel("categories, most training instances first")
    legend_below(figure, axes)
    return Picture("weight_norms.png", "Classifier weight norm per category", figure)


@plot(Page.RESULTS, each=_stages)
def training(report: Report, stage: str) -> Picture:
    """A stage's losses and learning rate by step, means over seeds.

    The trunk's losses are those of the stage's first group of variants: groups share what they
    train the trunk on.
    """
    jobs = [job for job in report.finished if job.stage == stage]
    variants = list(dict.fromkeys(name for job in jobs for name in job.variants))
    first = [job for job in jobs if list(job.variants) == list(jobs[0].variants)]
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, trunk, rate = figure.subplot_mosaic(
        [["above", "above"], ["trunk", "rate"]], height_ratios=[3, 2]
    ).values()
    for axes in (above, trunk, rate):
        plain_axes(axes)
    for name in variants:
        mine = [job for job in jobs if name in job.variants]
        _curve(above, *_losses(report, mine, name), named(name), line_style(report.variants, name))
    above.set_title(f"Training of {stage}{over_seeds(report)}: classification loss")
    for number, loss in enumerate(_trunk_losses(report, first)):
        label = loss.removeprefix("loss_").replace("_", " ")
        style = {"color": "#555555", "linestyle": DASHES[number % len(DASHES)]}
        _curve(trunk, *_scalar(report, first, loss), label, style)
    trunk.set_title("trunk losses")
    steps, rates = _scalar(report, first, "lr")
    rate.plot(steps, rates, color="#555555")
    rate.set_ylim(bottom=0)
    rate.set_title("learning rate")
    window = _window(len(steps))
    for axes in (above, trunk):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel("loss" if window == 1 else f"loss (mean of {window} logged)")
    for axes in (trunk, rate):
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
        axes.set_xlabel("step")
    if trunk.lines:
        trunk.legend(frameon=False, fontsize=8)
    legend_below(figure, above)
    return Picture(f"training_{stage}.png", f"Training of {stage}", figure)


def _trunk_losses(report: Report, jobs: list[Job]) -> list[str]:
    names = dict.fromkeys(name for row in report.scalars[jobs[0].key] for name in row)
    return [
        name
        for name in names
        if "loss" in name
        and name != "loss"
        and "/" not in name  # a metric of a variant whose name has `loss` in it
        and name.partition(".")[0] not in jobs[0].variants
    ]


def _curve(
    axes: "Axes", steps: NDArray[Any], values: NDArray[Any], label: str, style: dict[str, Any]
) -> None:
    """Draw values (T,) by step, as a running mean when there are many; nothing where there are
    none."""
    if not len(steps):
        return
    window = _window(len(steps))
    smooth, middle = (
        np.convolve(series, np.full(window, 1 / window), "valid") for series in (values, steps)
    )
    axes.plot(middle, smooth, label=label, **style)


def _window(steps: int) -> int:
    """Logged steps that a point of a curve is the mean of."""
    return max(1, steps // _LEAST_POINTS)


def _scalar(report: Report, jobs: list[Job], name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Steps (T,) that all jobs logged the scalar at, and the means of its values over jobs (T,)."""
    return _means(
        [{row["step"]: row[name] for row in report.scalars[j.key] if name in row} for j in jobs]
    )


def _losses(report: Report, jobs: list[Job], variant: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Steps and values of a variant's loss: its parts, and the stages of a cascade, together."""
    series: list[dict[float, float]] = []
    for job in jobs:
        series.append({})
        for row in report.scalars[job.key]:
            owners = {name: owner(name, job) for name in row}
            parts = [row[n] for n, (v, what) in owners.items() if v == variant and "loss" in what]
            if parts:
                series[-1][row["step"]] = sum(parts)
    return _means(series)


def _means(series: list[dict[float, float]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Steps (T,) that all series have, and the means of their values (T,)."""
    steps = sorted(set.intersection(*(set(values) for values in series)))
    return np.array(steps), np.array([mean(values[step] for values in series) for step in steps])
