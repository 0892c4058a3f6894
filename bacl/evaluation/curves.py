"""Average precision of detections that have been matched: of each category, or of several pooled.

Letters: T IoU thresholds, S sets of detections that are ranked together (categories, or groups of
them), R recall thresholds.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

RECALLS = np.linspace(0, 1, 101)

Places = tuple[NDArray[Any], NDArray[Any]]
"""Places in a ranking, rising, of the detections that are right and of those that count neither as
right nor as wrong."""


def average_precision(
    places: Iterable[Places], starts: NDArray[Any], totals: NDArray[Any]
) -> NDArray[Any]:
    """AP (T, S) of each set; NaN where it has no box.

    Precision at a recall threshold is the best one at that recall or beyond; AP is the mean over
    the R thresholds.

    places: at each IoU threshold, in the ranking of the detections that count, set by set and by
    falling score within each. starts (S,): where each set begins in it. totals (S,): its boxes.
    """
    found = [_sums(right, passed, starts, totals) for right, passed in places]
    return np.where(totals > 0, np.array(found) / len(RECALLS), np.nan)


def _sums(
    right: NDArray[Any], passed: NDArray[Any], starts: NDArray[Any], totals: NDArray[Any]
) -> NDArray[Any]:
    """Sums (S,) over the recall thresholds of each set's precision."""
    firsts = np.searchsorted(right, starts)
    own = np.repeat(np.arange(len(starts)), np.diff(np.append(firsts, len(right))))
    hits = np.arange(1, len(right) + 1) - firsts[own]
    seen = right + 1 - starts[own]
    if len(passed):
        seen -= np.searchsorted(passed, right) - np.searchsorted(passed, starts)[own]
    best = _best_from_here(hits / seen, own)
    reached = np.searchsorted(RECALLS, hits / totals[own], side="right")
    new = reached - np.where(hits > 1, np.concatenate([[0], reached[:-1]]), 0)
    return np.bincount(own, best * new, minlength=len(totals))


def _best_from_here(precision: NDArray[Any], sets: NDArray[Any]) -> NDArray[Any]:
    """The best precision (P,) of each and of those after it in its set, which rises."""
    apart = 2.0 * (sets.max(initial=0) - sets)  # so that no set sees those after it
    return np.maximum.accumulate((precision + apart)[::-1])[::-1] - apart
