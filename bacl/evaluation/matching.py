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
_PAIRS = 2_000_000
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

    right (T, N): takes a box that counts; passed (T, N): counts neither as right nor as wrong.
    """

    right: NDArray[Any]
    passed: NDArray[Any]

    @cached_property
    def numbers(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Numbers of the detections that are right, and of those that are passed over, at each
        threshold."""
        return [
            (np.flatnonzero(right), np.flatnonzero(passed))
            for right, passed in zip(self.right, self.passed, strict=True)
        ]


def match(
    image: NDArray[Any],
    label: NDArray[Any],
    score: NDArray[Any],
    truth: Boxes,
    overlap: Overlap,
    partial: NDArray[Any],
    thresholds: NDArray[Any] = THRESHOLDS,
) -> Matches:
    """Match detections (N,) with the ground truth.

    overlap: of which only pairs of one image and category are asked, and of a crowd the share of
    the detection that it covers. partial (N,): whether the ground truth of the detection's category
    is not exhaustive in its image.
    """
    right = np.zeros((len(thresholds), len(score)), dtype=bool)
    passed = np.tile(partial, (len(thresholds), 1))
    detection, box, iou = _overlapping(image, label, score, truth, overlap, thresholds[0])
    if not len(iou):
        return Matches(right, passed)
    # A crowd is taken only where nothing else can be.
    value = iou + 2.0 * ~truth.crowd[box]
    allowed = iou >= np.minimum(thresholds, 1 - 1e-10)[:, None]
    free = np.ones((len(thresholds), len(truth.crowd)), dtype=bool)
    for here in _rounds(image, label, detection):
        boxes = box[here]
        starts = np.flatnonzero(np.diff(detection[here], prepend=-1))
        own = detection[here][starts]
        left = np.where(allowed[:, here] & free[:, boxes], value[here], -1.0)
        best = np.maximum.reduceat(left, starts, axis=1)
        sizes = np.diff(np.append(starts, len(here)))
        # of equal overlaps the last one
        places = np.where(left == np.repeat(best, sizes, axis=1), np.arange(len(here)), -1)
        taken = boxes[np.maximum.reduceat(places, starts, axis=1)]
        step, which = np.nonzero(best >= 0)
        took = taken[step, which]
        crowd = truth.crowd[took]
        right[step, own[which]] = ~crowd
        passed[step, own[which]] = crowd
        free[step[~crowd], took[~crowd]] = False
    return Matches(right, passed)


def _overlapping(
    image: NDArray[Any],
    label: NDArray[Any],
    score: NDArray[Any],
    truth: Boxes,
    overlap: Overlap,
    least: float,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Detection, box and IoU (P,) of the pairs that overlap by at least `least`; by image and
    category, then by falling score, then in the order of the ground truth."""
    categories = 1 + max(label.max(initial=0), truth.label.max(initial=0))
    of_boxes = truth.image.astype(np.int64) * categories + truth.label
    by_group = np.argsort(of_boxes, kind="stable")
    groups, starts, totals = np.unique(of_boxes[by_group], return_index=True, return_counts=True)
    own = image.astype(np.int64) * categories + label
    number = np.searchsorted(groups, own)  # of its group, where it is one of the ground truth's
    some = np.flatnonzero(np.append(groups, -1)[number] == own)
    some = some[np.lexsort((-score[some], own[some]))]
    number = number[some]
    sizes = totals[number]
    ends = np.cumsum(sizes)
    found: list[tuple[NDArray[Any], ...]] = []
    first = 0
    while first < len(some):
        done = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, done + _PAIRS, side="right")), first + 1)
        here = slice(first, last)
        detection = np.repeat(some[here], sizes[here])
        shift = starts[number[here]] - (ends[here] - sizes[here] - done)
        box = by_group[np.arange(len(detection)) + np.repeat(shift, sizes[here])]
        iou = overlap(detection, box)
        kept = np.flatnonzero(iou >= least)
        found.append((detection[kept], box[kept], iou[kept]))
        first = last
    none = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))
    joined = [np.concatenate(parts) for parts in zip(none, *found, strict=True)]
    return joined[0], joined[1], joined[2]


def _rounds(
    image: NDArray[Any], label: NDArray[Any], detection: NDArray[Any]
) -> list[NDArray[Any]]:
    """Numbers of the pairs of each image's and category's best detection, then of the second best,
    and so on; pairs of one detection stay together.

    detection (P,): as `_overlapping` orders them.
    """
    new = np.diff(detection, prepend=-1) != 0
    firsts = detection[new]
    categories = 1 + label[firsts].max()
    group = image[firsts].astype(np.int64) * categories + label[firsts]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    rank = np.arange(len(firsts)) - np.repeat(starts, np.diff(np.append(starts, len(firsts))))
    of_pairs = rank[np.cumsum(new) - 1]
    order = np.argsort(of_pairs, kind="stable")
    return np.split(order, np.cumsum(np.bincount(of_pairs))[:-1])


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
