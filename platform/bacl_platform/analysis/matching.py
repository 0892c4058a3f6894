"""Which detections are right: what hotcoco matched, in columns, and average precision from it.

An evaluation keeps means; comparing two runs image by image, or asking what an error costs, needs
the matches that they are means of.

Letters: N detections that are judged, G ground-truth boxes, I images, C categories, B weightings
of the images, P right detections of one category, T IoU thresholds 0.5, 0.55, ..., 0.95 or the
first of them, R recall thresholds 0, 0.01, ..., 1.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import hotcoco
import numpy as np
from numpy.typing import NDArray

from bacl import rle
from bacl.evaluation import MAX_DETECTIONS, Detections, Evaluator, masks, matching
from bacl.evaluation.calibration import BINS

RECALLS = np.linspace(0, 1, 101)
THRESHOLDS = 10
_AT_ONCE = 50
"""Categories whose matches hotcoco hands over together: they come as Python objects."""
_MOST_AT_ONCE = 10_000_000
"""Detections times weightings that are ranked at a time: some hundred MB."""
_MET = (np.arange(101) / 100 >= RECALLS).astype(np.int32)
"""Whether a recall of k / 100 (101,) reaches its threshold, rounded as it is."""


@dataclass(frozen=True)
class Truth:
    """The G boxes of a split, by image and then in the order of the file.

    id, image (position in the split), label (G,) int; bbox (G, 4) as x, y, width, height;
    counted (G,) bool: False for crowds, which a detection may match for nothing.
    """

    id: NDArray[Any]
    image: NDArray[Any]
    label: NDArray[Any]
    bbox: NDArray[Any]
    counted: NDArray[Any]

    def totals(self, categories: int) -> NDArray[Any]:
        """Counted boxes (C,) of each category."""
        return np.bincount(self.label[self.counted], minlength=categories)


@dataclass(frozen=True)
class Ranked:
    """The judged detections of one run, by label and then by falling score.

    Not judged, and so not here, are detections of a category that an image is not annotated for.

    images: I; image (N,): position in the split; label, score (N,); right (T, N): matches a counted
    box; passed (T, N): counts neither as right nor as wrong.
    """

    images: int
    truth: Truth
    categories: int
    image: NDArray[Any]
    label: NDArray[Any]
    score: NDArray[Any]
    right: NDArray[Any]
    passed: NDArray[Any]

    def of(self, label: int) -> slice:
        """Where the detections of a category are."""
        start, end = np.searchsorted(self.label, (label, label + 1))
        return slice(int(start), int(end))


@dataclass(frozen=True)
class Matched(Ranked):
    """Judged detections, and which of them find which boxes.

    row (N,): index into the run's `Detections`; finder (G,): row of the detection that matches the
    box at IoU 0.5, else -1; found (G,): its score, else -1.
    """

    row: NDArray[Any]
    found: NDArray[Any]
    finder: NDArray[Any]


Iou = Literal["bbox", "segm"]
"""What overlaps: boxes, or masks where the detections have them."""
Overlap = Iou | Literal["boundary"]
"""The same, or masks and their boundaries both."""


def match(
    evaluator: Evaluator,
    detections: Detections,
    iou: Iou = "bbox",
    thresholds: int = THRESHOLDS,
) -> Matched:
    """Match detections with the ground truth as `Evaluator.evaluate` does.

    thresholds: T; time and memory grow with it.
    """
    # hotcoco keeps LVIS's 300 best by itself, but of the categories that it is asked for
    rows = evaluator.counting(detections, _areas(detections, iou))
    truth, images = read_truth(evaluator)
    by_annotation = {number: place for place, number in enumerate(truth.id.tolist())}
    finder = np.full(len(truth.id), -1)
    columns: list[list[NDArray[Any]]] = []
    for entries in _entries(evaluator, detections, rows, iou, thresholds):
        for entry in entries:
            for annotation, detection in zip(entry["gtIds"], entry["gtMatches"][0]):
                if detection:  # hotcoco numbers detections from 1
                    finder[by_annotation[annotation]] = rows[detection - 1]
        columns.append(_columns(entries, rows, thresholds))
    row, image, label, score, matched, passed = (
        np.concatenate(parts, axis=-1) for parts in zip(*columns)
    )
    found = np.full(len(finder), -1.0)
    found[finder >= 0] = detections.score[finder[finder >= 0]]
    order = np.lexsort((image, -score, label))
    return Matched(
        images=images,
        truth=truth,
        categories=len(evaluator.categories),
        row=row[order],
        image=image[order],
        label=label[order],
        score=score[order],
        right=(matched & ~passed)[:, order],
        passed=passed[:, order],
        found=found,
        finder=finder,
    )


def rank(
    evaluator: Evaluator, detections: Detections, overlap: Overlap = "bbox", limit: bool = True
) -> Ranked:
    """Match detections as `match` does, in a fraction of its time, without saying which of them
    find which boxes.

    overlap: what must overlap. limit: whether only LVIS's 300 best of an image count.
    """
    rows = evaluator.counting(
        detections, _areas(detections, "bbox" if overlap == "bbox" else "segm"), limit
    )
    rows = rows[np.argsort(detections.image[rows], kind="stable")]
    truth, images = read_truth(evaluator)
    boxes = matching.Boxes(truth.image, truth.label, truth.bbox, ~truth.counted)
    image, label, score = (
        column[rows] for column in (detections.image, detections.label, detections.score)
    )
    made = matching.match(
        image,
        label,
        score,
        boxes,
        _overlap(evaluator, detections, rows, boxes, overlap),
        evaluator.partial[image, label],
    )
    order = np.lexsort((image, -score.astype(np.float64), label))
    return Ranked(
        images=images,
        truth=truth,
        categories=len(evaluator.categories),
        image=image[order],
        label=label[order],
        score=score[order],
        right=made.right[:, order],
        passed=made.passed[:, order],
    )


def _overlap(
    evaluator: Evaluator,
    detections: Detections,
    rows: NDArray[Any],
    boxes: matching.Boxes,
    overlap: Overlap,
) -> matching.Overlap:
    """How much detections in some rows overlap with the ground truth."""
    if overlap == "bbox":
        return matching.box_overlap(detections.bbox[rows], boxes)
    sizes, counts = evaluator.sizes, detections.mask
    assert counts is not None

    def of_detection(number: int) -> masks.Rle:
        row = rows[number]
        return {"size": sizes[int(detections.image[row])], "counts": counts[row]}

    def of_truth(number: int) -> masks.Rle:
        return evaluator.ground_truth.ann_to_rle(_annotations(evaluator)[number])

    if overlap == "segm":
        return masks.mask_overlap(of_detection, boxes, of_truth)
    return masks.boundary_overlap(of_detection, boxes, of_truth, matching.THRESHOLDS[0])


def _columns(
    entries: Sequence[dict[str, Any]], rows: NDArray[Any], thresholds: int
) -> list[NDArray[Any]]:
    """Row, image, label and score (N,) of some entries' detections, and whether they match and are
    passed over (T, N)."""
    lengths = [len(entry["dtIds"]) for entry in entries]

    def joined(name: str, kind: type) -> NDArray[Any]:
        values = itertools.chain.from_iterable(entry[name] for entry in entries)
        return np.fromiter(values, kind, sum(lengths))

    def at(name: str, step: int) -> NDArray[Any]:
        values = itertools.chain.from_iterable(entry[name][step] for entry in entries)
        return np.fromiter(values, bool, sum(lengths))

    def repeated(name: str) -> NDArray[Any]:
        return np.repeat(np.array([entry[name] for entry in entries], dtype=np.int64), lengths)

    return [
        rows[joined("dtIds", int) - 1],
        repeated("image_id"),
        repeated("category_id"),
        joined("dtScores", float),
        *(
            np.stack([at(name, step) for step in range(thresholds)])
            for name in ("dtMatched", "dtIgnore")
        ),
    ]


def _areas(detections: Detections, iou: Iou) -> NDArray[Any]:
    """Pixels (N,) of the boxes or masks."""
    if iou == "segm":
        assert detections.mask is not None
        return rle.measure(detections.mask.tolist())[1]
    return np.prod(detections.bbox[:, 2:].astype(np.float64), axis=1)


@functools.lru_cache(maxsize=1)
def _annotations(evaluator: Evaluator) -> list[dict[str, Any]]:
    """The annotations of all boxes, by image and then in the order of the file."""
    return sorted(evaluator.ground_truth.dataset["annotations"], key=lambda one: one["image_id"])


@functools.lru_cache(maxsize=1)
def read_truth(evaluator: Evaluator) -> tuple[Truth, int]:
    """The boxes that an evaluator judges by, and the number I of the split's images."""
    annotations = _annotations(evaluator)
    truth = Truth(
        id=np.array([one["id"] for one in annotations], dtype=np.int64),
        image=np.array([one["image_id"] for one in annotations], dtype=np.int64),
        label=np.array([one["category_id"] for one in annotations], dtype=np.int64),
        bbox=np.array([one["bbox"] for one in annotations], dtype=np.float64).reshape(-1, 4),
        counted=np.array([not one.get("iscrowd") for one in annotations], dtype=bool),
    )
    return truth, len(evaluator.ground_truth.get_img_ids())


def _entries(
    evaluator: Evaluator,
    detections: Detections,
    rows: NDArray[Any],
    iou: Iou,
    thresholds: int,
) -> Iterator[list[dict[str, Any]]]:
    """hotcoco's matches of each image and category that has any box, some categories at a time;
    settings as for the AP.

    rows: of the detections that count.
    """
    columns = (detections.image, detections.bbox, detections.score, detections.label)
    found = evaluator.ground_truth.load_res(
        np.column_stack([column[rows].astype(np.float64) for column in columns]),
        segmentation=detected_masks(evaluator, detections, rows) if iou == "segm" else None,
    )
    labels = list(range(len(evaluator.categories)))
    for start in range(0, len(labels), _AT_ONCE):
        run = hotcoco.COCOeval(
            evaluator.ground_truth, found, iou, lvis_style=evaluator.mode == "lvis"
        )
        run.params.iou_thrs = run.params.iou_thrs[:thresholds]
        run.params.max_dets = [MAX_DETECTIONS if evaluator.mode == "lvis" else max(len(rows), 1)]
        run.params.area_rng = [run.params.area_rng[0]]
        run.params.area_rng_lbl = ["all"]
        run.params.cat_ids = labels[start : start + _AT_ONCE]
        run.evaluate()
        yield [entry for entry in run.eval_imgs if entry]


def detected_masks(evaluator: Evaluator, detections: Detections, rows: NDArray[Any]) -> list[Any]:
    """The masks of some detections as COCO has them."""
    assert detections.mask is not None
    sizes = evaluator.sizes
    return [
        {"size": sizes[image], "counts": counts}
        for image, counts in zip(
            detections.image[rows].tolist(), detections.mask[rows].tolist(), strict=True
        )
    ]


def true_masks(evaluator: Evaluator, truths: NDArray[Any]) -> list[masks.Rle]:
    """The masks of some boxes of `Truth`, by their places."""
    annotations = _annotations(evaluator)
    return [evaluator.ground_truth.ann_to_rle(annotations[place]) for place in truths.tolist()]


# Average precision


def average_precision(matched: Ranked, weights: NDArray[Any]) -> NDArray[Any]:
    """AP (B, T, C) where image i counts weights[b, i] times; NaN where no box of it counts.

    weights: (B, I) whole numbers, as drawing images with replacement gives them. An image that
    counts twice is what two equal images would be; only where detections of one score and category
    in it are right and wrong, these keep their order instead of taking turns.
    """
    ap = np.full((len(weights), len(matched.right), matched.categories), np.nan)
    times = np.ascontiguousarray(weights.T)
    counted = matched.truth.counted
    for label in np.unique(matched.truth.label[counted]):
        boxes = matched.truth.image[counted & (matched.truth.label == label)]
        one = matched.of(label)
        ap[..., label] = _ranked(
            times, matched.image[one], matched.right[:, one], matched.passed[:, one], boxes
        )
    return ap


def pooled_precision(matched: Ranked, weights: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """AP (B, T) of the categories `labels` ranked together as if they were one; NaN where no box
    of them counts. weights: as for `average_precision`."""
    truth = matched.truth
    boxes = truth.image[truth.counted & np.isin(truth.label, labels)]
    mine = np.flatnonzero(np.isin(matched.label, labels))
    mine = mine[np.lexsort((matched.image[mine], -matched.score[mine].astype(np.float64)))]
    return _ranked(
        np.ascontiguousarray(weights.T),
        matched.image[mine],
        matched.right[:, mine],
        matched.passed[:, mine],
        boxes,
    )


def average_recall(matched: Ranked, weights: NDArray[Any]) -> NDArray[Any]:
    """The part (B, T, C) of each category's boxes that is found; NaN where no box of it counts.

    weights: as for `average_precision`.
    """
    recall = np.full((len(weights), len(matched.right), matched.categories), np.nan)
    times = np.ascontiguousarray(weights.T)
    truth = matched.truth
    for label in np.unique(truth.label[truth.counted]):
        boxes = truth.image[truth.counted & (truth.label == label)]
        total = times[boxes].sum(axis=0, dtype=np.int64)
        one = matched.of(label)
        for step, right in enumerate(matched.right[:, one]):
            hits = times[matched.image[one][right]].sum(axis=0, dtype=np.int64)
            np.divide(hits, total, out=recall[:, step, label], where=total > 0)
    return recall


def calibration_error(matched: Ranked, weights: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """Expected calibration error (B,) of the categories `labels` at IoU 0.5, as
    `bacl.evaluation.calibration` has it; NaN where no box of them counts, and where scores are no
    probabilities. weights: as for `average_precision`."""
    truth = matched.truth
    boxes = truth.image[truth.counted & np.isin(truth.label, labels)]
    mine = np.isin(matched.label, labels) & ~matched.passed[0]
    score = matched.score[mine].astype(np.float64)
    none = np.full(len(weights), np.nan)
    if not len(score) or score.min() < 0 or score.max() > 1:
        return none
    place = matched.image[mine] * BINS + np.minimum((score * BINS).astype(np.int64), BINS - 1)
    sums, hits, counts = (
        weights @ np.bincount(place, of, minlength=matched.images * BINS).reshape(-1, BINS)
        for of in (score, matched.right[0, mine], np.ones(len(score)))
    )
    total = np.where(weights[:, boxes].any(axis=1), counts.sum(axis=1), 0)
    return np.divide(np.abs(sums - hits).sum(axis=1), total, out=none, where=total > 0)


def _ranked(
    times: NDArray[Any],
    image: NDArray[Any],
    right: NDArray[Any],
    passed: NDArray[Any],
    boxes: NDArray[Any],
) -> NDArray[Any]:
    """AP (B, T) of N detections by falling score; NaN where no box counts.

    times (I, B): how often each image counts. image (N,), right and passed (T, N): of the
    detections. boxes: the image of each box.
    """
    weightings = times.shape[1]
    ap = np.full((weightings, len(right)), np.nan)
    size = max(1, _MOST_AT_ONCE // max(len(image), len(boxes), 1))
    for start in range(0, weightings, size):
        some = times[:, start : start + size]
        total = some[boxes].sum(axis=0, dtype=np.int64)
        made = _of_boxes(some, image, right, passed, np.maximum(total, 1))
        ap[start : start + size] = np.where(total[:, None] > 0, made, np.nan)
    return ap


def _of_boxes(
    times: NDArray[Any],
    image: NDArray[Any],
    right: NDArray[Any],
    passed: NDArray[Any],
    total: NDArray[Any],
) -> NDArray[Any]:
    """AP (B, T) where total (B,) boxes count; where none does, total is 1."""
    ap = np.zeros((len(total), len(right)))
    ever = np.flatnonzero(right.any(axis=0))  # what scores lower than the last cannot matter
    if not len(ever):
        return ap
    end = ever[-1] + 1
    drawn = times[image[:end]]  # (N, B)
    # all that is seen down to each place at which anything is right
    starts = np.concatenate([[0], ever[:-1] + 1])
    every = np.add.reduceat(drawn, starts, axis=0, dtype=np.int32)
    np.cumsum(every, axis=0, out=every)
    for step in range(len(right)):
        places = np.flatnonzero(right[step])
        if not len(places):
            continue
        hits = np.cumsum(drawn[places], axis=0, dtype=np.int32)
        seen = every[np.searchsorted(ever, places)]
        out = np.flatnonzero(passed[step, :end])
        if len(out):
            less = np.zeros((len(out) + 1, len(total)), dtype=np.int32)
            np.cumsum(drawn[out], axis=0, out=less[1:])
            seen = seen - less[np.searchsorted(out, places)]
        precision = hits / np.maximum(seen, 1)
        best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        share = np.diff(_reached(hits, total), axis=0, prepend=0)
        ap[:, step] = np.einsum("pb,pb->b", best, share) / len(RECALLS)
    return ap


def _reached(hits: NDArray[Any], total: NDArray[Any]) -> NDArray[Any]:
    """How many of `RECALLS` are at most hits / total (P, B).

    Searching for each quotient would take most of the time. A quotient lies on a threshold only
    where it is k / 100, and there RECALLS may be larger by rounding, as in pycocotools.
    """
    whole = np.floor(hits * (100 / total) + 1e-9).astype(np.int32)
    return whole + np.where(whole * total == hits * 100, _MET[whole], 1)


def precision_at(right: NDArray[Any], total: float) -> NDArray[Any]:
    """Precision (R,) at each recall threshold, the best at it or beyond, of one category.

    right (N,): of its detections by falling score, those that count; total: its boxes.
    """
    places = np.flatnonzero(right)
    hits = np.arange(1.0, len(places) + 1)
    best = np.maximum.accumulate((hits / (places + 1.0))[::-1])[::-1]
    share = np.diff(np.searchsorted(RECALLS, hits / total, side="right"), prepend=0)
    curve = np.zeros(len(RECALLS))
    reached = np.repeat(best, share)
    curve[: len(reached)] = reached
    return curve
