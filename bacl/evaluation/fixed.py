"""What AP-Fixed counts: the 10,000 best detections of each category over the whole split (Dave et
al. 2021, "Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details").

Ranked are all detections, those of images that are not annotated for the category included. Equal
scores rank by image.

N detections, C categories.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bacl.evaluation.detections import Detections, write_whole

BEST = 10_000
"""Detections of a category that count."""
_USUAL = (100, 300)
"""Largest numbers of detections of an image by COCO's and by LVIS's rules."""
_FEWEST = 10
_SHIFT = 19
"""Bits of a score, as a float32, that scores of one bin may differ in: their last 19, so that a bin
is 1/16 of a power of two."""
_BINS = 1 << (32 - _SHIFT)

_CUTS = b"bacl.cuts"
"""Under which a file of what lies beyond a limit has the cuts of the categories."""

Ranked = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""Image, label and score (N,) of some detections."""


@dataclass(frozen=True)
class Cuts:
    """The last detection of each category that counts: its score and its image, (C,); those with a
    lower score do not count, nor do those of its score in images after its own.

    Of a category with no more detections than count, all do: its score is -inf.
    """

    score: NDArray[Any]
    image: NDArray[Any]

    @classmethod
    def of(cls, batches: Callable[[], Iterable[Ranked]], categories: int, most: int) -> "Cuts":
        """The cuts of detections that come in batches, which are gone through up to three times, so
        that no more are held in memory than are close to a cut."""
        totals = np.zeros(categories, dtype=np.int64)
        for _, label, _ in batches():
            totals += np.bincount(label, minlength=categories)
        score, image = np.full(categories, -np.inf), np.zeros(categories, dtype=np.int64)
        crowded = np.flatnonzero(totals > most)
        if not len(crowded):
            return cls(score, image)
        number = np.full(categories, -1)
        number[crowded] = np.arange(len(crowded))
        counts = np.zeros((len(crowded), _BINS), dtype=np.int64)
        for _, label, its in _of(batches, number):
            counts += _counted(number[label], its, len(crowded))
        above = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]  # in a bin and those of better scores
        last = np.sum(above >= most, axis=1) - 1  # the bin that the last one is in
        wanted = most - np.take_along_axis(above - counts, last[:, None], axis=1)[:, 0]
        close: list[Ranked] = []
        for batch in _of(batches, number):
            near = _bins(batch[2]) == last[number[batch[1]]]
            close.append((batch[0][near], batch[1][near], batch[2][near]))
        images, labels, scores = (np.concatenate(parts) for parts in zip(*close, strict=True))
        order = np.lexsort((images, -scores, labels))
        starts = np.searchsorted(labels[order], crowded)
        chosen = order[starts + wanted - 1]
        score[crowded], image[crowded] = scores[chosen], images[chosen]
        return cls(score, image)

    def within(self, image: NDArray[Any], label: NDArray[Any], score: NDArray[Any]) -> NDArray[Any]:
        """Whether detections (N,) count."""
        last = self.score[label]
        return (score > last) | ((score == last) & (image <= self.image[label]))


@dataclass(frozen=True)
class Unlimited:
    """What a detector found without a limit per image.

    within (N,): which of its N best of each image are among the best of their category.
    beyond: the other ones that are, of images and categories that are judged; without masks.
    """

    within: NDArray[Any]
    beyond: Detections

    def joined(self, found: Detections) -> Detections:
        """All that AP-Fixed counts: of the N detections and beyond; with masks where none lies
        beyond."""
        counted = found.at(self.within)
        return Detections.join(counted, self.beyond) if len(self.beyond.score) else counted

    def save(self, path: Path, cuts: Cuts) -> None:
        """Write what lies beyond, with the cuts that say which of the other detections count."""
        last = [None if score == -np.inf else score for score in cuts.score.tolist()]
        content = json.dumps({"score": last, "image": cuts.image.tolist()})
        table = self.beyond.table()
        table = table.replace_schema_metadata({_CUTS: content})
        write_whole(path, partial(pq.write_table, table))


def read_unlimited(found: Detections, path: Path) -> Unlimited:
    """What was found beyond the limit per image of some detections, from a file of `save`."""
    table = pq.read_table(path)
    content = json.loads(table.schema.metadata[_CUTS])
    score = [-np.inf if one is None else one for one in content["score"]]
    cuts = Cuts(np.array(score), np.array(content["image"], dtype=np.int64))
    within = cuts.within(found.image, found.label, found.score)
    return Unlimited(within, Detections.from_table(table))


def best_of_categories(found: Detections, categories: int, most: int = BEST) -> NDArray[Any]:
    """Whether detections (N,) are among the best of their category."""
    within = np.ones(len(found.score), dtype=bool)
    crowded = np.bincount(found.label, minlength=categories) > most
    rows = np.flatnonzero(crowded[found.label])
    if len(rows):
        columns = (found.image[rows], found.label[rows], found.score[rows])
        within[rows] = Cuts.of(lambda: [columns], categories, most).within(*columns)
    return within


def limit_of(found: Detections) -> int | None:
    """The number of detections to which each image's seem to be cut; None where they do not.

    They do where the fullest image has as many as COCO or LVIS counts, or where several images, and
    a tenth of all, have that same largest number.
    """
    counts = np.bincount(found.image) if len(found.image) else np.zeros(1, dtype=np.int64)
    most, full = int(counts.max()), int(np.sum(counts == counts.max()))
    several = most >= _FEWEST and full >= max(3, np.sum(counts > 0) / 10)
    return most if several or most in _USUAL else None


def _of(batches: Callable[[], Iterable[Ranked]], number: NDArray[Any]) -> Iterator[Ranked]:
    """The detections of categories that have a number."""
    for image, label, score in batches():
        some = number[label] >= 0
        yield image[some], label[some], score[some]


def _counted(number: NDArray[Any], score: NDArray[Any], categories: int) -> NDArray[Any]:
    places = number * _BINS + _bins(score)
    return np.bincount(places, minlength=categories * _BINS).reshape(categories, _BINS)


def _bins(score: NDArray[Any]) -> NDArray[Any]:
    """The bin of each score; a better score's is the same or a higher one."""
    bits = score.astype(np.float32).view(np.int32)
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # also among negative numbers
    return (rising.astype(np.int64) >> _SHIFT) + _BINS // 2
