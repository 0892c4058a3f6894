"""Which detections are right: greedy matching of detections with ground truth, for all images,
categories and IoU thresholds together.

The rules are COCO's and LVIS's. The detections of a category in an image take ground truth in the
order of falling score, each the box that it overlaps most among those that are left and that it
overlaps by at least the threshold. A crowd may be taken any number of times, but only where nothing
else can be, and a detection that takes it counts neither as right nor as wrong; nor does one that
takes nothing in an image whose ground truth of the category is not exhaustive.

What a detection takes depends on higher-scored detections of its image and category alone. So the
matches of the 300 best of an image are found among those of all its detections.

Letters: N detections, G ground-truth boxes, P pairs of a detection and a box of its image and
category, T thresholds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU thresholds."""
_BITS = 1 << np.arange(len(THRESHOLDS), dtype=np.uint16)
_UP_TO = np.append(0, np.cumsum(_BITS, dtype=np.uint16)).astype(np.uint16)
"""Bits of the first thresholds, of none to all."""
_ALL = _UP_TO[-1]
_PAIRS = 200_000
"""Pairs whose overlap is computed at a time."""

Overlap = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
"""IoU (P,) of detections and boxes, given by their numbers (P,) and (P,)."""


@dataclass(frozen=True)
class Boxes:
    """G ground-truth boxes.

    image, label (G,) int; bbox (G, 4) as x, y, width, height; crowd (G,) bool.
    """

    image: NDArray[Any]
    label: NDArray[Any]
    bbox: NDArray[Any]
    crowd: NDArray[Any]


@dataclass(frozen=True)
class Matches:
    """What N detections match, in their order.

    by_score (N,): their numbers by falling score; equal scores stay in order. taking, passing (N,):
    at which thresholds each takes a box that counts, and at which it counts neither as right nor as
    wrong; the lowest bit is the first threshold.
    """

    by_score: NDArray[Any]
    taking: NDArray[Any]
    passing: NDArray[Any]

    @property
    def right(self) -> NDArray[Any]:
        """Whether each takes a box that counts (T, N)."""
        return (self.taking & _BITS[:, None]) != 0

    @property
    def passed(self) -> NDArray[Any]:
        """Whether each counts neither as right nor as wrong (T, N)."""
        return (self.passing & _BITS[:, None]) != 0

    @cached_property
    def ranks(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Places in `by_score` of the detections that are right, and of those that are passed over,
        at each threshold; rising."""
        taking, passing = self.taking[self.by_score], self.passing[self.by_score]
        right, passed = np.flatnonzero(taking), np.flatnonzero(passing)
        return [
            (right[(taking[right] & bit) != 0], passed[(passing[passed] & bit) != 0])
            for bit in _BITS
        ]


def match(
    image: NDArray[Any],
    label: NDArray[Any],
    score: NDArray[Any],
    truth: Boxes,
    overlap: Overlap,
    partial: NDArray[Any],
) -> Matches:
    """Match detections (N,) with the ground truth.

    overlap: of which only pairs of one image and category are asked, and of a crowd the share of
    the detection that it covers. partial (N,): whether the ground truth of the detection's category
    is not exhaustive in its image.
    """
    by_score = falling(score)
    group, detection, box, iou = _overlapping(image, label, by_score, truth, overlap)
    allowed = _UP_TO[np.searchsorted(np.minimum(THRESHOLDS, 1 - 1e-10), iou, side="right")]
    counting = np.where(truth.crowd[box], 0, _ALL)
    # What each has taken, and what of it counts; what of each box is free
    taken, taking = np.zeros(len(score), dtype=_ALL.dtype), np.zeros(len(score), dtype=_ALL.dtype)
    free = np.full(len(truth.crowd), _ALL)
    for here in _steps(group, detection, iou + 2.0 * ~truth.crowd[box]):
        own, boxes = detection[here], box[here]
        takes = allowed[here] & free[boxes] & ~taken[own]
        taken[own] |= takes
        counts = takes & counting[here]
        taking[own] |= counts
        free[boxes] &= ~counts
    passing = (taken & ~taking) | np.where(partial, ~taken & _ALL, 0)
    return Matches(by_score, taking, passing)


def falling(score: NDArray[Any]) -> NDArray[Any]:
    """Numbers (N,) of scores (N,) from the highest to the lowest; equal ones stay in order."""
    if score.dtype != np.float32:
        return np.argsort(-score, kind="stable")
    # a score and a number in one integer: numbers are sorted much faster than by `argsort`
    bits = score.view(np.int32).astype(np.int64)
    keys = np.sort((np.where(bits < 0, bits & 0x7FFFFFFF, -bits) << 32) | np.arange(len(bits)))
    return keys & 0xFFFFFFFF


def _overlapping(
    image: NDArray[Any],
    label: NDArray[Any],
    by_score: NDArray[Any],
    truth: Boxes,
    overlap: Overlap,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Group, detection, box and IoU (P,) of the pairs that overlap by at least the first threshold.
    A group is an image's boxes of a category; pairs are by group, then by falling score, then in
    the order of the ground truth."""
    categories = 1 + max(label.max(initial=0), truth.label.max(initial=0))
    images = 1 + max(image.max(initial=0), truth.image.max(initial=0))
    of_boxes = truth.image.astype(np.int64) * categories + truth.label
    by_group = np.argsort(of_boxes, kind="stable")
    groups, starts, totals = np.unique(of_boxes[by_group], return_index=True, return_counts=True)
    present = np.zeros((images, categories), dtype=bool)
    present[truth.image, truth.label] = True
    some = np.flatnonzero(present[image, label])
    number = np.searchsorted(groups, image[some].astype(np.int64) * categories + label[some])
    rank = np.empty(len(by_score), dtype=np.int64)
    rank[by_score] = np.arange(len(by_score))
    number, place = np.divmod(np.sort(number * len(rank) + rank[some]), max(len(rank), 1))
    some = by_score[place]
    sizes = totals[number]
    ends = np.cumsum(sizes)
    none = np.zeros(0, dtype=np.int64)
    found: list[tuple[NDArray[Any], ...]] = [(none, none, none, np.zeros(0))]
    first = 0
    while first < len(some):
        done = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, done + _PAIRS, side="right")), first + 1)
        here = slice(first, last)
        one = np.repeat(np.arange(first, last), sizes[here])
        shift = starts[number[here]] - (ends[here] - sizes[here] - done)
        box = by_group[np.arange(len(one)) + np.repeat(shift, sizes[here])]
        iou = overlap(some[one], box)
        kept = np.flatnonzero(iou >= THRESHOLDS[0])
        one = one[kept]
        found.append((number[one], some[one], box[kept], iou[kept]))
        first = last
    group, detection, box, iou = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return group, detection, box, iou


def _steps(group: NDArray[Any], detection: NDArray[Any], value: NDArray[Any]) -> list[NDArray[Any]]:
    """Numbers of the pairs in steps, each with at most one pair of a group: those of its best
    detection, then those of its second best, and so on; of a detection by falling `value` (P,), and
    of equal ones the last first.

    group, detection (P,): as `_overlapping` orders them.
    """
    firsts = np.flatnonzero(np.diff(detection, prepend=-1))
    sizes = np.diff(np.append(firsts, len(detection)))
    starts = np.flatnonzero(np.diff(group[firsts], prepend=-1))
    rank = np.arange(len(firsts)) - np.repeat(starts, np.diff(np.append(starts, len(firsts))))
    of_pairs, within = np.repeat(rank, sizes), np.zeros(len(detection), dtype=np.int64)
    several = np.flatnonzero(np.repeat(sizes > 1, sizes))
    if len(several):
        owner = np.repeat(firsts, sizes)[several]
        several = several[np.lexsort((-several, -value[several], owner))]
        within[several] = np.arange(len(several)) - np.searchsorted(owner, owner)
    step = of_pairs * (1 + within.max(initial=0)) + within
    order = np.argsort(step, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(step[order])) + 1)


def box_overlap(detections: NDArray[Any], truth: Boxes) -> Overlap:
    """IoU of boxes: of detections (N, 4) as x, y, width, height, and of the ground truth."""
    one, other = _sides(detections), _sides(truth.bbox)
    crowds = bool(truth.crowd.any())

    def overlap(detection: NDArray[Any], box: NDArray[Any]) -> NDArray[Any]:
        width = _extent(one, other, detection, box, 0)
        iou = np.zeros(len(width))
        some = np.flatnonzero(width)
        detection, box = detection[some], box[some]
        shared = width[some] * _extent(one, other, detection, box, 1)
        areas = one.area[detection]
        union = areas + other.area[box] - shared
        if crowds:
            union = np.where(truth.crowd[box], areas, union)
        iou[some] = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
        return iou

    return overlap


@dataclass(frozen=True)
class _Sides:
    """Where boxes begin and end, on the two axes, and their areas; columns (N,)."""

    low: tuple[NDArray[Any], NDArray[Any]]
    high: tuple[NDArray[Any], NDArray[Any]]
    area: NDArray[Any]


def _sides(boxes: NDArray[Any]) -> _Sides:
    x, y, width, height = np.ascontiguousarray(boxes.T, dtype=np.float64)
    return _Sides((x, y), (x + width, y + height), width * height)


def _extent(
    one: _Sides, other: _Sides, first: NDArray[Any], second: NDArray[Any], axis: int
) -> NDArray[Any]:
    """Length (P,) that pairs of boxes share on an axis."""
    end = np.minimum(one.high[axis][first], other.high[axis][second])
    end -= np.maximum(one.low[axis][first], other.low[axis][second])
    return np.maximum(end, 0, out=end)
