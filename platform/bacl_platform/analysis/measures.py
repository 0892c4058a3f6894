"""What can be compared: metrics of a run on the validation split and on resamples of its images.

A run is what one variant has found with one seed, or what a file holds. Its detections are matched
with the ground truth once; a resample then only counts each image as often as it was drawn.

Letters: B resamples, C categories, I images, T IoU thresholds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bacl.datasets.prepared import Prepared
from bacl.errors import UsageError
from bacl.metric_names import (
    BOUNDARY,
    CALIBRATION,
    FIXED,
    MASK_KINDS,
    POOL,
    RECALL,
    kind_of,
)
from bacl_platform.analysis.matching import (
    Overlap,
    Ranked,
    average_precision,
    average_recall,
    calibration_error,
    pooled_precision,
    rank,
    read_truth,
)
from bacl_platform.analysis.profiles import evaluator_of
from bacl_platform.analysis.results import Result
from bacl_platform.plan.metric_names import group_precision

_BATCH = 100
"""Weightings at a time."""

Values = NDArray[Any]


@dataclass(frozen=True)
class Measure:
    """A metric that is compared, with those of frequency groups.

    overlap: what must overlap. limit: whether only LVIS's 300 best detections of an image count.
    parts: what follows the name, and the IoU thresholds that it is the mean of. each: values (B, T,
    C) of categories under weights (B, I) of images. together: the value (B,) of some categories, of
    a metric that is no mean over categories; one of the two is given.
    """

    overlap: Overlap = "bbox"
    limit: bool = True
    parts: dict[str, slice] = field(default_factory=lambda: {"": slice(None)})
    each: Callable[[Ranked, Values], Values] | None = None
    together: Callable[[Ranked, Values, Values], Values] | None = None


def _pooled(matched: Ranked, weights: Values, labels: Values) -> Values:
    """AP-Pool (B,) of some categories: the mean over IoU thresholds."""
    return np.asarray(pooled_precision(matched, weights, labels).mean(axis=1))


_AP = {"": slice(None), "50": slice(0, 1), "75": slice(5, 6)}

MEASURES = {
    "AP": Measure(parts=_AP, each=average_precision),
    FIXED: Measure(limit=False, each=average_precision),
    POOL: Measure(limit=False, together=_pooled),
    RECALL: Measure(each=average_recall),
    CALIBRATION: Measure(together=calibration_error),
    "mask_AP": Measure("segm", parts=_AP, each=average_precision),
    f"mask_{FIXED}": Measure("segm", limit=False, each=average_precision),
    f"mask_{POOL}": Measure("segm", limit=False, together=_pooled),
    f"mask_{RECALL}": Measure("segm", each=average_recall),
    BOUNDARY: Measure("boundary", each=average_precision),
}
"""By name, in the order in which they are shown."""
USUAL = ("AP", FIXED, "mask_AP", f"mask_{FIXED}")
"""Those that are compared where nothing else is asked for, of what all the results have."""


def of_masks(metric: str) -> bool:
    """Whether a metric is of masks."""
    return kind_of(metric) in MASK_KINDS


@dataclass(frozen=True)
class Resamples:
    """How often each image (I) is drawn in each of B resamples, the same for all that is compared.

    weights (B, I): small whole numbers.
    """

    weights: NDArray[np.uint8]

    @classmethod
    def draw(cls, count: int, images: int, seed: int) -> "Resamples":
        """Draw as many images as there are, with replacement, `count` times."""
        generator = np.random.default_rng(seed)
        weights = np.zeros((count, images), dtype=np.uint8)
        for row in weights:
            row[:] = np.bincount(generator.integers(images, size=images), minlength=images)
        return cls(weights)


@dataclass(frozen=True)
class Reached:
    """What a run reaches, as fractions, NaN where no box counts.

    points: by metric. drawn: by metric, in each resample (B,). categories, categories_drawn: by
    measure, of each category (C,) and in each resample (B, C); the latter only where it was asked
    for. complete: whether the run has all detections that measures without a limit count.
    """

    points: dict[str, float]
    drawn: dict[str, Values]
    categories: dict[str, Values]
    categories_drawn: dict[str, Values]
    complete: bool


class Judge:
    """A validation split with the resamples of its images, which measures run after run.

    Args:
        prepared: the dataset.
        names: of the measures, some of `MEASURES`.
        resamples: how many.
        seed: of the resampling.
        by_category: whether categories are resampled too; it takes B x C numbers for each run and
            measure.
    """

    def __init__(
        self,
        prepared: Prepared,
        names: Sequence[str],
        resamples: int,
        seed: int = 0,
        by_category: bool = True,
    ) -> None:
        self.prepared = prepared
        self.names = list(names)
        self.by_category = by_category
        self._evaluator = evaluator_of(prepared)
        self.truth, self.images = read_truth(self._evaluator)
        self.resamples = Resamples.draw(resamples, self.images, seed)
        self.boxes = self.truth.totals(len(prepared.categories))
        known = np.flatnonzero(self.boxes)
        groups = np.array([category.frequency for category in prepared.categories])
        scopes = {"": known} | {
            name: known[groups[known] == name] for name in prepared.groups.names
        }
        self.scopes = {name: labels for name, labels in scopes.items() if len(labels)}
        """Labels with boxes in the split: of all categories by "", and of each frequency group."""
        self._members = {
            name: np.flatnonzero(groups == name) if name else np.arange(len(groups))
            for name in self.scopes
        }

    @property
    def metrics(self) -> dict[str, str]:
        """The scope of each metric that is measured, in the order in which they are shown."""
        found: dict[str, str] = {}
        for name in self.names if self.scopes else ():
            found |= {f"{name}{part}": "" for part in MEASURES[name].parts}
            found |= {group_precision(s, name): s for s in self.scopes if s}
        return found

    @property
    def passes(self) -> int:
        """Steps of progress that measuring a run takes."""
        batches = -(-(len(self.resamples.weights) + 1) // _BATCH)
        return batches * len(self._sources())

    def shown(self, labels: Values) -> int:
        """Images that show a box of these categories."""
        truth = self.truth
        return len(np.unique(truth.image[truth.counted & np.isin(truth.label, labels)]))

    def shown_of_categories(self) -> Values:
        """Images (C,) that show a box of each category."""
        truth = self.truth
        pairs = np.unique(np.stack([truth.label, truth.image])[:, truth.counted], axis=1)
        return np.bincount(pairs[0], minlength=len(self.boxes))

    def measure(self, result: Result, advance: Callable[[], object] = lambda: None) -> Reached:
        """What a run reaches; `advance` is called after each step of `passes`."""
        rows: dict[str, list[Values]] = {}
        of_categories: dict[str, list[Values]] = {}
        complete = True
        for (overlap, limit), names in self._sources().items():
            if limit:
                found = result.detections()
            else:
                # In a resample the same detections count as on the split. The limit is in effect a
                # score that those of a category must reach; what it leaves out is not stored, and
                # could not take the places of images that were not drawn.
                found, complete = result.unlimited()
            matched = rank(self._evaluator, found, overlap, limit)
            del found
            for weights in self._batches():
                for name in names:
                    measured, categories = self._values(matched, name, weights)
                    for metric, values in measured.items():
                        rows.setdefault(metric, []).append(values)
                    if categories is not None:
                        first = not of_categories.get(name)
                        kept = categories if self.by_category else categories[: int(first)]
                        of_categories.setdefault(name, []).append(kept.astype(np.float32))
                advance()
        joined = {metric: np.concatenate(parts) for metric, parts in rows.items()}
        stacked = {name: np.concatenate(parts) for name, parts in of_categories.items()}
        return Reached(
            {metric: float(values[0]) for metric, values in joined.items()},
            {metric: values[1:] for metric, values in joined.items()},
            {name: values[0] for name, values in stacked.items()},
            {name: values[1:] for name, values in stacked.items() if self.by_category},
            complete,
        )

    def _sources(self) -> dict[tuple[Overlap, bool], list[str]]:
        """The measures by what their detections are matched by, and whether these are limited."""
        found: dict[tuple[Overlap, bool], list[str]] = {}
        for name in self.names if self.scopes else ():
            measure = MEASURES[name]
            found.setdefault((measure.overlap, measure.limit), []).append(name)
        return found

    def _batches(self) -> list[Values]:
        """Weights of all resamples in parts, after those of every image once."""
        once = np.ones((1, self.images), dtype=np.uint8)
        first, rest = self.resamples.weights[: _BATCH - 1], self.resamples.weights[_BATCH - 1 :]
        parts = [rest[start : start + _BATCH] for start in range(0, len(rest), _BATCH)]
        return [np.concatenate([once, first]), *parts]

    def _values(
        self, matched: Ranked, name: str, weights: Values
    ) -> tuple[dict[str, Values], Values | None]:
        """A measure's metrics (B,) under weights (B, I), and its values of categories (B, C)."""
        measure = MEASURES[name]
        if measure.together is not None:
            of_scopes = {
                _metric(name, scope): measure.together(matched, weights, labels)
                for scope, labels in self._members.items()
            }
            return of_scopes, None
        assert measure.each is not None
        of_all = measure.each(matched, weights)
        parts = {part: of_all[:, steps].mean(axis=1) for part, steps in measure.parts.items()}
        every = self.scopes[""]
        metrics = {f"{name}{part}": _mean(of, every) for part, of in parts.items()}
        for scope, labels in self.scopes.items():
            metrics[_metric(name, scope)] = _mean(parts[""], labels)
        return metrics, parts[""]


def _metric(name: str, scope: str) -> str:
    return group_precision(scope, name) if scope else name


def _mean(values: Values, labels: Values) -> Values:
    """Means (B,) over those of the categories `labels` whose boxes count, of values (B, C)."""
    of_labels = values[:, labels]
    known = ~np.isnan(of_labels)
    count = known.sum(axis=1)
    sums = np.where(known, of_labels, 0).sum(axis=1)
    return np.divide(sums, count, out=np.full(len(sums), np.nan), where=count > 0)


def chosen(asked: Sequence[str] | None, runs: Sequence[Result]) -> list[str]:
    """The measures to compare runs by: those asked for, or the usual ones that all runs have.

    Raises UsageError for names that are none, and for masks where a run has none.
    """
    masked = all("mask_AP" in run.metrics for run in runs)
    if asked is None:
        return [name for name in USUAL if all(name in run.metrics for run in runs)]
    for name in asked:
        if name not in MEASURES:
            raise UsageError(
                f"--metrics: expected some of {', '.join(MEASURES)}, each with its frequency "
                f"groups, got {name!r}"
            )
        if of_masks(name) and not masked:
            bare = next(run.variant for run in runs if "mask_AP" not in run.metrics)
            raise UsageError(
                f"--metrics: expected {name} of detections with masks, {bare} has none"
            )
    return [name for name in MEASURES if name in asked]
