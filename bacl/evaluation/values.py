"""Values of metrics, from those of categories or from matched detections to their names.

N detections, C categories, T IoU thresholds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bacl.datasets.categories import Category
from bacl.evaluation.calibration import calibration_error
from bacl.evaluation.curves import average_precision
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

    @cached_property
    def by_score(self) -> NDArray[Any]:
        """Numbers (N,) of the detections by falling score; equal scores stay by image."""
        if self.score.dtype != np.float32:
            return np.argsort(-self.score, kind="stable")
        # a score and a number in one integer: numbers are sorted much faster than by `argsort`
        bits = self.score.view(np.int32).astype(np.int64)
        falling = np.where(bits < 0, bits & 0x7FFFFFFF, -bits)
        keys = np.sort((falling << 32) | np.arange(len(bits)))
        return keys & 0xFFFFFFFF

    def of_categories(self, counted: NDArray[Any]) -> NDArray[Any]:
        """AP (C,) of each category, from the detections that are `counted` (N,)."""
        small = np.int16 if len(self.totals) < 2**15 else np.int64  # which sorts much faster
        ranked = self.by_score[counted[self.by_score]]
        labels = self.label[ranked].astype(small)
        order = np.argsort(labels, kind="stable")
        found = average_precision(self.matches, ranked[order], labels[order], self.totals)
        return found.mean(axis=0)

    def pooled(self, members: NDArray[Any]) -> float:
        """AP-Pool of the categories in `members` (C,): their detections ranked together, each
        matched within its category (Dave et al. 2021, section 5)."""
        assert self.fixed is not None
        ranked = self.by_score[(self.fixed & members[self.label])[self.by_score]]
        total = self.totals[members].sum(keepdims=True)
        one = np.zeros(len(ranked), dtype=np.int64)
        return float(average_precision(self.matches, ranked, one, total).mean())

    def calibration(self, members: NDArray[Any]) -> float:
        """Expected calibration error of the detections that AP counts, of the categories in
        `members` (C,). Right are those that match a box at IoU 0.5; those that count neither as
        right nor as wrong are left out. NaN where no category has ground truth."""
        if not self.totals[members].any():
            return math.nan
        label, score, right = self._scored
        some = members[label]
        return calibration_error(score[some], right[some])

    @cached_property
    def _scored(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Label, score and whether they are right, of the detections that calibration counts."""
        some = np.flatnonzero(self.limited & ~self.matches.passed[0])
        return self.label[some], self.score[some], self.matches.right[0][some]
