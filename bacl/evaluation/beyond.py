"""What detectors find beyond their limit per image, as far as AP-Fixed may count it.

AP-Fixed counts the 10,000 best detections of each category over the whole split. While images pass,
the score of the 10,000th best so far of a category is a threshold that only rises; what does not
reach it can never count, so that detectors need not look for it. A count of scores in narrow bins
stands for the scores themselves: what it gives is at most 6 per cent below the threshold.

C categories, N detections.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from bacl.evaluation.detections import BOXES, Detections, write_whole
from bacl.evaluation.fixed import BEST, Cuts, Unlimited

FLUSH_ROWS = 200_000
"""Detections that are held in memory before they are written to a shard."""
_SHIFT = 19
_LEAST = 2.0**-17
"""Scores below it share a bin, which has no threshold."""
_FIRST = np.float32(_LEAST).view(np.int32) >> _SHIFT
_BINS = int((np.float32(1.0).view(np.int32) >> _SHIFT) - _FIRST) + 2
_STALE = 16
"""A threshold is found anew after an image for each 16 that have passed."""

Found = tuple[Tensor, Tensor, Tensor]
"""Boxes (N, 4) as corners, scores (N,) and labels (N,)."""


class Beyond:
    """Collects on one rank, for one evaluation, what the variants of a bank find beyond the limit.

    Shards hold boxes only of categories that are judged in their image, as AP-Fixed counts no
    others; others have a part in the ranking alone. Memory and shards are bounded: a shard that has
    twice as many rows as can count is rid of those that no longer can.

    Args:
        categories: C.
        judged: called once, gives whether a category is judged in an image (I, C); None for all.
        shard: the file of a variant, by its number.
        best: detections of a category that count.
    """

    def __init__(
        self,
        categories: int,
        judged: Callable[[], NDArray[Any] | None],
        shard: Callable[[int], Path],
        best: int = BEST,
    ) -> None:
        self.categories, self.best, self.shard = categories, best, shard
        self._judged_when_asked = judged
        self._judged: NDArray[Any] | None = None
        self.used = False
        """Whether a detector hands on to it what it finds."""
        self.reset()

    def reset(self) -> None:
        """Forget an evaluation."""
        self._of: dict[int, _Variant] = {}

    def connect(self) -> None:
        """A detector begins to hand on what it finds."""
        if not self.used:
            self.used, self._judged = True, self._judged_when_asked()

    def lowest(self, variant: int, like: Tensor) -> Tensor:
        """Scores (C,) that detections of each category have to exceed, on the device of a tensor
        and of its type."""
        return torch.as_tensor(self._state(variant).lowest).to(like)

    def take(self, image: int, variant: int, best: Found, rest: Found) -> None:
        """Take what a variant finds in an image: the best, to which its limit applies, and the rest
        of what exceeds the thresholds. An image that comes again is passed over."""
        state = self._state(variant)
        if image in state.images:
            return
        state.images.add(image)
        for part in (best, rest):
            state.count(part[2].cpu().numpy(), part[1].float().cpu().numpy())
        if len(rest[1]):
            boxes, scores, labels = [part.cpu().numpy() for part in rest]
            judged = None if self._judged is None else self._judged[image][labels]
            state.waiting.append(_rows(image, boxes, scores, labels, judged))
            state.rows += len(labels)
        if state.rows >= FLUSH_ROWS:
            self._flush(variant, state)
        state.follow(self.best)

    def close(self, variants: int) -> None:
        """Write what is held in memory of variants numbered 0, 1, ...; each has a shard then."""
        for variant in range(variants):
            state = self._state(variant)
            self._flush(variant, state)
            if state.writer is not None:
                state.writer.close()
                state.writer = None

    def _state(self, variant: int) -> "_Variant":
        return self._of.setdefault(variant, _Variant(self.categories))

    def _flush(self, variant: int, state: "_Variant") -> None:
        path = self.shard(variant)
        if state.writer is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            state.writer = pq.ParquetWriter(path, BOXES)
        if state.waiting:
            state.writer.write_table(pa.concat_tables(state.waiting))
        state.written += state.rows
        state.waiting, state.rows = [], 0
        if state.written > 2 * self.best * self.categories + FLUSH_ROWS:
            state.writer.close()
            state.writer = None
            state.rewrite(path)


class _Variant:
    """What a variant has found so far."""

    def __init__(self, categories: int) -> None:
        self.images: set[int] = set()
        self.lowest: NDArray[Any] = np.full(categories, -np.inf, dtype=np.float32)
        self.counts = np.zeros((categories, _BINS), dtype=np.int32)
        self.followed = 0
        self.waiting: list[pa.Table] = []
        self.rows = 0
        self.written = 0
        self.writer: pq.ParquetWriter | None = None

    def count(self, labels: NDArray[Any], scores: NDArray[Any]) -> None:
        """Count scores (N,) in their bins."""
        place = (scores.astype(np.float32).view(np.int32) >> _SHIFT) - _FIRST + 1
        np.add.at(self.counts, (labels, place.clip(0, _BINS - 1)), 1)

    def follow(self, best: int) -> None:
        """Raise the thresholds to where the counts are."""
        if len(self.images) < self.followed + max(1, self.followed // _STALE):
            return
        self.followed = len(self.images)
        above = np.cumsum(self.counts[:, ::-1], axis=1)[:, ::-1]
        last = np.sum(above >= best, axis=1) - 1
        edges = ((np.arange(_BINS, dtype=np.int32) + _FIRST - 1) << _SHIFT).view(np.float32)
        self.lowest = np.where(last > 0, edges[last], np.float32(-np.inf))

    def rewrite(self, path: Path) -> None:
        """Rid a shard of what can no longer count."""
        self.written = 0

        def rewritten(target: Path) -> None:
            self.writer = pq.ParquetWriter(target, BOXES)
            for batch in pq.ParquetFile(path).iter_batches():
                kept = batch["score"].to_numpy() >= self.lowest[batch["label"].to_numpy()]
                self.writer.write_batch(batch.filter(pa.array(kept)))
                self.written += int(kept.sum())

        write_whole(path, rewritten)  # the writer goes on with the file under its new name


def _rows(
    image: int,
    boxes: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any],
    judged: NDArray[Any] | None,
) -> pa.Table:
    """Rows of a shard; those of categories that are not judged have no box."""
    hidden = None if judged is None else ~judged
    sides = [boxes[:, 0], boxes[:, 1], boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]]
    return pa.table(
        [
            pa.array(np.full(len(scores), image, dtype=np.int32)),
            pa.array(labels.astype(np.int32)),
            pa.array(scores.astype(np.float32)),
            *(pa.array(side.astype(np.float32), mask=hidden) for side in sides),
        ],
        schema=BOXES,
    )


def merged(
    found: Sequence[pa.Table], shards: Sequence[Path], categories: int, best: int
) -> tuple[Unlimited, Cuts]:
    """What AP-Fixed counts of all ranks' detections, and its cuts.

    found: of each rank, the detections to which the limit applies, each image's from the first rank
    that saw it. shards: of each rank, what lies beyond.
    """
    firsts = [table["image"].unique() for table in found]

    def beyond(*columns: str) -> Iterator[pa.RecordBatch]:
        for own, path in zip(firsts, shards, strict=True):
            for batch in pq.ParquetFile(path).iter_batches(columns=list(columns)):
                yield batch.filter(pc.is_in(batch["image"], value_set=own))

    names = ("image", "label", "score")

    def ranked() -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
        for part in (*found, *beyond(*names)):
            image, label, score = (part[name].to_numpy() for name in names)
            yield image, label, score

    cuts = Cuts.of(ranked, categories, best)
    kept = [pa.table([pa.array([], kind) for kind in BOXES.types], schema=BOXES)]
    for batch in beyond(*BOXES.names):
        within = cuts.within(*(batch[name].to_numpy() for name in names))
        there = pc.and_(pa.array(within), pc.is_valid(batch["x"]))
        kept.append(pa.Table.from_batches([batch.filter(there)], schema=BOXES))
    table = pa.concat_tables(found)
    within = cuts.within(*(table[name].to_numpy() for name in names))
    return Unlimited(within, Detections.from_table(pa.concat_tables(kept))), cuts
