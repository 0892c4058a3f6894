"""Pictures of what lies behind the AP of boxes or masks: precision and recall, errors, confusions.

C categories, K kinds of errors, R recall thresholds.
"""

from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bacl.inspection import confusions_of
from bacl_platform.analysis.error_types import KINDS, Confusion
from bacl_platform.analysis.matching import RECALLS
from bacl_platform.analysis.profiles import Analysis, featured
from bacl_platform.analysis.results import Report, Result
from bacl_platform.plan.metric_names import group_precision
from bacl_platform.report.plots.registry import Page, Picture, plot
from bacl_platform.report.plots.style import (
    MOST_NAMES,
    categories_text,
    legend_below,
    line_style,
    named,
    over_seeds,
    plain_axes,
)
from bacl_platform.store.names import CHECKPOINT

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_ERROR_COLOURS = ("#8c2d04", "#e6842a", "#f3c46d", "#9e9ac8", "#9ecae1", "#3f6f9f")
_MOST_CELLS = 100
"""Rows of a matrix that can be told apart."""


@plot(Page.ERRORS)
def precision_recall(report: Report, analysis: Analysis) -> Picture | None:
    """Mean precision over a group's categories by recall at IoU 0.5, a panel for each group; the
    numbers are AP50 and, in brackets, AP over IoU 0.5 to 0.95. None for a split without boxes."""
    if not analysis.members:
        return None
    profiles = analysis.profiles
    figure, panels = _panels(analysis, 3.3 + 0.17 * len(profiles))
    for axes, (group, labels) in zip(panels, analysis.members.items()):
        for name, profile in profiles.items():
            mean_precision = profile.precision[labels].mean(axis=0)
            aps = report.values(name, group_precision(group, analysis.metric))
            ap = f"{100 * mean(aps):.1f}" if aps else "–"
            text = f"{named(name)} {100 * mean_precision.mean():.1f} ({ap})"
            axes.plot(RECALLS, mean_precision, label=text, **line_style(report.variants, name))
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("recall")
        axes.set_title(f"{report.groups[group]}, {categories_text(len(labels))}", fontsize=10)
        axes.legend(
            title=_titled(analysis, "AP50 (AP)", "mask AP50 (mask AP)"),
            fontsize=7.5,
            title_fontsize=7.5,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.2),
            frameon=False,
        )
    panels[0].set_ylabel(_titled(analysis, "precision at IoU 0.5", "precision at mask IoU 0.5"))
    title = _titled(
        analysis,
        "Precision and recall by frequency group",
        "Precision and recall of masks by frequency group",
    )
    figure.suptitle(f"{title}{over_seeds(report)}")
    return Picture("precision_recall.png", title, figure)


@plot(Page.ERRORS)
def error_gains(report: Report, analysis: Analysis) -> Picture | None:
    """Stacked bars: AP50 in points that a group would gain if the errors of one kind were fixed,
    for each variant. Kinds are fixed one at a time, so bars do not add up to 100 with the AP50."""
    if not analysis.members:
        return None
    profiles = analysis.profiles
    figure, panels = _panels(analysis, 3.4 + 0.05 * max(len(named(name)) for name in profiles))
    for axes, (group, labels) in zip(panels, analysis.members.items()):
        gains = np.array(
            [100 * profile.gain[:, labels].mean(axis=1) for profile in profiles.values()]
        )
        bottom = np.zeros(len(profiles))
        for number, (kind, words) in enumerate(KINDS.items()):
            height = np.maximum(gains[:, number], 0)
            colour = _ERROR_COLOURS[number]
            axes.bar(
                range(len(bottom)), height, 0.75, bottom, color=colour, label=f"{kind}: {words}"
            )
            bottom += height
        axes.set_xticks(range(len(bottom)), list(map(named, profiles)), rotation=90, fontsize=8)
        axes.grid(axis="x", visible=False)
        axes.margins(y=0.08)
        axes.set_title(f"{report.groups[group]}, {categories_text(len(labels))}", fontsize=10)
    panels[0].set_ylabel(
        _titled(analysis, "AP50 gained if fixed (points)", "mask AP50 gained if fixed (points)")
    )
    title = _titled(analysis, "Errors by frequency group", "Errors of masks by frequency group")
    figure.suptitle(f"{title} (TIDE){over_seeds(report)}")
    legend_below(figure, panels[0], 3)
    return Picture("errors.png", title, figure)


@plot(Page.ERRORS)
def confusion_maps(report: Report, analysis: Analysis) -> Picture | None:
    """For some variants, the share of a category's boxes (row) that are taken for each category
    (column) or found by none (last column); most training images first.

    The share is of the boxes that the annotation can judge; grey where there are none. Where there
    are many categories, neighbours of a group are taken together.
    """
    if not analysis.members:
        return None
    bins = _bins(analysis)
    shares = {
        name: binned_shares(analysis.profiles[name].confusion, bins)
        for name in featured(report, 4, analysis.metric)
    }
    of_one, unit = _titled(analysis, "box", "mask"), _titled(analysis, "boxes", "masks")
    figure = _maps(
        analysis,
        bins,
        shares,
        f"the {of_one} is of",
        "the best detection on it says",
        f"share of {unit}",
    )
    subject = _titled(analysis, "Confusion", "Confusion of masks")
    figure.suptitle(f"{subject}, most training images first; lines between frequency groups")
    return Picture("confusion.png", f"{subject} between categories", figure)


@plot(Page.GUIDES)
def indicator_maps(report: Report, analysis: Analysis) -> Picture | None:
    """The confusion matrix M that guided training (Table II, last row), as training left it, of
    variants that have one; None where none has. Over all seeds; a row is the mean over samples."""
    bins = _bins(analysis)
    shown: dict[str, NDArray[Any]] = {}
    for name in featured(report, len(report.variants)):
        tallies = [t for result in report.of(name) if (t := _tally(result)) is not None]
        if tallies and len(shown) < 4:
            shown[name] = _binned_means(np.sum(tallies, axis=0), bins)
    if not shown:
        return None
    figure = _maps(
        analysis, bins, shown, "the box is of", "its foreground softmax says", "mean score"
    )
    figure.suptitle("Confusion matrix M of training, most training images first")
    return Picture("indicator.png", "Confusion matrix M of training", figure)


def _tally(result: Result) -> NDArray[Any] | None:
    """What the indicator of a finished variant has counted, where its bank's checkpoint is kept."""
    if result.key is None:
        return None
    bank = result.folder.parents[1] / CHECKPOINT
    return confusions_of(bank, result.variant, len(result.categories)) if bank.is_file() else None


def _binned_means(tally: NDArray[Any], bins: list[NDArray[Any]]) -> NDArray[Any]:
    """Mean score (len(bins), len(bins)) that a bin's samples give to another's categories."""
    sums = np.array([[tally[np.ix_(row, column)].sum() for column in bins] for row in bins])
    samples = np.array([tally[row, -1].sum() for row in bins])[:, None]
    return np.divide(sums, samples, out=np.full_like(sums, np.nan), where=samples > 0)


def _maps(
    analysis: Analysis,
    bins: list[NDArray[Any]],
    matrices: dict[str, NDArray[Any]],
    down: str,
    across: str,
    unit: str,
) -> Figure:
    """A heat map for each variant: rows are bins, columns too, with one more for `none`.

    down, across: what rows and columns are. unit: what the colours are.
    """
    group_of = [analysis.prepared.categories[labels[0]].frequency for labels in bins]
    borders = [k - 0.5 for k in range(1, len(bins)) if group_of[k] != group_of[k - 1]]
    names = _ticks(analysis, bins)
    size = float(np.clip(170 / len(names), 4, 7))
    columns = min(2, len(matrices))
    lines = -(-len(matrices) // columns)
    figure = Figure(figsize=(8, 0.7 + (7.4 / columns) * lines), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).ravel())
    for axes in panels[len(matrices) :]:
        axes.set_visible(False)
    colours = colormaps["YlGnBu"].with_extremes(bad="#e4e4e4")
    for place, (axes, (name, matrix)) in enumerate(zip(panels, matrices.items())):
        image = axes.imshow(
            matrix, cmap=colours, norm=PowerNorm(0.5, 0, 1), interpolation="nearest", aspect="auto"
        )
        for border in borders:
            axes.axhline(border, color="#D55E00", linewidth=0.8)
            axes.axvline(border, color="#D55E00", linewidth=0.8)
        ticks = dict(names)
        if matrix.shape[1] > len(bins):
            axes.axvline(len(bins) - 0.5, color="#333333", linewidth=0.8)
            ticks[len(bins)] = "none"
        axes.set_xticks(list(ticks), list(ticks.values()), rotation=90, fontsize=size)
        axes.set_yticks(list(names), list(names.values()), fontsize=size)
        axes.tick_params(length=0)
        axes.set_title(named(name), fontsize=10)
        if place % columns == 0:
            axes.set_ylabel(down)
        if place + columns >= len(matrices):
            axes.set_xlabel(across)
    bar = figure.colorbar(image, ax=panels[: len(matrices)], shrink=0.6, aspect=40)
    bar.set_label(unit, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def binned_shares(confusion: Confusion, bins: list[NDArray[Any]]) -> NDArray[Any]:
    """Shares (len(bins), len(bins) + 1) of the boxes of a bin's categories that are called those
    of another; in the last column, those found by none. NaN where nothing could be judged.

    A bin of one category has its counts / judged. Several are pooled: boxes rightly named, and to
    that the mean share of a pair of different categories times the pairs that a box has.
    """
    counts, judged = confusion.counts, confusion.judged
    total = judged.diagonal()
    shares = np.full((len(bins), len(bins) + 1), np.nan)
    for row, labels in enumerate(bins):
        boxes = total[labels].sum()
        if not boxes:
            continue
        shares[row, -1] = counts[labels, -1].sum() / boxes
        for column, called in enumerate(bins):
            n, of = counts[np.ix_(labels, called)], judged[np.ix_(labels, called)]
            same = labels[:, None] == called
            pairs = (~same).sum() / len(labels)
            right, wrong, could = n[same].sum() / boxes, n[~same].sum(), of[~same].sum()
            if could:
                shares[row, column] = right + pairs * wrong / could
            elif same.any():
                shares[row, column] = right
    return shares


def _bins(analysis: Analysis) -> list[NDArray[Any]]:
    """Labels in the analysis's order, neighbours of a group together where there are many."""
    size = -(-len(analysis.order) // _MOST_CELLS)
    bins: list[NDArray[Any]] = []
    groups = [analysis.prepared.categories[label].frequency for label in analysis.order]
    for group in dict.fromkeys(groups):
        labels = analysis.order[[other == group for other in groups]]
        bins += np.array_split(labels, -(-len(labels) // size))
    return bins


def _ticks(analysis: Analysis, bins: list[NDArray[Any]]) -> dict[int, str]:
    """What stands at which bin: names where they fit, else the rank of some bins' first ones."""
    if len(analysis.order) <= MOST_NAMES:
        return {k: named(analysis.prepared.categories[one].name) for k, (one,) in enumerate(bins)}
    first = np.cumsum([1, *map(len, bins)])
    return {place: str(first[place]) for place in range(0, len(bins), 10)}


def _titled(analysis: Analysis, of_boxes: str, of_masks: str) -> str:
    """What a text says of the one that is shown."""
    return of_masks if analysis.iou == "segm" else of_boxes


def _panels(analysis: Analysis, height: float) -> tuple[Figure, list["Axes"]]:
    """A panel for each frequency group that has boxes, side by side."""
    figure = Figure(figsize=(8, height), layout="constrained")
    panels = list(figure.subplots(1, len(analysis.members), sharey=True, squeeze=False)[0])
    for axes in panels:
        plain_axes(axes)
    return figure, panels
