"""Limits of a validation split as a test of a detector: how many boxes it has of each category, and
how many of them can be found at all.

N boxes, C categories.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bacl.datasets.index import Index
from bacl.settings import Detector

LVIS_DETECTIONS = 300
"""Number of best detections of an image that LVIS's evaluation counts."""


@dataclass(frozen=True)
class Boxes:
    """The N boxes that evaluation counts, crowds excluded: the image and the category of each, both
    (N,) int."""

    image: NDArray[Any]
    category: NDArray[Any]

    @classmethod
    def read(cls, index: Index) -> "Boxes":
        """Make from a split's index; `category` holds labels."""
        images, labels = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for place in range(len(index)):
            entry = index.image(place)
            shown = entry.labels[~entry.crowd]
            labels.append(shown)
            images.append(np.full(len(shown), place))
        return cls(np.concatenate(images), np.concatenate(labels))

    @classmethod
    def of(cls, annotations: Iterable[Mapping[str, Any]]) -> "Boxes":
        """Make from annotations as `bacl.datasets.reading` returns them."""
        shown = [(one["image"], one["label"]) for one in annotations if not one.get("iscrowd")]
        return cls(*np.array(shown, dtype=np.int64).reshape(-1, 2).T)

    def of_categories(self, categories: int) -> NDArray[Any]:
        """Number of boxes of each label, (C,)."""
        return np.bincount(self.category, minlength=categories)


@dataclass(frozen=True)
class Crowding:
    """Statistics of images with more boxes than a detector can find in an image.

    images: their number. most: largest number of boxes in an image. most_of_category: largest
    number of boxes of one category in an image. share: largest fraction of the split's boxes that
    can be found, 0..1.
    """

    images: int
    most: int
    most_of_category: int
    share: float


def crowding(boxes: Boxes, detections: int, proposals: int) -> Crowding | None:
    """Statistics of the images whose boxes cannot all be found; None where all can.

    detections: largest number kept of an image. proposals: regions classified in an image, each of
    which gives at most one box of each category.
    """
    if not len(boxes.image):
        return None
    categories = boxes.category.max() + 1
    pairs, of_pair = np.unique(boxes.image * categories + boxes.category, return_counts=True)
    _, place = np.unique(pairs // categories, return_inverse=True)
    total = np.bincount(place, of_pair)
    findable = np.minimum(np.bincount(place, np.minimum(of_pair, proposals)), detections)
    crowded = int((findable < total).sum())
    if not crowded:
        return None
    share = float(findable.sum() / total.sum())
    return Crowding(crowded, int(total.max()), int(of_pair.max()), share)


def crowding_sentences(boxes: Boxes, detector: Detector, evaluation: str) -> Iterator[str]:
    """Sentences about settings that keep a detector from finding all boxes of a split, with values
    to set, and about a limit on detections beyond what is evaluated.

    evaluation: `lvis` or `coco`.
    """
    limit = detector.max_detections
    if evaluation == "lvis" and limit > LVIS_DETECTIONS:
        yield (
            f"detector.max_detections is {limit:,}, but LVIS's evaluation counts the "
            f"{LVIS_DETECTIONS} best detections of an image: the AP is that of {LVIS_DETECTIONS}"
        )
        limit = LVIS_DETECTIONS
    found = crowding(boxes, limit, detector.test_proposals)
    if found is None:
        return
    wanted = {"max_detections": found.most, "test_proposals": found.most_of_category}
    if evaluation == "lvis":
        wanted["max_detections"] = min(found.most, LVIS_DETECTIONS)
    more = [
        f"detector.{name} to {value} (now {getattr(detector, name)})"
        for name, value in wanted.items()
        if value > getattr(detector, name)
    ]
    advice = f"set {' and '.join(more)}" if more else "no setting helps under LVIS's evaluation"
    images = "image has" if found.images == 1 else "images have"
    yield (
        f"{found.images:,} validation {images} more boxes than can be found in an image (up to "
        f"{found.most:,}): recall is {_percent(found.share)} at most, and AP is lower for it; "
        f"{advice}"
    )


def _percent(share: float) -> str:
    """A share below 1 in percent, never rounded up to 100 %."""
    return f"{min(100 * share, 99.99):.2f} %" if share > 0.99 else f"{100 * share:.1f} %"
