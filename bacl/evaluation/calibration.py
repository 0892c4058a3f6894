"""Expected calibration error: how far scores are from the frequency of being right (Guo et al.
2017, "On Calibration of Modern Neural Networks", Eq. (3)).

N detections, C categories, B bins of equal width over scores in 0..1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """What the detections of each category amount to in each bin.

    scores (C, B): sums of their scores, NaN where one is outside 0..1; right (C, B): how many are
    right; found (C,): how many they are in all bins.
    """

    scores: NDArray[Any]
    right: NDArray[Any]
    found: NDArray[Any]

    @classmethod
    def of(
        cls, label: NDArray[Any], score: NDArray[Any], right: NDArray[Any], categories: int
    ) -> "Calibration":
        """That of detections: their labels, scores and whether they are right (N,)."""
        scores = score.astype(np.float64)
        bins = np.clip(scores * BINS, 0, BINS - 1).astype(np.int64)
        bins += label.astype(np.int64) * BINS
        scores[(scores < 0) | (scores > 1)] = np.nan
        sums, hits = (
            np.bincount(bins, weights, minlength=categories * BINS).reshape(categories, BINS)
            for weights in (scores, right)
        )
        return cls(sums, hits, np.bincount(label, minlength=categories))

    def error(self, members: NDArray[Any]) -> float:
        """The mean over detections of the categories in `members` (C,) of the distance between the
        mean score of a detection's bin and the share of its bin that is right, 0..1; NaN without
        detections, and where scores are no probabilities."""
        found = self.found[members].sum()
        if not found:
            return np.nan
        apart = self.scores[members].sum(axis=0) - self.right[members].sum(axis=0)
        return float(np.abs(apart).sum() / found)
