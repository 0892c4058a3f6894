"""Expected calibration error: how far scores are from the frequency of being right (Guo et al.
2017, "On Calibration of Modern Neural Networks", Eq. (3))."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""Of equal width, over scores in 0..1."""


def calibration_error(score: NDArray[Any], right: NDArray[Any], bins: int = BINS) -> float:
    """The mean over detections of the distance between the mean score of a detection's bin and the
    share of its bin that is right, 0..1; NaN without detections, and where scores are no
    probabilities.

    score, right (N,).
    """
    if not len(score) or score.min() < 0 or score.max() > 1:
        return math.nan
    scores = score.astype(np.float64)
    place = np.minimum((scores * bins).astype(np.int64), bins - 1)
    sums = np.bincount(place, scores, minlength=bins)
    hits = np.bincount(place, right, minlength=bins)
    return float(np.abs(sums - hits).sum() / len(scores))
