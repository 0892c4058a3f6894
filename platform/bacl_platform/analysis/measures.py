"""What can be compared: metrics of a run on the validation split and on resamples of its images.

A run is what one variant has found with one seed, or what a file holds. Its detections are matched
with the ground truth once; a resample then only counts each image as often as it was drawn.

Letters: B resamples, C categories, I images, T IoU thresholds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bacl.datasets.prepared import Prepared
from bacl.errors import UsageError
from bacl.evaluation import Detections
from bacl_platform.analysis.matching import (
    Iou,
    Matched,
    average_precision,
    average_recall,
    match,
    pooled_precision,
    read_truth,
)
from bacl_platform.analysis.profiles import evaluator_of
from bacl_platform.analysis.results import Result
from bacl_platform.plan.metric_names import group_precision

_BATCH = 100
"""Weightings at a time."""
_AP = {"": slice(None), "50": slice(0, 1), "75": slice(5, 6)}
_MEAN = {"": slice(None)}

Values = NDArray[Any]


@dataclass(frozen=True)
class Measure:
    """A metric that is compared, with those of frequency groups.

    iou: what overlaps. limit: whether only LVIS's 300 best detections of an image count. of:
    values (B, T, C) of categories under weights (B, I) of images; None where all categories are
    ranked together. parts: what follows the name, and the IoU thresholds that it is the mean of.
    falling: whether less is better.
    """

    iou: Iou
    limit: bool
    of: Callable[[Matched, Values], Values] | None
    parts: dict[str, slice] = field(default_factory=lambda: dict(_MEAN))
    falling: bool = False


MEASURES = {
    "AP": Measure("bbox", True, average_precision, _AP),
    "APFixed": Measure("bbox", False, average_precision),
    "APPool": Measure("bbox", False, None),
    "AR": Measure("bbox", True, average_recall),
    "mask_AP": Measure("segm", True, average_precision, _AP),
    "mask_APFixed": Measure("segm", False, average_precision),
    "mask_APPool": Measure("segm", False, None),
    "mask_AR": Measure("segm", True, average_recall),
}
"""By name, in the order in which they are shown."""
USUAL = ("AP", "APFixed", "mask_AP", "mask_APFixed")
"""Those that are compared where nothing else is asked for, of what the results have."""


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

    @property
    def metrics(self) -> dict[str, str]:
        """The scope of each metric that is measured, in the order in which they are shown."""
        found: dict[str, str] = {}
        for name in self.names if self.scopes else ():
            found |= {f"{name}{part}": "" for part in MEASURES[name].parts}
            found |= {group_precision(s, name): s for s in self.scopes if s}
        return found

    def falling(self, metric: str) -> bool:
        """Whether less of a metric is better."""
        return False

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
        for (iou, limit), names in self._sources().items():
            if limit:
                found = result.detections()
            else:
                found, complete = result.unlimited()
                found = best_of_categories(found)
            matched = match(self._evaluator, found, iou, limit=limit)
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

    def _sources(self) -> dict[tuple[Iou, bool], list[str]]:
        """The measures by what their detections are matched by, and whether these are limited."""
        found: dict[tuple[Iou, bool], list[str]] = {}
        for name in self.names if self.scopes else ():
            measure = MEASURES[name]
            found.setdefault((measure.iou, measure.limit), []).append(name)
        return found

    def _batches(self) -> list[Values]:
        """Weights of all resamples in parts, after those of every image once."""
        once = np.ones((1, self.images), dtype=np.uint8)
        first, rest = self.resamples.weights[: _BATCH - 1], self.resamples.weights[_BATCH - 1 :]
        parts = [rest[start : start + _BATCH] for start in range(0, len(rest), _BATCH)]
        return [np.concatenate([once, first]), *parts]

    def _values(
        self, matched: Matched, name: str, weights: Values
    ) -> tuple[dict[str, Values], Values | None]:
        """A measure's metrics (B,) under weights (B, I), and its values of categories (B, C)."""
        measure = MEASURES[name]
        if measure.of is None:
            return {
                _metric(name, scope): pooled_precision(matched, weights, labels).mean(axis=1)
                for scope, labels in self.scopes.items()
            }, None
        of_all = measure.of(matched, weights)
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


MOST_OF_CATEGORY = 10_000
"""Detections of a category over the whole split that AP-Fixed counts (Dave et al. 2021)."""


def best_of_categories(detections: Detections) -> Detections:
    """The detections that AP-Fixed counts: the best `MOST_OF_CATEGORY` of each category.

    In a resample the same ones count: the limit is in effect a score that a category's detections
    must reach, which is found once, over the whole split. Those that the limit leaves out are not
    stored and could not take the places of images that were not drawn.
    """
    label = detections.label
    crowded = np.flatnonzero(np.bincount(label)[label] > MOST_OF_CATEGORY)
    if not len(crowded):
        return detections
    ordered = crowded[np.lexsort((-detections.score[crowded], label[crowded]))]
    place = np.arange(len(ordered)) - np.searchsorted(label[ordered], label[ordered])
    kept = np.ones(len(label), dtype=bool)
    kept[ordered[place >= MOST_OF_CATEGORY]] = False
    return replace(
        detections,
        image=detections.image[kept],
        label=label[kept],
        score=detections.score[kept],
        bbox=detections.bbox[kept],
        mask=None if detections.mask is None else detections.mask[kept],
    )


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
        if name.startswith("mask_") and not masked:
            bare = next(run.variant for run in runs if "mask_AP" not in run.metrics)
            raise UsageError(
                f"--metrics: expected {name} of detections with masks, {bare} has none"
            )
    return [name for name in MEASURES if name in asked]
