"""Differences of two contenders with their intervals, from what their runs reach.

Letters: B resamples, C categories, K quantities, S seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bacl.datasets.categories import Category
from bacl.metric_names import lower_is_better
from bacl_platform.analysis.measures import Judge, Reached
from bacl_platform.analysis.uncertainty import (
    MOST_SEEDS,
    Pooled,
    Spread,
    images_suffice,
    seeds_to_settle,
)

CONFIDENCE = 0.95
FEWEST_IMAGES = 5
"""For an interval: fewer can be resampled in so few ways that it would say nothing, and look
sure."""

Pairs = Sequence[tuple[Reached, Reached]]
"""What both contenders reach with each seed."""


@dataclass(frozen=True)
class Change:
    """From one variant to the other, as fractions: means over seeds, their difference, and its
    interval of `CONFIDENCE`. by_seed: the difference of each seed.

    low, high and p_value are NaN where fewer than `FEWEST_IMAGES` images show what it is of.
    of_images, of_seeds: variances of the difference by their source; of_seeds is NaN with one seed.
    these: the interval over images alone, of the very detectors that were compared.
    settling: seeds whose interval would leave out zero if difference and variances stayed; None
    where more than `MOST_SEEDS` would be needed, or with one seed. limited: whether the images
    alone leave the question open, however many seeds there are. falling: whether less is better.
    """

    first: float
    second: float
    low: float
    high: float
    by_seed: list[float]
    p_value: float = math.nan
    of_images: float = math.nan
    of_seeds: float = math.nan
    these: tuple[float, float] = (math.nan, math.nan)
    settling: int | None = None
    limited: bool = False
    falling: bool = False

    @property
    def difference(self) -> float:
        return self.second - self.first

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    @property
    def better(self) -> bool:
        """Whether the second is, clearly or not."""
        return (self.difference < 0) if self.falling else (self.difference > 0)

    @property
    def share_of_seeds(self) -> float:
        """The part of the variance that is of seeds; NaN with one seed or without variance."""
        total = self.of_images + self.of_seeds
        return self.of_seeds / total if total > 0 else math.nan


@dataclass(frozen=True, kw_only=True)
class CategoryChange(Change):
    """The change of a category's AP; boxes: its instances in the validation split."""

    category: Category
    boxes: int


def changes_of_metrics(
    judge: Judge, pairs: Pairs, paired: bool, pooled: Pooled | None = None
) -> dict[str, Change]:
    """The change of each metric; paired, pooled: as `Spread.of` has them."""
    names = list(judge.metrics)
    if not names:
        return {}
    shown = np.array([judge.shown(judge.scopes[scope]) for scope in judge.metrics.values()])
    first, second = (
        np.array([[pair[side].points[name] for name in names] for pair in pairs]) for side in (0, 1)
    )
    drawn = np.stack(
        [np.stack([b.drawn[name] - a.drawn[name] for name in names], axis=1) for a, b in pairs]
    )
    spread = Spread.of(first, second, drawn, shown, paired, pooled)
    falling = [lower_is_better(name) for name in names]
    return {
        name: Change(**fields, falling=falls)
        for name, fields, falls in zip(names, _fields(first, second, spread), falling, strict=True)
    }


def changes_of_categories(
    judge: Judge, name: str, pairs: Pairs, paired: bool
) -> list[CategoryChange]:
    """The change by a measure of each category with boxes, the largest gain first."""
    known = np.flatnonzero(judge.boxes)
    shown = judge.shown_of_categories()[known]
    first, second = (
        np.stack([pair[side].categories[name][known] for pair in pairs]).astype(np.float64)
        for side in (0, 1)
    )
    drawn = np.stack(
        [(b.categories_drawn[name] - a.categories_drawn[name])[:, known] for a, b in pairs]
    )
    spread = Spread.of(first, second, drawn, shown, paired)
    falls = lower_is_better(name)
    found = [
        CategoryChange(
            **fields,
            category=judge.prepared.categories[label],
            boxes=int(judge.boxes[label]),
            falling=falls,
        )
        for label, fields in zip(known, _fields(first, second, spread), strict=True)
    ]
    return sorted(found, key=lambda one: one.difference if falls else -one.difference)


def _fields(first: NDArray[Any], second: NDArray[Any], spread: Spread) -> list[dict[str, Any]]:
    """What a `Change` of each of K quantities holds, of points (S, K)."""
    by_seed = second - first
    difference = by_seed.mean(axis=0)
    half = spread.half_width(CONFIDENCE)
    of_these = spread.of_these().half_width(CONFIDENCE)
    p_value = spread.p_value(difference)
    settling = seeds_to_settle(difference, spread, CONFIDENCE)
    suffice = images_suffice(difference, spread, CONFIDENCE)
    made = []
    for k, value in enumerate(difference):
        fields = {
            "first": float(first[:, k].mean()),
            "second": float(second[:, k].mean()),
            "by_seed": by_seed[:, k].tolist(),
            "low": math.nan,
            "high": math.nan,
        }
        if spread.shown[k] >= FEWEST_IMAGES:
            fields |= {
                "low": float(value - half[k]),
                "high": float(value + half[k]),
                "p_value": float(p_value[k]),
                "of_images": float(spread.images[k]),
                "of_seeds": float(spread.seeds[k]),
                "these": (float(value - of_these[k]), float(value + of_these[k])),
                "settling": settling[k],
                "limited": not suffice[k],
            }
        made.append(fields)
    return made


def signed(fraction: float) -> str:
    """A difference in points, with its sign; never -0.0."""
    return f"{round(100 * fraction, 1) + 0.0:+.1f}"


def interval_text(change: Change) -> str:
    """The interval in points, or a dash where there is none."""
    return _brackets(change.low, change.high)


def interval_of_images_text(change: Change) -> str:
    """The interval over images alone in points, or a dash where there is none."""
    return _brackets(*change.these)


def _brackets(low: float, high: float) -> str:
    if math.isnan(low):
        return "–"
    low, high = (round(100 * bound, 1) + 0.0 for bound in (low, high))
    return f"[{low:.1f}, {high:.1f}]"


def spread_text(change: Change) -> str:
    """The standard deviation over seeds, where there are several."""
    return f" ± {100 * stdev(change.by_seed):.1f}" if len(change.by_seed) > 1 else ""


def source_text(change: Change) -> str:
    """Which source of variance is the larger one, such as `images (72 %)`; empty where nothing is
    known of seeds."""
    share = change.share_of_seeds
    if math.isnan(share):
        return ""
    return f"seeds ({share:.0%})" if share > 0.5 else f"images ({1 - share:.0%})"


def settling_text(change: Change) -> str:
    """How many seeds would settle an open question, in words; empty where it is settled or where
    nothing is known of seeds."""
    if math.isnan(change.share_of_seeds) or change.clear:
        return ""
    if change.settling is not None:
        return f"{change.settling} seeds would settle a difference of this size"
    if change.limited:
        return f"more than {MOST_SEEDS} seeds: images, not seeds, limit it"
    return f"more than {MOST_SEEDS} seeds would be needed to settle it"
