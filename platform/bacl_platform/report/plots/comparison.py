"""The picture of a comparison of two variants."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from bacl_platform.analysis.measures import of_masks
from bacl_platform.report.plots.registry import Page, Picture, plot
from bacl_platform.report.plots.style import COLOURS, named, plain_axes

if TYPE_CHECKING:
    from bacl_platform.analysis.compare import Comparison


def _kinds(comparison: "Comparison") -> Iterable[str]:
    return comparison.kinds


@plot(Page.COMPARISON, each=_kinds)
def changes(comparison: "Comparison", kind: str = "AP") -> Picture:
    """Differences with their intervals: of the metrics, and of the categories that changed most.

    kind: the measure of the categories, such as `AP`, or `mask_AP` for masks.
    """
    changed = [*comparison.gained(kind), *reversed(comparison.lost(kind))]
    masks = of_masks(kind)
    metrics = {name: one for name, one in comparison.metrics.items() if of_masks(name) == masks}
    rows = max(len(changed), len(metrics), 6)
    figure = Figure(figsize=(8, 1.6 + 0.19 * rows), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, names, of in (
        (left, list(metrics), list(metrics.values())),
        (
            right,
            [f"{named(c.category.name)} ({c.category.image_count})" for c in changed],
            changed,
        ),
    ):
        plain_axes(axes)
        for place, change in enumerate(of):
            colour = "#888888" if not change.clear else COLOURS[2 if change.better else 1]
            low, middle, high = (100 * v for v in (change.low, change.difference, change.high))
            axes.plot([low, high], [place, place], color=colour, linewidth=2)
            axes.plot(middle, place, "o", color=colour, markersize=5)
        axes.axvline(0, color="#333333", linewidth=0.8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("difference (points)")
    left.set_title("metrics", fontsize=10)
    right.set_title("most changed (training images)", fontsize=10)
    figure.suptitle(f"{named(comparison.second)} against {named(comparison.first)}")
    words = " by mask AP" if masks else ""
    return Picture(
        f"{'mask_' if masks else ''}{comparison.stem}.png",
        f"{comparison.second} against {comparison.first}{words}",
        figure,
    )
