"""What a validation split can say of a detector: which categories it judges, and how many of its
boxes can be found at all.

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
"""Detections of an image that LVIS's evaluation counts, the best ones."""


@dataclass(frozen=True)
class Boxes:
    """The N boxes that count, which crowds do not: what tells their images apart, and their
    categories (both (N,) int)."""

    image: NDArray[Any]
    category: NDArray[Any]

    @classmethod
    def read(cls, index: Index) -> "Boxes":
        """From a split's index; `category` is labels."""
        images, labels = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for place in range(len(index)):
            entry = index.image(place)
            shown = entry.labels[~entry.crowd]
            labels.append(shown)
            images.append(np.full(len(shown), place))
        return cls(np.concatenate(images), np.concatenate(labels))

    @classmethod
    def of(cls, annotations: Iterable[Mapping[str, Any]]) -> "Boxes":
        """From annotations as `bacl.datasets.reading` has them."""
        shown = [(one["image"], one["label"]) for one in annotations if not one.get("iscrowd")]
        return cls(*np.array(shown, dtype=np.int64).reshape(-1, 2).T)

    def of_categories(self, categories: int) -> NDArray[Any]:
        """Boxes (C,) of each label."""
        return np.bincount(self.category, minlength=categories)


@dataclass(frozen=True)
class Crowding:
    """Images with more boxes than a detector can find in one.

    images: how many; most: boxes of the fullest one, and most_of_category: of one category in an
    image; share: of the split's boxes, those that can be found at most, 0..1.
    """

    images: int
    most: int
    most_of_category: int
    share: float


def crowding(boxes: Boxes, detections: int, proposals: int) -> Crowding | None:
    """None where all boxes can be found.

    detections: kept of an image at most. proposals: regions that are looked at, each of which gives
    at most one box of each category.
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
    """What keeps a detector from finding all boxes of a split, and what to set; and a limit beyond
    what is evaluated.

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
    advice = f"set {' and '.join(more)}" if more else "so it is for every detector in LVIS"
    images = "image has" if found.images == 1 else "images have"
    yield (
        f"{found.images:,} validation {images} more boxes than can be found in one (up to "
        f"{found.most:,}): recall is {_percent(found.share)} at most, and AP is lower for it; "
        f"{advice}"
    )


def _percent(share: float) -> str:
    """A share below 1, never rounded to all."""
    return f"{min(100 * share, 99.99):.2f} %" if share > 0.99 else f"{100 * share:.1f} %"
