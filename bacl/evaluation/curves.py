"""Average precision of detections that have been matched: of each category, or of several pooled.

Letters: N detections, T IoU thresholds, S sets of detections that are ranked together (categories,
or groups of them), R recall thresholds.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bacl.evaluation.matching import Matches

RECALLS = np.linspace(0, 1, 101)


def average_precision(
    matches: Matches, ranked: NDArray[Any], sets: NDArray[Any], totals: NDArray[Any]
) -> NDArray[Any]:
    """AP (T, S) of each set; NaN where it has no box.

    Precision at a recall threshold is the best one at that recall or beyond; AP is the mean over
    the R thresholds.

    ranked: numbers (n,) of the detections that count, set by set and by falling score within each.
    sets (n,): of these, rising. totals (S,): boxes of each set.
    """
    found = np.zeros((len(matches.right), len(totals)))
    starts = np.searchsorted(sets, np.arange(len(totals)))
    place = np.full(matches.right.shape[1], -1)
    place[ranked] = np.arange(len(ranked))
    for step, (right, passed) in enumerate(matches.numbers):
        places, left_out = _places(place, right), _places(place, passed)
        own = sets[places]
        first = starts[own]
        seen = places + 1 - first
        if len(left_out):
            seen -= np.searchsorted(left_out, places) - np.searchsorted(left_out, first)
        hits = np.arange(1, len(places) + 1) - np.searchsorted(own, own)
        best = _best_from_here(hits / seen, own)
        reached = np.searchsorted(RECALLS, hits / totals[own], side="right")
        new = reached - np.where(hits > 1, np.concatenate([[0], reached[:-1]]), 0)
        found[step] = np.bincount(own, best * new, minlength=len(totals))
    return np.where(totals > 0, found / len(RECALLS), np.nan)


def _places(place: NDArray[Any], some: NDArray[Any]) -> NDArray[Any]:
    """Places in the ranking of some detections, given by their numbers, that are in it; rising."""
    found = place[some]
    return np.sort(found[found >= 0])


def _best_from_here(precision: NDArray[Any], sets: NDArray[Any]) -> NDArray[Any]:
    """The best precision (P,) of each and of those after it in its set, which rises."""
    apart = 2.0 * (sets.max(initial=0) - sets)  # so that no set sees those after it
    return np.maximum.accumulate((precision + apart)[::-1])[::-1] - apart
