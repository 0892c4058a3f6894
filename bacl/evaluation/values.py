"""Values of metrics, from those of categories or from matched detections to their names.

N detections, C categories, T IoU thresholds.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bacl.datasets.categories import Category
from bacl.evaluation.calibration import Calibration
from bacl.evaluation.curves import Places, average_precision
from bacl.evaluation.matching import Matches
from bacl.metric_names import of_group
from bacl.settings import Groups


class Values:
    """Metrics by name, and rows of categories in the order of labels, filled kind by kind."""

    def __init__(self, categories: Sequence[Category], groups: Groups) -> None:
        self.metrics: dict[str, float] = {}
        self.rows: list[dict[str, Any]] = [category.model_dump() for category in categories]
        self._members = {
            name: np.array([category.frequency == name for category in categories], dtype=bool)
            for name in groups.names
        }

    def add_means(
        self, kind: str, each: NDArray[Any], overlaps: NDArray[Any] | None = None
    ) -> None:
        """Add the means of a metric of categories (C,), NaN for those without ground truth.

        overlaps: the metric at each IoU threshold (C, T), for names such as `AP50`.
        """
        self.metrics[kind] = _mean(each)
        if overlaps is not None:
            self.metrics |= {
                f"{kind}50": _mean(overlaps[:, 0]),
                f"{kind}75": _mean(overlaps[:, 5]),
            }
        for group, members in self._members.items():
            self.metrics[of_group(group, kind)] = _mean(each[members])
        for row, value in zip(self.rows, each.tolist(), strict=True):
            row[kind] = None if math.isnan(value) else value

    def add_sets(self, kind: str, of_set: Callable[[NDArray[Any]], float]) -> None:
        """Add a metric of all categories together, and of those of each group.

        of_set: the metric of some categories, given as a mask (C,).
        """
        self.metrics[kind] = of_set(np.ones(len(self.rows), dtype=bool))
        for group, members in self._members.items():
            self.metrics[of_group(group, kind)] = of_set(members)


def _mean(values: NDArray[Any]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


@dataclass(frozen=True)
class Matched:
    """N matched detections, by image.

    label, score (N,); matches: at T thresholds; limited (N,): those that AP counts; fixed (N,):
    those that AP-Fixed counts, None where they are not all here. totals (C,): boxes of each
    category.
    """

    label: NDArray[Any]
    score: NDArray[Any]
    matches: Matches
    limited: NDArray[Any]
    fixed: NDArray[Any] | None
    totals: NDArray[Any]

    def of_categories(self, counted: NDArray[Any]) -> NDArray[Any]:
        """AP (C,) of each category, from the detections that are `counted` (N,)."""
        small = np.int16 if len(self.totals) < 2**15 else np.int64  # which sorts much faster
        ranks = np.flatnonzero(counted[self.matches.by_score])
        labels = self.label[self.matches.by_score[ranks]].astype(small)
        place = np.full(len(counted), -1)
        place[ranks[np.argsort(labels, kind="stable")]] = np.arange(len(ranks))
        ends = np.cumsum(np.bincount(labels, minlength=len(self.totals)))

        def places(ranks: NDArray[Any]) -> NDArray[Any]:
            found = place[ranks]
            return np.sort(found[found >= 0])

        starts = np.append(0, ends[:-1])
        return average_precision(self._placed(places), starts, self.totals).mean(axis=0)

    def pooled(self, members: NDArray[Any]) -> float:
        """AP-Pool of the categories in `members` (C,): their detections ranked together, each
        matched within its category (Dave et al. 2021, section 5)."""
        assert self.fixed is not None
        counted = (self.fixed & members[self.label])[self.matches.by_score]
        place = np.cumsum(counted) - 1

        def places(ranks: NDArray[Any]) -> NDArray[Any]:
            return place[ranks[counted[ranks]]]

        total, start = self.totals[members].sum(keepdims=True), np.zeros(1, dtype=np.int64)
        return float(average_precision(self._placed(places), start, total).mean())

    def _placed(self, places: Callable[[NDArray[Any]], NDArray[Any]]) -> Iterator[Places]:
        """What is right and what is passed over, at each threshold, by the places among those that
        count of their ranks among all."""
        return ((places(right), places(passed)) for right, passed in self.matches.ranks)

    def calibration_error(self, members: NDArray[Any]) -> float:
        """Expected calibration error of the detections that AP counts, of the categories in
        `members` (C,). Right are those that match a box at IoU 0.5; those that count neither as
        right nor as wrong are left out. NaN where no category has ground truth."""
        return self._calibration.error(members) if self.totals[members].any() else math.nan

    @cached_property
    def _calibration(self) -> Calibration:
        first = 1  # the bit of the lowest threshold
        some = np.flatnonzero(self.limited & ((self.matches.passing & first) == 0))
        right = (self.matches.taking[some] & first) != 0
        return Calibration.of(self.label[some], self.score[some], right, len(self.totals))
