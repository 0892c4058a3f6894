"""What kinds of errors cost a detector its AP, by category, and which category it takes for which.

Errors are TIDE's (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors",
2020), at IoU 0.5 and 0.1. hotcoco has them as means over all categories; here each category has its
own, so that frequency groups can be compared. Only what the annotation can judge counts: LVIS names
for each image the categories that it was searched for, and a detection of another category may well
be right. Where masks were matched, a box stands for its object, and the IoU is that of masks.

Letters: N judged detections, W wrong ones, G ground-truth boxes, C categories, K kinds of errors.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bacl.evaluation import Evaluator
from bacl_platform.analysis.matching import Matched, Truth, precision_at
from bacl_platform.analysis.overlaps import Overlaps

KINDS = {
    "Cls": "wrong category",
    "Loc": "badly placed",
    "Both": "wrong category and badly placed",
    "Dupe": "found twice",
    "Bkg": "background",
    "Miss": "missed",
}
FOREGROUND, BACKGROUND = 0.5, 0.1
"""IoU from which a box is found, and from which it is touched at all."""


@dataclass(frozen=True)
class Errors:
    """gain (K, C): what fixing the errors of one kind alone would add to a category's AP50, a
    fraction; NaN where it has no boxes. counts (K,): how many there are of each kind."""

    gain: NDArray[Any]
    counts: NDArray[Any]


def errors(matched: Matched, overlaps: Overlaps) -> Errors:
    """Sort a run's errors into TIDE's kinds and fix each kind by itself.

    overlaps: of what was matched, boxes or masks. A badly placed or wrongly named detection is
    turned into a right one where nothing else found its box and no other candidate for it scores
    higher; otherwise it is removed, as are all other errors. A missed box (which no such detection
    could find) is taken from those to be found. So a wrong name costs twice: the category that the
    box is of, and the one that it is taken for. Crowds are no boxes here, as in TIDE's own code;
    hotcoco takes them for some.
    """
    truth = matched.truth
    kind, target = _kinds(matched, overlaps)
    mends = _mends(matched, kind, target)
    missed = truth.counted & (matched.found < 0)
    missed[target[mends]] = False
    total = truth.totals(matched.categories)
    base = np.array([_ap50(matched, label, total[label]) for label in range(matched.categories)])
    gain = np.zeros((len(KINDS), matched.categories))
    for number, name in enumerate(KINDS):
        gone = kind == number
        back = mends[kind[mends] == number]
        less = missed if name == "Miss" else np.zeros_like(missed)
        touched = [matched.label[gone], truth.label[target[back]], truth.label[less]]
        for label in np.unique(np.concatenate(touched)):
            extra = matched.score[back[truth.label[target[back]] == label]]
            boxes_left = total[label] - (less & (truth.label == label)).sum()
            gain[number, label] = _ap50(matched, label, boxes_left, gone, extra) - base[label]
    gain[:, total == 0] = np.nan
    counts = np.bincount(kind[kind >= 0], minlength=len(KINDS))
    counts[list(KINDS).index("Miss")] = missed.sum()
    return Errors(gain, counts)


def _kinds(matched: Matched, overlaps: Overlaps) -> tuple[NDArray[Any], NDArray[Any]]:
    """The kind (N,) of each wrong detection, -1 of others, and the box (N,) it should have been."""
    names = list(KINDS)
    kind = np.full(len(matched.label), -1)
    target = np.full(len(matched.label), -1)
    wrong = ~(matched.right[0] | matched.passed[0])
    for found, truths in _by_image(matched, wrong):
        kind[found] = names.index("Bkg")
        if not len(truths):
            continue
        overlap = overlaps(found, truths)  # (W, G)
        same = matched.label[found, None] == matched.truth.label[truths]
        own, other = np.where(same, overlap, -1), np.where(same, -1, overlap)
        nearest, nearest_other = own.max(axis=1), other.max(axis=1)
        rules = {  # the first that holds
            "Loc": (nearest >= BACKGROUND) & (nearest < FOREGROUND),
            "Cls": nearest_other >= FOREGROUND,
            "Dupe": nearest >= FOREGROUND,
            "Bkg": overlap.max(axis=1) < BACKGROUND,
        }
        kind[found] = np.select(
            list(rules.values()), [names.index(name) for name in rules], names.index("Both")
        )
        for name, values in (("Loc", own), ("Cls", other)):
            mine = kind[found] == names.index(name)
            target[found[mine]] = truths[values[mine].argmax(axis=1)]
    return kind, target


def _mends(matched: Matched, kind: NDArray[Any], target: NDArray[Any]) -> NDArray[Any]:
    """The best detection for each box that nothing found, of those that could be fixed to find
    it."""
    could = np.flatnonzero(target >= 0)
    could = could[matched.found[target[could]] < 0]
    could = could[np.argsort(-matched.score[could], kind="stable")]
    _, first = np.unique(target[could], return_index=True)
    return could[first]


def _ap50(
    matched: Matched,
    label: int,
    total: int,
    gone: NDArray[Any] | None = None,
    extra: NDArray[Any] | None = None,
) -> float:
    """AP50 of a category with so many boxes, without detections that are `gone` (N,) and with
    right ones of the scores in `extra`."""
    one = matched.of(label)
    kept = ~matched.passed[0, one]
    if gone is not None:
        kept &= ~gone[one]
    score, right = matched.score[one][kept], matched.right[0, one][kept]
    if extra is not None:
        score = np.concatenate([score, extra])
        right = np.concatenate([right, np.ones(len(extra), dtype=bool)])
    order = np.argsort(-score, kind="stable")
    return float(precision_at(right[order], total).mean()) if total else 0.0


# Categories taken for others


@dataclass(frozen=True)
class Confusion:
    """Which category the boxes of each category are taken for.

    counts (C, C + 1): boxes of the row's category whose best detection is of the column's; in the
    last column, those without one. judged (C, C): boxes of the row's category in images that are
    annotated for the column's: no others could have been counted.
    """

    counts: NDArray[Any]
    judged: NDArray[Any]

    @property
    def share(self) -> NDArray[Any]:
        """counts / judged (C, C), NaN where nothing could be judged."""
        shares = np.full(self.judged.shape, np.nan)
        return np.divide(self.counts[:, :-1], self.judged, out=shares, where=self.judged > 0)


def confusion(matched: Matched, overlaps: Overlaps, judged: NDArray[Any]) -> Confusion:
    """For each ground-truth box, the category of the best-scoring detection at IoU >= 0.5.

    overlaps: as for `errors`. judged: boxes by pair as `judged_pairs` counts them. A detection that
    is right about another box is ignored, for it may overlap this one and be no error. Detections
    that LVIS cannot judge are ignored too: an image says of some categories only that they are
    present or absent, and a box may belong to several of the others (a mug is a cup); nor are those
    of a category whose instances are not all annotated in the image. So counts of two columns
    compare by their share of `judged` alone.
    """
    truth = matched.truth
    counts = np.zeros((matched.categories, matched.categories + 1), dtype=np.int64)
    for found, truths in _by_image(matched, ~matched.passed[0]):
        overlap = overlaps(found, truths)
        same = matched.label[found, None] == truth.label[truths]
        asked = (overlap >= FOREGROUND) & (same | ~matched.right[0, found, None])
        scores = np.where(asked, matched.score[found, None], -1.0)
        for place, number in enumerate(truths):
            best = scores[:, place].argmax() if len(found) else 0
            hit = len(found) and scores[best, place] >= 0
            called = matched.label[found[best]] if hit else matched.categories
            counts[truth.label[number], called] += 1
    return Confusion(counts, judged)


def judged_pairs(evaluator: Evaluator, truth: Truth, images: int) -> NDArray[Any]:
    """Boxes (C, C) of the row's category in images, of I, that the column's can be judged in."""
    shape = (images, len(evaluator.categories))
    boxes = np.zeros(shape, dtype=np.float32)
    np.add.at(boxes, (truth.image[truth.counted], truth.label[truth.counted]), 1)
    total = boxes.sum(axis=0).astype(np.int64)
    if evaluator.mode == "coco":
        return np.repeat(total[:, None], len(total), axis=1)
    judged = np.zeros(shape, dtype=np.float32)
    judged[truth.image, truth.label] = 1
    for place, image in evaluator.ground_truth.imgs.items():
        # hotcoco leaves out empty lists
        judged[place, image.get("neg_category_ids", [])] = 1
        judged[place, image.get("not_exhaustive_category_ids", [])] = 0
    pairs = (boxes.T @ judged).astype(np.int64)
    np.fill_diagonal(pairs, total)
    return pairs


def _by_image(matched: Matched, asked: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """For each image, the detections (W,) of the given ones and its counted boxes (G,)."""
    found = np.flatnonzero(asked)
    found = found[np.argsort(matched.image[found], kind="stable")]
    truths = np.flatnonzero(matched.truth.counted)
    edges = np.arange(matched.images + 1)
    of_found = np.searchsorted(matched.image[found], edges)
    of_truths = np.searchsorted(matched.truth.image[truths], edges)
    for place in edges[:-1]:
        yield (
            found[of_found[place] : of_found[place + 1]],
            truths[of_truths[place] : of_truths[place + 1]],
        )
