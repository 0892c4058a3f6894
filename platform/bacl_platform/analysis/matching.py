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
from bacl.evaluation import MAX_DETECTIONS, Detections, Evaluator

RECALLS = np.linspace(0, 1, 101)
THRESHOLDS = 10
_AT_ONCE = 50
"""Categories whose matches hotcoco hands over together: they come as Python objects."""


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
class Matched:
    """The judged detections of one run, by label and then by falling score.

    Not judged, and so not here, are detections of a category that an image is not annotated for.

    images: I; row (N,): index into the run's `Detections`; image (N,): position in the split;
    label, score (N,); right (T, N): matches a counted box; passed (T, N): counts neither as right
    nor as wrong; finder (G,): row of the detection that matches the box at IoU 0.5, else -1; found
    (G,): its score, else -1.
    """

    images: int
    truth: Truth
    categories: int
    row: NDArray[Any]
    image: NDArray[Any]
    label: NDArray[Any]
    score: NDArray[Any]
    right: NDArray[Any]
    passed: NDArray[Any]
    found: NDArray[Any]
    finder: NDArray[Any]

    def of(self, label: int) -> slice:
        """Where the detections of a category are."""
        start, end = np.searchsorted(self.label, (label, label + 1))
        return slice(int(start), int(end))


Iou = Literal["bbox", "segm"]
"""What overlaps: boxes, or masks where the detections have them."""


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
def read_truth(evaluator: Evaluator) -> tuple[Truth, int]:
    """The boxes that an evaluator judges by, and the number I of the split's images."""
    annotations = sorted(
        evaluator.ground_truth.dataset["annotations"], key=lambda one: one["image_id"]
    )
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
        segmentation=_masks(evaluator, detections, rows) if iou == "segm" else None,
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


def _masks(evaluator: Evaluator, detections: Detections, rows: NDArray[Any]) -> list[Any]:
    """The masks of some detections as COCO has them."""
    assert detections.mask is not None
    images = evaluator.ground_truth.imgs  # made anew for whoever asks
    sizes = {number: [image["height"], image["width"]] for number, image in images.items()}
    return [
        {"size": sizes[image], "counts": counts}
        for image, counts in zip(
            detections.image[rows].tolist(), detections.mask[rows].tolist(), strict=True
        )
    ]


# Average precision


def average_precision(matched: Matched, weights: NDArray[Any]) -> NDArray[Any]:
    """AP (B, T, C) where image i counts weights[b, i] times; NaN where no box of it counts.

    weights: (B, I) whole numbers, as drawing images with replacement gives them. An image that
    counts twice is what two equal images would be; only where detections of one score and category
    in it are right and wrong, these keep their order instead of taking turns.
    """
    ap = np.full((len(weights), len(matched.right), matched.categories), np.nan)
    counted = matched.truth.counted
    for label in np.unique(matched.truth.label[counted]):
        boxes = matched.truth.image[counted & (matched.truth.label == label)]
        total = weights[:, boxes].sum(axis=1).astype(np.float64)
        known = total > 0
        one = matched.of(label)
        right, passed = matched.right[:, one], matched.passed[:, one]
        # what scores lower than all that is right cannot matter
        end = int(np.flatnonzero(right.any(axis=0)).max(initial=-1)) + 1
        right, passed = right[:, :end], passed[:, :end]
        drawn = weights[np.ix_(known, matched.image[one][:end])].astype(np.float64)
        every = np.cumsum(drawn, axis=1)
        for step in range(len(ap[0])):
            seen = every
            if passed[step].any():
                seen = np.cumsum(np.where(passed[step], 0, drawn), axis=1)
            places = np.flatnonzero(right[step])
            hits = np.cumsum(drawn[:, places], axis=1)
            best, share = _steps(hits, seen[:, places], total[known])
            ap[known, step, label] = (best * share).sum(axis=1) / len(RECALLS)
    return ap


def precision_at(right: NDArray[Any], total: float) -> NDArray[Any]:
    """Precision (R,) at each recall threshold, the best at it or beyond, of one category.

    right (N,): of its detections by falling score, those that count; total: its boxes.
    """
    places = np.flatnonzero(right)
    hits = np.arange(1.0, len(places) + 1)[None]
    best, share = _steps(hits, (places + 1.0)[None], np.array([total]))
    curve = np.zeros(len(RECALLS))
    reached = np.repeat(best[0], share[0])
    curve[: len(reached)] = reached
    return curve


def _steps(
    hits: NDArray[Any], seen: NDArray[Any], total: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Precision at each right detection or beyond, and the recall thresholds it holds for, (B, P).

    hits, seen (B, P): right detections, and all, down to each of the P right ones; total (B,).
    """
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(RECALLS, hits / total[:, None], side="right")
    return best, np.diff(reached, axis=1, prepend=0)
